"""Checks heat maps on pictures whose evidence is known: the digits of configs/digits.py, and noise.

python tools/heat_check.py --checkpoint=runs/digits/grpo/done --questions=80 --out=heat.json

A policy that copies the digits of a picture in reading order is asked about held-out ones, about
noise, and about pictures with noise in the top left cell alone. What is measured: the docstring of
`evaluate/heat_check.py`; what came out: docs/results/heat.md. Exit code 1 if the maps fail.
"""

import sys
from pathlib import Path

import numpy as np
from absl import flags

from r1v3_jax import cli
from r1v3_jax.evaluate.heat_check import (
    PICTURES,
    heat_of_question,
    measures,
    summary,
)
from r1v3_jax.files import write_json
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.run import weights
from r1v3_jax.tasks.digits import Digits

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Of a digits run, as runs/digits/grpo/done.", required=True
)
QUESTIONS = flags.DEFINE_integer("questions", 80, "Held-out pictures.", 2)
SEED = flags.DEFINE_integer("seed", 7, "Of the pictures and of the noise.")
OUT = flags.DEFINE_string("out", None, "A .json for the numbers of each question.")


def main():
    config, _ = weights.read_config(CHECKPOINT.value)
    tokenizer = load(f"{CHECKPOINT.value}/tokenizer", text_only=False)
    tokenizer.check_model(config)
    processor = Processor(config, tokenizer)
    questions = Digits(split="held_out", seed=SEED.value)
    model = weights.load_weights(CHECKPOINT.value)
    rng = np.random.default_rng(SEED.value)

    # 1. The heat of every question.
    heats = []
    for i in range(QUESTIONS.value):
        example = questions.example(i, "read")
        heats.append(heat_of_question(model, processor, example, rng))
        if (i + 1) % 20 == 0:
            print(f"{i + 1} of {QUESTIONS.value} questions", file=sys.stderr)
    if OUT.value:
        rows = [{k: np.round(x, 6).tolist() for k, x in heat.items()} for heat in heats]
        write_json(Path(OUT.value), {"heat": rows})

    # 2. What it says.
    found = {
        name: summary([measures(heat[name]) for heat in heats]) for name in PICTURES
    }
    print(f"{QUESTIONS.value} questions; mean and 95% interval")
    for name, of_places in found.items():
        for places, intervals in of_places.items():
            words = [
                f"{measure} {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
                for measure, (mean, low, high) in intervals.items()
            ]
            print(f"{name:7} {places:10}  {'  '.join(words)}")

    # 3. The bar: evidence where there is a digit, none where there is none.
    lows = {name: found[name]["top left"]["evidence"][1] for name in PICTURES}
    holds = lows["digits"] > 0 and lows["noise"] <= 0 and lows["erased"] <= 0
    print(f"evidence over the right cell on digits, and none without a digit: {holds}")
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
