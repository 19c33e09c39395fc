"""Models with adapters whose numbers are not 0."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from r1v3_jax.models import build
from r1v3_jax.models.lora import Adapters
from r1v3_jax.models.r1v3 import R1V3


def copied(model: R1V3) -> R1V3:
    """The same numbers in arrays of its own."""
    return jax.tree.map(jnp.copy, model)


def with_random_factors(model: R1V3, adapters: Adapters, **options) -> R1V3:
    """A copy of the model with adapters whose B is not 0."""
    fresh = build.with_adapters(copied(model), adapters, seed=1, **options)
    graph, state = nnx.split(fresh)
    rng = np.random.default_rng(2)

    def fill(path, variable):
        if "adapters" not in path:
            return variable
        noise = 0.1 * rng.normal(size=variable.get_value().shape)
        return variable.replace(jnp.asarray(noise, jnp.float32))

    return nnx.merge(graph, nnx.map_state(fill, state))
