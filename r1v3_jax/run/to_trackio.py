"""The process that sends a run to Trackio; started by `trackers.Tracker`."""

import io
import math
import sys

import trackio
from PIL import Image

from r1v3_jax.run.trackers import ShownSample, serve


def begin(project: str, id: str, folder: str, name: str, config: dict) -> str:
    """Begins the run, or goes on with it; returns where it is to be seen."""
    trackio.init(
        project=project, name=f"{name}-{id}", resume="allow", config=config, embed=False
    )
    return f"{name}-{id}; trackio show --project {project}"


def log(stage: str, step: int, values: dict[str, float]) -> None:
    """Sends the finite numbers of a step, as STAGE/NAME."""
    trackio.log(
        {f"{stage}/{k}": value for k, value in values.items() if math.isfinite(value)},
        step=step,
    )


def show(stage: str, step: int, samples: list[ShownSample]) -> None:
    """Sends samples as a table with their pictures."""
    rows = []
    for s in samples:
        row = {"id": s.id, "prompt": s.prompt, "wanted": s.wanted}
        row |= {"completion": s.completion, "verdict": s.verdict, "reward": s.reward}
        if s.picture:
            picture = Image.open(io.BytesIO(s.picture)).convert("RGB")
            row["image"] = trackio.Image(picture)
        rows.append(row)
    trackio.log({f"{stage}/samples": trackio.Table(data=rows)}, step=step)


def summary(values: dict[str, float]) -> None:
    """Sends numbers of the whole run."""
    trackio.log(values)


def finish(exit_code: int) -> None:
    """Ends the run there."""
    trackio.finish()


if __name__ == "__main__":
    sys.exit(serve(begin, log, show, summary, finish))
