"""What a save costs beside the steps between two of them.

    python tests/save_cost.py --stage=grpo --steps=10 --saves=20

Steps of the digits run without a save, then saves of its state, checksums included, one after the
other. A save every `steps` steps adds to them: at least the seconds for which it holds the loop up,
at most all its CPU seconds, if no core were free while it goes on.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import jax

from r1v3_jax.config import load_config
from r1v3_jax.models import build
from r1v3_jax.pipeline import pipeline
from r1v3_jax.run import metrics
from r1v3_jax.run.checkpoints import States
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages.kinds import kind_of
from r1v3_jax.train import update
from r1v3_jax.train.optimizer import trainable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=("grpo", "cold_start"), default="grpo")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--saves", type=int, default=20)
    arguments = parser.parse_args()
    name, steps = arguments.stage, arguments.steps
    off = {"evaluate_every": 0} if name == "grpo" else {"validate_every": 0}
    digits = load_config("digits")
    # The first steps compile; the last one saves when its time is taken.
    changes = {"steps": steps + 3, "checkpoint_every": steps + 3, **off}
    config = dataclasses.replace(
        digits,
        stages={
            **digits.stages,
            name: dataclasses.replace(digits.stages[name], **changes),
        },
    )
    stage = kind_of(config.stages[name])
    with (
        jax.set_mesh(make_mesh(config.mesh)),
        tempfile.TemporaryDirectory() as directory,
    ):
        context = pipeline.prepare(config, Path(directory), quiet=True)
        marks = []
        log = metrics.Logger.log

        def marked(self, step, values):
            log(self, step, values)
            marks.append((time.perf_counter(), time.process_time()))

        metrics.Logger.log = marked
        model = build.init(config.model, config.compute, seed=0)
        stage.run(context, name, config.stages[name], model)
        wall, cpu = (b - a for a, b in zip(marks[2], marks[-1], strict=True))
        print(f"{name}: {steps} steps take {wall:.2f} s, {cpu:.2f} of CPU")

        optimizer, _ = stage.make_update(config.stages[name])
        learns = trainable(config.stages[name].trainable)
        model = build.init(config.model, config.compute, seed=0)
        state = update.create(model, optimizer, learns)
        states, held, used = States(Path(directory) / "saves"), [], []
        for number in range(arguments.saves + 1):
            began, cpu_began = time.perf_counter(), time.process_time()
            states.save(number, state, {})
            held.append(time.perf_counter() - began)
            states.wait()
            used.append(time.process_time() - cpu_began)
    for what, each, total in (("held up", held, wall), ("CPU", used, cpu)):
        share = [100 * x / total for x in each[1:]]
        print(
            f"{what}: a save {statistics.median(each[1:]):.3f} s, {statistics.median(share):.2f}% "
            f"of the steps ({min(share):.2f} to {max(share):.2f})"
        )


if __name__ == "__main__":
    main()
