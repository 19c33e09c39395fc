"""A reference that follows the policy: an average of its weights.

GRPO-CARE (arXiv 2506.16141) has one with decay 0.995 every 10 steps.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import GRPO
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.run.program import Program, concrete, lower_on_mesh


def followed(
    config: GRPO, step: int, reference: R1V3 | None, model: R1V3
) -> R1V3 | None:
    """Returns the reference after `step`, from 0, of a stage; `model`: the weights after it.

    every 10, decay 0.995: after steps 9, 19, ... it is 0.995 reference + 0.005 model.
    """
    if not config.follows:
        return reference
    is_due = (step + 1) % config.reference_every == 0
    # In the other steps 1 keeps every bit: what runs in each step is compiled in the first.
    decay = config.reference_decay if is_due else 1.0
    return follow(reference, model, jnp.float32(decay))


@functools.partial(jax.jit, donate_argnums=0)
def follow(reference: R1V3, model: R1V3, decay: jax.Array) -> R1V3:
    """Returns decay * reference + (1 - decay) * model, weight by weight, in the reference's dtype.

    Computed in float32. With decay 1 it is the reference, bit for bit.
    """
    graph, weights = nnx.split(reference)

    def average(old, new):
        mean = decay * old.astype(jnp.float32) + (1 - decay) * new.astype(jnp.float32)
        return mean.astype(old.dtype)

    return nnx.merge(graph, jax.tree.map(average, weights, nnx.state(model)))


def following_programs(config: GRPO, mesh, model: R1V3, resident: int) -> list[Program]:
    """Returns the program of a reference that follows, with the shapes it gets, for the dry run.

    model: shapes. resident: bytes on a chip beside the two models.
    """
    if not config.follows:
        return []
    decay = concrete(jax.ShapeDtypeStruct((), jnp.float32), mesh)
    lower = lower_on_mesh(mesh, lambda: follow.lower(model, model, decay))
    return [Program("follow", lower, resident=resident)]
