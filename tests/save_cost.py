"""What a save costs: the same GRPO or SFT steps with a state saved every ten steps, and with none.

    python tests/save_cost.py --stage=grpo --steps=20 --pairs=3

Pairs of runs in turn, in one process after a warm-up; per pair the seconds of a step, wall and CPU,
with saves over without. Checksums are part of a save.
"""

import argparse
import dataclasses
import resource
import statistics
import tempfile
import time
from pathlib import Path

import jax

from r1v3_jax import pipeline
from r1v3_jax.config_files import load_config
from r1v3_jax.models import r1v3
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages import grpo, sft


def seconds(config, stage: str) -> tuple[float, float]:
    """Wall and CPU seconds of a stage, its last save left out as far as it goes on after it."""
    with tempfile.TemporaryDirectory() as directory:
        context = pipeline.prepare(config, Path(directory), quiet=True)
        model = r1v3.init(config.model, config.compute, seed=0)
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        run = grpo.run if stage == "grpo" else sft.run
        run(context, stage, getattr(config, stage), model)
        took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=("grpo", "cold_start"), default="grpo")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    digits = load_config("digits")

    def config(every: int, steps: int):
        changes = {"steps": steps, "checkpoint_every": every}
        off = {"evaluate_every": 0} if arguments.stage == "grpo" else {"validate_every": 0}
        stage = dataclasses.replace(getattr(digits, arguments.stage), **changes, **off)
        return dataclasses.replace(digits, **{arguments.stage: stage})

    ratios = []
    with jax.set_mesh(make_mesh(digits.mesh)):
        seconds(config(10, 10), arguments.stage)
        for _ in range(arguments.pairs):
            often = seconds(config(10, arguments.steps), arguments.stage)
            once = seconds(config(arguments.steps, arguments.steps), arguments.stage)
            # Both save their last step, so the difference is of the saves before it.
            saves = arguments.steps // 10 - 1
            ratios.append(
                [
                    1 + (a - b) / saves * (arguments.steps / 10) / b
                    for a, b in zip(often, once, strict=True)
                ]
            )
            pairs = zip(("wall", "CPU"), often, once, strict=True)
            print(", ".join(f"{name} {a:.2f} s with, {b:.2f} without" for name, a, b in pairs))
    for name, column in zip(("wall", "CPU"), zip(*ratios, strict=True), strict=True):
        print(f"{name}: {statistics.median(column):.4f} ({min(column):.4f} to {max(column):.4f})")


if __name__ == "__main__":
    main()
