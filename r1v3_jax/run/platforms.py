"""Which settings go with which kind of device: "cpu", "gpu" or "tpu", as jax calls them."""

import jax
from absl import logging

from r1v3_jax.config import Compute

NAMES = {"cpu": "a CPU", "gpu": "a GPU", "tpu": "a TPU"}
# Kernels of `Compute.attention`, and where each runs.
KERNELS = {"splash": "tpu", "cudnn": "gpu"}
# What would do instead, by device.
ADVICE = {
    "cpu": "'reference' would do",
    "gpu": "'cudnn' (bfloat16 only) or 'reference' would do",
    "tpu": "'splash' or 'reference' would do",
}


def named_platform() -> str:
    """Returns the kind of device that JAX_PLATFORMS names, "" if it leaves the choice to jax.

    Asks for no device, so that it may be called before the processes of a run are started.
    """
    names = (jax.config.jax_platforms or "").split(",")
    # The first counts: of "cuda,cpu" the second is for what must be on the host.
    kinds = {"cuda": "gpu", "rocm": "gpu", "cpu": "cpu", "gpu": "gpu", "tpu": "tpu"}
    return kinds.get(names[0], "")


def check_platform(compute: Compute, platform: str) -> None:
    """Raises ValueError if `compute.attention` is a kernel of another kind of device."""
    attention = compute.attention
    wanted = KERNELS.get(attention, platform)
    if wanted != platform:
        raise ValueError(
            f"Compute.attention is {attention!r}, a kernel for {NAMES[wanted]}, and this is "
            f"{NAMES[platform]}; {ADVICE[platform]}"
        )


def warn_of_int8(platform: str) -> None:
    """Says that matrices of 8 bits save a GPU memory and cost it time.

    There is no kernel that multiplies them as they are: XLA writes each out in 16 bits first, and
    reads that again, 5 bytes a weight where bfloat16 reads 2.
    """
    if platform == "gpu":
        logging.warning(
            "rollout_int8: on a GPU a matrix of 8 bits is multiplied out in memory first, which "
            "takes longer than one of 16 bits; leave it out unless the weights do not fit"
        )
