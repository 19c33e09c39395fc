"""Chains of thought for a cold start, sampled from a teacher checkpoint of ours.

python tools/distill.py --config=digits --checkpoint=runs/digits/grpo/done --out=chains.jsonl

The questions are those of the config's cold start. A chain is kept if its answer is right, its
format is, and it neither rambles nor runs over; the shortest one kept of a question is written.
Train on them with --config.cold_start.chains=chains.jsonl.
"""

from pathlib import Path

from absl import flags

from r1v3_jax import cli
from r1v3_jax.config import load
from r1v3_jax.distill import ask, chains
from r1v3_jax.files import write_jsonl

CONFIG = flags.DEFINE_string(
    "config", None, "Whose cold start asks the questions.", required=True
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The teacher, a directory.", required=True
)
OUT = flags.DEFINE_string("out", None, "JSON lines to write.", required=True)
EXAMPLES = flags.DEFINE_integer("examples", 1000, "Questions to ask.", lower_bound=1)
HOW = cli.define_sampling(samples=4)
MESH = cli.define_mesh()
MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", None, "Of a kept chain; default: all.", 1
)


def main():
    if not Path(OUT.value).absolute().parent.is_dir():
        raise ValueError(f"--out={OUT.value}: its directory does not exist")
    config = load.load_config(CONFIG.value)
    how = {name: HOW[name].value for name in HOW}
    source = config.stage_named("cold_start").train
    most = config.stage_named("grpo").max_completion_tokens
    keep = chains.Filter(most if MAX_TOKENS.value is None else MAX_TOKENS.value)
    with cli.set_mesh(MESH):
        groups = ask.ask(config, CHECKPOINT.value, source, EXAMPLES.value, **how)
        rows, verdicts = chains.chains(groups, keep)
    write_jsonl(OUT.value, rows)
    counted = ", ".join(
        f"{count} {verdict}" for verdict, count in sorted(verdicts.items())
    )
    print(
        f"{OUT.value}: {len(rows)} chains for {EXAMPLES.value} questions; samples: {counted}"
    )


if __name__ == "__main__":
    cli.run(main)
