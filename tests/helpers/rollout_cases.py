"""Questions with one picture each, the stage that samples for them, and a step of it."""

import dataclasses

import jax
import numpy as np
from PIL import Image

from r1v3_jax.config import GRPO
from r1v3_jax.losses import TokenMean
from r1v3_jax.types import Example, StepInfo


def info(seed=0, limit=8, progress=1.0) -> StepInfo:
    return StepInfo(0, jax.random.key(seed), limit, progress)


def source(index: int) -> Example:
    picture = Image.fromarray(np.full((28, 28, 3), 40 * index % 256, np.uint8))
    return Example(str(index), (picture,), "what" + "?" * (index % 5), str(index))


CONFIG = GRPO(
    train=source,
    prompts=4,
    group_size=3,
    max_prompt_tokens=100,
    max_completion_tokens=8,
    tiles=4,
    aggregation=TokenMean(),
)


def host(groups):
    """What there is to compare of groups."""
    return [
        (
            group.example.id,
            group.texts,
            [dataclasses.asdict(score) for score in group.scores],
            *(
                getattr(group.completions, x).tolist()
                for x in ("tokens", "lengths", "ended")
            ),
        )
        for group in groups
    ]
