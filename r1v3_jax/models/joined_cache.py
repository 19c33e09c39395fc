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

All samples write to the same slot, here 6 + 3 next.

Where more samples wait, the C slots are a ring: behind the last, the first is written again. A
sample that takes the place of one that has ended gets a copy of its own prompt there (`refilled`)
and begins in the slot that is next. Two samples of a third prompt, when the next slot is 1:

    began in slot 2                      sample 4  [g h i - - -|y - v w x]   sees g h i v w x y
    began in slot 4                      sample 5  [g h i - - -|m - - - l]   sees g h i l m

Where a dash stands there may be keys of a sample before, which nobody sees. Each sample's sums are
in the order of the slots, so they are rounded by where it began; once nothing is under way, the
ring begins anew. Every pass reads all of a ring, so a long one has no advantage.

Copies cost memory, so they are made only where they are small (`is_joined`). Letters as in
`layers.py`.
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
# A ring is read whole, the cache of shared prompts only as far as its longest sample. With answers
# of about 100 tokens a ring of 2,048 slots takes as long as that cache, one of 4,000 takes longer.
MOST_RING_SLOTS = 2048
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
    # int32[B]: a sample has so many of the slots, those written last. 0: it reads its prompt only.
    lengths: jax.Array
    step: jax.Array  # int32[], the slot that is written next
    prompt_slots: int = dataclasses.field(metadata={"static": True})  # T
    # Of a ring: the prompts that copies are made of, and int32[B], the prompt of each sample.
    # None: each sample keeps its place, and the C slots are written once.
    prompt: PromptCache | None = None
    rows: jax.Array | None = None

    @property
    def positions(self) -> jax.Array:
        """int32[B]: the position of each sample's next token."""
        return self.prompt_lengths + self.lengths

    @property
    def sections(self) -> tuple[int, ...]:
        """The numbers of a sample's slots up to which loops over tokens go; not of a ring.

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
        slots = self.v[0].shape[2]
        slot = jnp.arange(slots)
        own = slot - self.prompt_slots
        if self.rows is None:
            first = self.step - self.lengths
            is_sampled = (own >= first[:, None]) & (own <= self.step)
        else:
            # In a ring of 5 with step 1, the slots 0 to 4 were written 1, 0, 4, 3 and 2 steps ago.
            age = (self.step - own) % (slots - self.prompt_slots)
            is_sampled = age <= self.lengths[:, None]
        is_prompt = slot < self.prompt_lengths[:, None]
        return jnp.where(own < 0, is_prompt, is_sampled)

    def stepped(
        self, k: tuple[jax.Array, ...], v: tuple[jax.Array, ...]
    ) -> "JoinedCache":
        """Returns the cache after a token was written to each sample's next slot."""
        step = self.step + 1
        if self.rows is not None:
            step %= self.v[0].shape[2] - self.prompt_slots
        return dataclasses.replace(self, k=k, v=v, step=step)


def is_joined(
    prompt: PromptCache, compute: Compute, samples: int, ring_slots: int = 0
) -> bool:
    """Tells whether samples of these prompts are decoded with a joined cache.

    On one CPU, without kernels, for a model of few layers, if the prompts' copies are small.
    samples: that are decoded at a time. ring_slots: 0 if none wait.
    """
    L, _, K, T, H = prompt.k.shape
    copies = samples * T * 2 * K * H * prompt.k.dtype.itemsize
    is_small = L <= MOST_LAYERS and copies <= COPY_BYTES
    is_short = ring_slots <= MOST_RING_SLOTS
    has_no_kernels = compute.attention == "reference"
    return has_no_kernels and is_small and is_short and _is_one_cpu()


