"""How often a checkpoint of ours solves each question that GRPO would ask it.

python tools/pass_rates.py --config=tpu_v5e_8 --checkpoint=CHECKPOINT --out=rates.jsonl

One line a question: index, id, source, pass_rate, samples. Questions that are always or never
solved teach GRPO nothing: `mixtures.ByPassRate(source, "rates.jsonl")` leaves them out, and
`mixtures.Curriculum` can go from the easy ones to the hard ones.
"""

from pathlib import Path

import jax
from absl import flags

from r1v3_jax import cli, config_files, distill
from r1v3_jax.metrics import write_jsonl

CONFIG = flags.DEFINE_string("config", None, "Whose GRPO asks the questions.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The policy, a directory.", required=True)
OUT = flags.DEFINE_string("out", None, "JSON lines to write.", required=True)
EXAMPLES = flags.DEFINE_integer(
    "examples", None, "Questions to ask; default: one pass, where the data has an end.", 1
)
SAMPLES = flags.DEFINE_integer("samples", 8, "Samples of each.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 64, "Questions at a time.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Of the samples.", lower_bound=0.0)
SEED = flags.DEFINE_integer("seed", 0, "Of the samples.")


def main():
    if not Path(OUT.value).absolute().parent.is_dir():
        raise ValueError(f"--out={OUT.value}: its directory does not exist")
    config = config_files.load_config(CONFIG.value)
    source = config.grpo.train
    if EXAMPLES.value is None and not hasattr(source, "__len__"):
        raise ValueError(f"the questions of {CONFIG.value} have no end; give --examples=N")
    sampler, model = distill.load(
        config,
        CHECKPOINT.value,
        samples=SAMPLES.value,
        batch=BATCH.value,
        temperature=TEMPERATURE.value,
    )
    count = EXAMPLES.value or len(source)
    rows = distill.pass_rates(
        sampler, model, source, count, BATCH.value, jax.random.key(SEED.value)
    )  # fmt: skip
    write_jsonl(OUT.value, rows)
    never = sum(row["pass_rate"] == 0 for row in rows)
    always = sum(row["pass_rate"] == 1 for row in rows)
    print(
        f"{OUT.value}: {len(rows)} questions; {always} always solved, {never} never, "
        f"{len(rows) - always - never} between"
    )


if __name__ == "__main__":
    cli.run(main)
