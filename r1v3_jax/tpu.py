"""TPU slices by name, and the TPU compiler for one that is not there.

"v5p:4x4x8" is 128 chips of a v5p in a torus of 4 x 4 x 8. The package libtpu holds the whole
compiler; with the environment that `environment` names it serves any slice on any machine.
"""

import os

from r1v3_jax.config.topology import Slice


def environment(topology: Slice) -> dict[str, str]:
    """Variables with which libtpu compiles for `topology` here, also several at once."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
        "TPU_ACCELERATOR_TYPE": topology.accelerator_type,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def devices(topology: Slice) -> list:
    """The chips of a slice that is not there, to compile for. Sets the environment.

    ImportError without the package libtpu.
    """
    os.environ.update(environment(topology))
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'the TPU compiler is not installed; pip install "r1v3_jax[tpu]"'
        ) from error
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")  # jax may have been imported before
    return topologies.get_topology_desc(platform="tpu", topology_name=topology.name).devices
