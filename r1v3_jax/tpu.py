"""TPU slices by name, and the TPU compiler for one that is not there.

"v5p:4x4x8" is 128 chips of a v5p in a torus of 4 x 4 x 8. The package libtpu holds the whole
compiler; with the environment that `environment` names it serves any slice on any machine.
"""

import dataclasses
import functools
import os
from pathlib import Path

FLAGS = Path(__file__).parent / "data_files" / "tpu_flags.txt"


@dataclasses.dataclass(frozen=True)
class Slice:
    """kind: "v5p", ...; dims: chips along each axis of the torus; `name` has both."""

    kind: str
    dims: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.dims))}"

    @property
    def chips(self) -> int:
        return functools.reduce(lambda a, b: a * b, self.dims)

    @property
    def hosts(self) -> int:
        """Machines of the slice: 4 chips each, up to 8 in one where a v5e or v6e slice has no
        more.
        """
        return 1 if self.kind != "v5p" and self.chips <= 8 else max(1, self.chips // 4)

    @property
    def accelerator_type(self) -> str:
        """What Google calls it: v5p counts the two cores of a chip."""
        count = 2 * self.chips if self.kind == "v5p" else self.chips
        return f"{'v5litepod' if self.kind == 'v5e' else self.kind}-{count}"


# Slices that Google rents, by kind: sizes of each axis. From 4x4x4 on any v5p slice whose sizes are
# multiples of 4.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
KINDS = {"v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"), "v5e": FLAT, "v6e": FLAT}


def parse(name: str) -> Slice:
    """The slice of that name; ValueError if there is none, with names that would do."""
    kind, _, sizes = name.partition(":")
    if kind not in KINDS:
        raise ValueError(f"topology {name!r}: kinds are {', '.join(KINDS)}, as in v5p:4x4x8")
    dims = tuple(int(n) for n in sizes.split("x") if n.isdecimal())
    large = kind == "v5p" and len(dims) == 3 and all(n and n % 4 == 0 for n in dims)
    if sizes not in KINDS[kind] and not (large and sizes == "x".join(map(str, sorted(dims)))):
        more = ", or multiples of 4 in rising order" if kind == "v5p" else ""
        raise ValueError(f"topology {name!r}: {kind} has {', '.join(KINDS[kind])}{more}")
    return Slice(kind, dims)


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


def flags() -> dict[str, str]:
    """Options of the TPU compiler, from data_files/tpu_flags.txt."""
    lines = [line.partition("#")[0].strip() for line in FLAGS.read_text().splitlines()]
    pairs = (line.partition("=") for line in lines if line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def set_init_args() -> None:
    """Gives the options to a TPU's runtime, through LIBTPU_INIT_ARGS, before it starts. What the
    variable says already stays, and wins.
    """
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    ours = [f"--{name}={value}" for name, value in flags().items() if f"--{name}=" not in given]
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([*ours, given]).strip()
