"""Models of this program with random numbers in every weight, and their weights as numpy arrays."""

import jax
import numpy as np
from flax import nnx

from r1v3_jax.config import Compute, ModelConfig
from r1v3_jax.models import build, r1v3


def random_model(
    config: ModelConfig, compute: Compute | None = None, *, seed: int = 0
) -> r1v3.R1V3:
    """Makes a model with random norms and biases too; nothing is compiled."""
    rng = np.random.default_rng(seed)
    graph, state = nnx.split(build.abstract(config, compute or Compute()))

    def fill(path, variable):
        value = variable.get_value()
        name = path[-1]
        noise = 0.2 * rng.normal(size=value.shape) + ("norm" in name)
        if name in ("embedding", "head"):
            noise[config.text.vocab_size :] = 0  # pad rows
        return variable.replace(jax.device_put(noise.astype(value.dtype)))

    return nnx.merge(graph, nnx.map_state(fill, state))


def params(model: r1v3.R1V3) -> dict[str, np.ndarray]:
    numbers = {}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        value = jax.device_get(variable.get_value())
        numbers[".".join(path)] = np.asarray(value)
    return numbers
