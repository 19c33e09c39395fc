"""What the engine takes of a device's memory, counted before any weight is read.

Weights and slots are counted from their shapes. What the programs need while they run is estimated;
`tpu.serving` asks the TPU compiler for it.
"""

import dataclasses
import math
import os

import jax
from flax import nnx

from r1v3_jax.config import Compute, ModelConfig
from r1v3_jax.engine.programs import Sizes, empty_state
from r1v3_jax.engine.sizes import EngineSettings, sizes_of
from r1v3_jax.models import build
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sharding import mesh_size

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    weights: int
    a_slot: int  # one more slot, split over the devices that share the slots
    beside: int  # that a state without slots has
    working: int  # of the program that needs most, estimated

    def slots(self, limit: int, groups: int = 1) -> int:
        """Returns how many slots fit into `limit` bytes, a multiple of `groups`; 0 if none."""
        left = limit - self.weights - self.beside - self.working
        slots = max(0, left) // self.a_slot
        return int(slots // groups * groups)


def memory_of(
    config: ModelConfig, compute: Compute, settings: EngineSettings, mesh
) -> Memory:
    """Counts what the engine takes on each device of a mesh (an empty one: one device)."""
    groups = mesh_size(mesh, compute.rules.batch)

    def state_bytes(slots: int) -> int:
        changed = dataclasses.replace(settings, slots=slots)
        sizes = sizes_of(config, compute, changed, mesh)
        return bytes_on_device(abstract_state(config, compute, sizes, mesh))

    # Two sizes give a line.
    few = state_bytes(groups)
    more = state_bytes(2 * groups)
    a_slot = (more - few) // groups
    sizes = sizes_of(config, compute, settings, mesh)
    weights = bytes_on_device(abstract_model(config, compute, mesh, settings.int8))
    return Memory(
        weights=weights,
        a_slot=a_slot,
        beside=few - a_slot * groups,
        working=working_bytes(config, compute, sizes, mesh),
    )


def abstract_model(config: ModelConfig, compute: Compute, mesh, int8: bool) -> R1V3:
    """Returns the shapes of the weights as the engine has them."""
    model = build.abstract(config, compute, None if mesh.empty else mesh)
    if not int8:
        return model
    with _on(mesh):
        state = jax.eval_shape(
            lambda weights: build.reshard(weights, compute, True), nnx.state(model)
        )
    return nnx.merge(nnx.graphdef(model), state)


def abstract_state(config: ModelConfig, compute: Compute, sizes: Sizes, mesh):
    """Returns the shapes of the engine's state."""
    model = build.abstract(config, compute, None if mesh.empty else mesh)
    with _on(mesh):
        return jax.eval_shape(
            lambda model: empty_state(model, sizes, banned=(), think_end=()), model
        )


def _on(mesh):
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def bytes_on_device(tree) -> int:
    """Returns the bytes of one device's part of the arrays in a tree of shapes."""
    total = 0
    for x in jax.tree.leaves(tree):
        shape = x.shape
        if getattr(x, "sharding", None) is not None:
            shape = x.sharding.shard_shape(x.shape)
        # A random key has no size of its own: it is two words.
        size = 8 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else None
        total += math.prod(shape) * (size or x.dtype.itemsize)
    return total


def working_bytes(config: ModelConfig, compute: Compute, sizes: Sizes, mesh) -> int:
    """Estimates what the program needs that needs most: reading the longest prompt.

    Its keys and values, some copies of its hidden states, the hidden width of one layer, and
    without a kernel the scores of all pairs of tokens.
    """
    text = config.text
    size = 2 if compute.dtype == "bfloat16" else 4
    shards = mesh_size(mesh, compute.rules.mlp)
    heads = mesh_size(mesh, compute.rules.kv_heads)
    tokens = sizes.cache_tokens
    cached = 2 * text.layers * tokens * text.kv_heads * text.head_dim * size // heads
    hidden = tokens * (6 * text.embed + 3 * text.mlp // shards) * size
    scores = 0
    if compute.attention == "reference":
        scores = 2 * 4 * tokens * tokens * text.heads // heads
    # Sampling sorts the vocabulary of every slot, in float32.
    batch = mesh_size(mesh, compute.rules.batch)
    sorting = 4 * 4 * text.padded_vocab * sizes.slots // batch
    return max(cached + hidden + scores, sorting)


def device_bytes() -> int:
    """Returns the memory of a device that programs may use; of a CPU its share of the machine's."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return int(limit)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // jax.local_device_count()


def check_memory(memory: Memory, settings: EngineSettings, limit: int, mesh) -> None:
    """Raises ValueError if the slots do not fit into `limit` bytes, with how many would."""
    # Both tables split rows over the same axis of a mesh.
    fit = memory.slots(limit, groups_of(mesh))
    if settings.slots <= fit:
        return
    room = f"{settings.max_prompt_tokens} + {settings.max_tokens} tokens"
    taken = (
        f"of {limit / GIB:.2f} GiB a device the weights take {memory.weights / GIB:.2f}, "
        f"the programs about {(memory.working + memory.beside) / GIB:.2f} and each slot of "
        f"{room} {memory.a_slot / GIB:.3f}"
    )
    if fit:
        raise ValueError(
            f"{fit} slots fit, {settings.slots} do not: {taken}; take --slots={fit}, or fewer "
            "tokens a slot"
        )
    raise ValueError(
        f"no slot fits: {taken}; take more devices (--mesh), fewer tokens a slot, or matrices of "
        "8 bits (--rollout_int8)"
    )


def groups_of(mesh) -> int:
    """Returns the number of groups of devices that the slots are split over."""
    return mesh_size(mesh, build.DECODE.batch)
