"""Keys of prompts and samples joined in one row a sample: what one CPU decodes with.

A cache of shared prompts (`caches.py`) is attended to in three pieces: the prompt's keys, the
sample's, and the new token's. On a CPU that many small operations take longer than the arithmetic
in them, so there each sample has a copy of its prompt's keys in front of its own, one softmax sees
them all, and a layer has arrays of its own. The example of `caches.py`, prompts of up to T = 6
tokens and C = 5 slots a sample:

    prompt.k [L, 2, K, 6, H]             k[layer] [4, K, H, 11], transposed
    prompt 0  [a b c d - -]              sample 0  [a b c d - -|t u v - -]   sees a b c d t u v
                                         sample 1  [a b c d - -|t w x - -]
    prompt 1  [e f - - - -]              sample 2  [e f - - - -|y z t - -]   sees e f y z t
                                         sample 3  [e f - - - -|r s - - -]   has ended

All samples write to the same slot, here 6 + 3 next. Copies cost memory, so they are made only
where they are small (`is_joined`). Letters as in `layers.py`.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from r1v3_jax.config import Compute
from r1v3_jax.models.caches import PromptCache
from r1v3_jax.sharding import each_shard

# Copies of prompts that a layer holds, at most; a cache of a CPU's core has about as much.
COPY_BYTES = 4 * 2**20
# Each layer is compiled by itself.
MOST_LAYERS = 8
# A loop over tokens reads this many more slots than the one before it, at least.
SECTION_SLOTS = 32
SECTIONS = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class JoinedCache:
    """Keys and values of B samples in flight, behind those of their prompts."""

    k: tuple[jax.Array, ...]  # of each layer, float[B, K, H, T + C]
    v: tuple[jax.Array, ...]  # of each layer, float[B, K, T + C, H]
    prompt_lengths: jax.Array  # int32[B], of each sample's prompt
    # int32[B]: a sample has the last so many of the written slots. 0: it reads its prompt only.
    lengths: jax.Array
    step: jax.Array  # int32[], how many of the C slots are written
    prompt_slots: int = dataclasses.field(metadata={"static": True})  # T

    @property
    def positions(self) -> jax.Array:
        """int32[B]: the position of each sample's next token."""
        return self.prompt_lengths + self.lengths

    @property
    def sections(self) -> tuple[int, ...]:
        """The numbers of a sample's slots up to which loops over tokens go.

        XLA cannot read a number of slots that depends on data, so each section is a program: with
        C = 128 they end at 32, 64, 96 and 128, with C = 52 at 52.
        """
        slots = self.v[0].shape[2] - self.prompt_slots
        count = max(1, min(SECTIONS, slots // SECTION_SLOTS))
        return tuple(math.ceil(slots * n / count) for n in range(1, count + 1))

    def first(self, slots: int) -> "JoinedCache":
        """Returns the cache with the prompt and the first `slots` of each sample's slots only."""
        end = self.prompt_slots + slots
        k = tuple(entry[..., :end] for entry in self.k)
        v = tuple(entry[:, :, :end] for entry in self.v)
        return dataclasses.replace(self, k=k, v=v)

    def with_first(self, part: "JoinedCache") -> "JoinedCache":
        """Returns `part`, which came from `first`, with the other slots of this cache behind it."""

        def write(whole, part):
            return jax.lax.dynamic_update_slice(whole, part, (0, 0, 0, 0))

        k = jax.tree.map(write, self.k, part.k)
        v = jax.tree.map(write, self.v, part.v)
        return dataclasses.replace(part, k=k, v=v)

    def used(self) -> jax.Array:
        """Returns the slots that each sample's next token sees, itself included, bool[B, S]."""
        slot = jnp.arange(self.v[0].shape[2])
        own = slot - self.prompt_slots
        first = self.step - self.lengths
        is_sampled = (own >= first[:, None]) & (own <= self.step)
        is_prompt = slot < self.prompt_lengths[:, None]
        return jnp.where(own < 0, is_prompt, is_sampled)


def is_joined(prompt: PromptCache, compute: Compute, group_size: int) -> bool:
    """Tells whether `group_size` samples of each prompt are decoded with a joined cache.

    On one CPU, without kernels, for a model of few layers, if the prompts' copies are small.
    """
    L, P, K, T, H = prompt.k.shape
    copies = P * group_size * T * 2 * K * H * prompt.k.dtype.itemsize
    is_small = L <= MOST_LAYERS and copies <= COPY_BYTES
    return compute.attention == "reference" and is_small and _is_one_cpu()


def _is_one_cpu() -> bool:
    """Tells whether programs are made for one CPU; a mesh may be that of an absent machine."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend() == "cpu"
    device = mesh.abstract_device
    return mesh.size == 1 and device is not None and device.device_kind == "cpu"


def join(
    prompt: PromptCache, compute: Compute, *, max_tokens: int, group_size: int = 1
) -> JoinedCache:
    """Returns a cache without tokens for `group_size` samples of each prompt.

    max_tokens: slots of a sample.
    """
    rules = compute.rules
    copy_all = functools.partial(_copies, group_size=group_size, max_tokens=max_tokens)
    lengths = prompt.lengths
    row = rules.spec("batch")
    if row is not None:
        spec = rules.spec("batch", "kv_heads", None, None)
        stacked = rules.spec(None, "batch", "kv_heads", None, None)
        copy_all = jax.shard_map(
            copy_all,
            in_specs=(stacked, stacked, row),
            out_specs=(spec, spec, row),
            check_vma=False,
        )
        lengths = jax.reshard(lengths, row)
    k, v, prompt_lengths = copy_all(prompt.k, prompt.v, lengths)
    return JoinedCache(
        k=k,
        v=v,
        prompt_lengths=prompt_lengths,
        lengths=jnp.zeros_like(prompt_lengths),
        step=jnp.int32(0),
        prompt_slots=prompt.k.shape[3],
    )


def _copies(k, v, lengths, *, group_size: int, max_tokens: int):
    """Returns the keys (transposed), values and prompt lengths of `join`."""

    def each_layer(stacked):
        copies = jnp.repeat(stacked, group_size, axis=1)
        return tuple(jnp.pad(copies, ((0, 0),) * 3 + ((0, max_tokens), (0, 0))))

    k = tuple(jnp.swapaxes(entry, 2, 3) for entry in each_layer(k))
    return k, each_layer(v), jnp.repeat(lengths, group_size)


def write_token(cache: JoinedCache, layer: int, k: jax.Array, v: jax.Array):
    """Returns keys and values of `layer` with k, v [B, K, H] in the next slot.

    Writes nothing if all slots are taken.
    """

    def write(keys, values, k, v, step):
        slot = cache.prompt_slots + step
        is_free = slot < values.shape[2]
        keys = _write(keys, k[..., None], (0, 0, 0, slot), is_free)
        values = _write(values, v[:, :, None], (0, 0, slot, 0), is_free)
        return keys, values

    stored = (cache.k[layer], cache.v[layer])
    return each_shard(write, *stored, k, v, cache.step, like=stored)


def _write(stored, entry, start, is_free):
    old = jax.lax.dynamic_slice(stored, start, entry.shape)
    return jax.lax.dynamic_update_slice(stored, jnp.where(is_free, entry, old), start)
