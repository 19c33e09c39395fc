"""Measures how often a checkpoint of ours solves each question that GRPO would ask it.

python tools/pass_rates.py --config=tpu_v5e_8 --checkpoint=CHECKPOINT --mesh=8,1,1 --out=rates.jsonl

One line a question: index, id, source, pass_rate, reward_std, samples. Questions that are always or
never solved teach GRPO nothing: `mixtures.ByPassRate(source, "rates.jsonl")` leaves them out, and
`mixtures.Curriculum` can go from the easy ones to the hard ones.
"""

from pathlib import Path

from absl import flags

from r1v3_jax import cli
from r1v3_jax.config import load
from r1v3_jax.data import Rows
from r1v3_jax.distill import ask, keeps
from r1v3_jax.files import write_jsonl

CONFIG = flags.DEFINE_string(
    "config", None, "Whose GRPO asks the questions.", required=True
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The policy, a directory.", required=True
)
OUT = flags.DEFINE_string("out", None, "JSON lines to write.", required=True)
EXAMPLES = flags.DEFINE_integer(
    "examples",
    None,
    "Questions to ask; default: one pass, where the data has an end.",
    lower_bound=1,
)
DATA = flags.DEFINE_string(
    "data", None, "Rows to ask; default: what the config's GRPO asks."
)
ROOT = flags.DEFINE_string(
    "root", "", "The folder of --data's images; default: that of the file."
)
SCHEMA = flags.DEFINE_string("schema", "", "The layout of --data; default: recognised.")
SAMPLING = cli.define_sampling(samples=8)
MESH = cli.define_mesh()


def main():
    # 1. Everything that can be wrong, before hours of sampling.
    if not Path(OUT.value).absolute().parent.is_dir():
        raise ValueError(f"--out={OUT.value}: its directory does not exist")
    config = load.load_config(CONFIG.value)
    source = config.rewarded_stage().train
    if DATA.value:
        source = Rows(DATA.value, schema=SCHEMA.value, root=ROOT.value)
    if hasattr(source, "check"):  # a function of an index has nothing to check
        source.check()
    if EXAMPLES.value is None and not hasattr(source, "__len__"):
        raise ValueError(
            f"the questions of {CONFIG.value} have no end; give --examples=N"
        )

    # 2. Sampling.
    count = EXAMPLES.value or len(source)
    sampling = {name: flag.value for name, flag in SAMPLING.items()}
    with cli.set_mesh(MESH):
        groups = ask.ask(config, CHECKPOINT.value, source, count, **sampling)
        rows, _ = keeps.keep_all(groups, keeps.Rates())
    write_jsonl(OUT.value, rows)

    # 3. A summary. A question whose every verification failed has no rate.
    num_never = sum(row["pass_rate"] == 0 for row in rows)
    failed = sum(row["pass_rate"] is None for row in rows)
    always = sum(row["pass_rate"] == 1 for row in rows)
    between = len(rows) - always - num_never - failed
    print(
        f"{OUT.value}: {len(rows)} questions; {always} always solved, {num_never} never, "
        f"{between} between, {failed} not verified"
    )


if __name__ == "__main__":
    cli.run(main)