def _is_one_cpu() -> bool:
    """Tells whether programs are made for one CPU; a mesh may be that of an absent machine."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend() == "cpu"
    device = mesh.abstract_device
    return mesh.size == 1 and device is not None and device.device_kind == "cpu"


def join(
    prompt: PromptCache,
    compute: Compute,
    *,
    max_tokens: int,
    group_size: int = 1,
    rows: jax.Array | None = None,
) -> JoinedCache:
    """Returns a cache without tokens for `group_size` samples of each prompt.

    max_tokens: slots of a sample. rows: int32[B], the prompt of each sample, which others will
    follow (`refilled`); instead of `group_size`.
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
            in_specs=(stacked, stacked, row, row),
            out_specs=(spec, spec, row),
            check_vma=False,
        )
        lengths = jax.reshard(lengths, row)
    k, v, prompt_lengths = copy_all(prompt.k, prompt.v, lengths, rows)
    return JoinedCache(
        k=k,
        v=v,
        prompt_lengths=prompt_lengths,
        lengths=jnp.zeros_like(prompt_lengths),
        step=jnp.int32(0),
        prompt_slots=prompt.k.shape[3],
        prompt=None if rows is None else prompt,
        rows=rows,
    )


def _copies(k, v, lengths, rows, *, group_size: int, max_tokens: int):
    """Returns the keys (transposed), values and prompt lengths of `join`."""

    def of_samples(x, axis):
        if rows is None:
            return jnp.repeat(x, group_size, axis=axis)
        return jnp.take(x, rows, axis=axis)

    def each_layer(stacked):
        copies = of_samples(stacked, 1)
        return tuple(jnp.pad(copies, ((0, 0),) * 3 + ((0, max_tokens), (0, 0))))

    k = tuple(jnp.swapaxes(entry, 2, 3) for entry in each_layer(k))
    return k, each_layer(v), of_samples(lengths, 0)


def refilled(cache: JoinedCache, is_refilled: jax.Array) -> JoinedCache:
    """Returns the cache with prompt rows[b] in front of each sample b that `is_refilled`, bool[B].

    Those have 0 in `lengths`. Where no sample has a token the ring begins anew: the sums of those
    that come then do not depend on what was there before, to the bit.
    """
    stored = (cache.k, cache.v, cache.prompt_lengths)
    arrays = (*stored, cache.prompt, cache.rows, is_refilled)
    k, v, prompt_lengths = each_shard(_refill, *arrays, like=stored)
    is_under_way = jnp.any(cache.lengths > 0)
    return dataclasses.replace(
        cache,
        k=k,
        v=v,
        prompt_lengths=prompt_lengths,
        step=jnp.where(is_under_way, cache.step, 0),
    )


def _refill(k, v, prompt_lengths, prompt: PromptCache, rows, is_refilled):
    """Does `refilled` for one device; few samples change at a time, so it copies one by one."""
    # The refilled samples in front: with [F T F T] they are 1 and 3.
    changed = jnp.argsort(~is_refilled, stable=True)

    def copy_one(i, stored):
        k, v = stored
        sample = changed[i]
        row = rows[sample]
        start = (sample, 0, 0, 0)
        new_k = []
        new_v = []
        for layer, (keys, values) in enumerate(zip(k, v, strict=True)):
            key = jnp.swapaxes(prompt.k[layer, row], 1, 2)
            value = prompt.v[layer, row]
            new_k.append(jax.lax.dynamic_update_slice(keys, key[None], start))
            new_v.append(jax.lax.dynamic_update_slice(values, value[None], start))
        return tuple(new_k), tuple(new_v)

    k, v = jax.lax.fori_loop(0, jnp.sum(is_refilled), copy_one, (k, v))
    return k, v, jnp.where(is_refilled, prompt.lengths[rows], prompt_lengths)


def write_token(cache: JoinedCache, layer: int, k: jax.Array, v: jax.Array):
    """Returns keys and values of `layer` with k, v [B, K, H] in the next slot.

    Writes nothing if all slots are taken. A ring always has a next slot: a sample with C tokens
    would lose its first, so its caller stops it before.
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
