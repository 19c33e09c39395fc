"""Writes held-out questions of a config as a TSV, for `r1v3_jax.evaluate` and for VLMEvalKit.

python tools/questions_tsv.py --config=digits --sets=normal,hard --out=data/digits.tsv

The sets are those of `evaluate.sets`; without --sets it is all of them, 500 questions of each. The
file is a benchmark of your own:

python -m r1v3_jax.evaluate --checkpoint=DIR --benchmark=digits --data=data --out=DIR
"""

from pathlib import Path

from absl import flags

from r1v3_jax import cli
from r1v3_jax.benchmarks import own_file
from r1v3_jax.config import load_config

CONFIG = flags.DEFINE_string(
    "config", None, "A config, by name or path.", required=True
)
SETS = flags.DEFINE_list("sets", [], "Names of evaluate.sets; none: all.")
QUESTIONS = flags.DEFINE_integer("questions", 500, "Of each set.", 1)
OUT = flags.DEFINE_string("out", None, "A file NAME.tsv to write.", required=True)


def main():
    """Writes the file and says how large it is."""
    path = Path(OUT.value)
    if path.suffix != ".tsv":
        raise ValueError(f"--out={path}: wanted NAME.tsv, as data/digits.tsv")
    there = dict(load_config(CONFIG.value).evaluate.sets)
    if not there:
        raise ValueError(f"--config={CONFIG.value} has no evaluate.sets to write")
    for name in SETS.value:
        if name not in there:
            raise ValueError(
                f"--sets={name}: no set of {CONFIG.value}; there are {', '.join(there)}"
            )
    sets = [(name, there[name]) for name in SETS.value or there]
    count = own_file.write(path, sets, QUESTIONS.value)
    print(f"{path}: {count} questions, {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    cli.run(main)
