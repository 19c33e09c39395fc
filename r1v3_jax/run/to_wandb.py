"""The process that sends a run to Weights & Biases; started by `trackers.Tracker`."""

import io
import sys
from pathlib import Path

import wandb
from PIL import Image

from r1v3_jax.run.trackers import ShownSample, serve

COLUMNS = ["step", "id", "image", "prompt", "wanted", "completion", "verdict", "reward"]


def begin(project: str, id: str, folder: str, name: str, config: dict) -> str:
    """Begins the run, or goes on with it; returns where it is to be seen."""
    run = wandb.init(
        project=project,
        name=name,
        id=id,
        resume="allow",
        dir=folder,
        config=config,
        settings=wandb.Settings(console="off", silent=True),
    )
    return run.url or f"offline, in {Path(run.dir).parent}; wandb sync sends it"


def log(stage: str, step: int, values: dict[str, float]) -> None:
    """Sends the numbers of a step, as STAGE/NAME against STAGE/step: each stage begins at 0."""
    of_step = f"{stage}/step"
    if stage not in known_stages:
        known_stages.add(stage)
        wandb.run.define_metric(of_step, hidden=True)
        wandb.run.define_metric(f"{stage}/*", step_metric=of_step)
    named = {f"{stage}/{name}": value for name, value in values.items()}
    wandb.run.log({of_step: step, **named})


known_stages: set[str] = set()


def show(stage: str, step: int, samples: list[ShownSample]) -> None:
    """Sends samples as a table with their pictures."""
    table = wandb.Table(columns=COLUMNS)
    for s in samples:
        image = None
        if s.picture:
            image = wandb.Image(Image.open(io.BytesIO(s.picture)))
        texts = (s.prompt, s.wanted, s.completion, s.verdict)
        table.add_data(step, s.id, image, *texts, s.reward)
    wandb.run.log({f"{stage}/step": step, f"{stage}/samples": table})


def summary(values: dict[str, float]) -> None:
    """Sends numbers of the whole run."""
    wandb.run.summary.update(values)


def finish(exit_code: int) -> None:
    """Ends the run there."""
    wandb.finish(exit_code=exit_code)


if __name__ == "__main__":
    sys.exit(serve(begin, log, show, summary, finish))
