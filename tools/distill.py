"""Samples chains of thought for a cold start from a teacher checkpoint of ours.

python tools/distill.py --config=digits --checkpoint=runs/digits/grpo/done --out=chains.jsonl

The questions are those of the config's cold start. A chain is kept if its answer and its format are
right and it neither rambles nor runs over; the shortest kept chain of each question is written.
Train on them with --config.cold_start.chains=chains.jsonl.
"""

from pathlib import Path

from absl import flags

from r1v3_jax import cli
from r1v3_jax.config import load
from r1v3_jax.distill import ask, keeps
from r1v3_jax.distill.filter import Filter
from r1v3_jax.files import write_jsonl

CONFIG = flags.DEFINE_string(
    "config", None, "Whose cold start asks the questions.", required=True
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The teacher, a directory.", required=True
)
OUT = flags.DEFINE_string("out", None, "JSON lines to write.", required=True)
EXAMPLES = flags.DEFINE_integer("examples", 1000, "Questions to ask.", lower_bound=1)
SAMPLING = cli.define_sampling(samples=4)
MESH = cli.define_mesh()
MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", None, "Of a kept chain; default: all.", lower_bound=1
)


def main():
    # Before hours of sampling, not after them.
    if not Path(OUT.value).absolute().parent.is_dir():
        raise ValueError(f"--out={OUT.value}: its directory does not exist")
    config = load.load_config(CONFIG.value)
    source = config.stage_named("cold_start").train
    keep = keeps.Shortest(filter=Filter(MAX_TOKENS.value or 0))
    sampling = {name: flag.value for name, flag in SAMPLING.items()}
    with cli.set_mesh(MESH):
        groups = ask.ask(config, CHECKPOINT.value, source, EXAMPLES.value, **sampling)
        # The sampling happens here: `ask` returns an iterator.
        rows, verdicts = keeps.keep_all(groups, keep)
    write_jsonl(OUT.value, rows)
    counts = [f"{count} {verdict}" for verdict, count in sorted(verdicts.items())]
    print(
        f"{OUT.value}: {len(rows)} chains for {EXAMPLES.value} questions; "
        f"samples: {', '.join(counts)}"
    )


if __name__ == "__main__":
    cli.run(main)
