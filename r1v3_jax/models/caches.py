"""Keys and values that decoding keeps: of prompts, and of the tokens sampled after them.

The G samples of a prompt share its one copy of keys and values. An example with P = 2 prompts, a
cache of S = 6 slots for them, G = 2 samples each and 5 slots a sample:

    prompt.k [L, 2, K, 6, H]                  k [L, 4, K, 5, H]
    prompt 0  [a b c d - -]  lengths[0] 4     sample 0  [t u v - -]  lengths[0] 3
                                              sample 1  [t w x - -]  lengths[1] 3
    prompt 1  [e f - - - -]  lengths[1] 2     sample 2  [y z t - -]  lengths[2] 3
                                              sample 3  [- - - - -]  lengths[3] 0, it has ended

    Sample 0 sees a b c d t u v, at the positions 0 to 6. Its next token goes to slot 3 of its row
    and has position 4 + 3 = 7; that of sample 2 goes to slot 3 too, and has position 2 + 3 = 5.

Knows where keys are stored, not how they are attended to (`decode_attention.py`). Letters as in
`layers.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from r1v3_jax.config import Compute
from r1v3_jax.models import decode_kernels
from r1v3_jax.models.attention import LANES
from r1v3_jax.sharding import split_rows, take_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """Keys and values of P prompts."""

    k: jax.Array  # float[L, P, K, S, H]
    v: jax.Array  # as k
    lengths: jax.Array  # int32[P], the slots in use


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of B samples in flight and of their prompts.

    Without `rows` B is P * G, and sample b continues prompt b // G.
    """

    prompt: PromptCache
    k: jax.Array  # float[L, B, K, S, H], of sampled tokens only
    v: jax.Array  # as k
    lengths: jax.Array  # int32[B], how many tokens of each sample are written
    # int32[B], the prompt of each sample, counted from the first prompt on its device.
    rows: jax.Array | None = None
    # Without a kernel, slots are attended to so many at a time: then no sample's numbers depend on
    # how long the others are. 0: as many as the longest needs, which is faster.
    chunk: int = dataclasses.field(default=0, metadata={"static": True})
    # The first so many of a sample's slots hold all of its tokens: no others are read. 0: not known
    # when the program is made.
    end: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def positions(self) -> jax.Array:
        """int32[B]: the position of each sample's next token."""
        if self.rows is not None:
            return take_rows(self.prompt.lengths, self.rows) + self.lengths
        prompt_lengths = self.prompt.lengths
        sampled = split_rows(self.lengths, len(prompt_lengths))  # [P, G]
        return (prompt_lengths[:, None] + sampled).reshape(-1)


def empty_cache(
    prompt: PromptCache,
    compute: Compute,
    *,
    max_tokens: int,
    group_size: int = 1,
    rows: jax.Array | None = None,
    chunk: int = 0,
) -> Cache:
    """Returns a cache without tokens for samples of `prompt`, `max_tokens` slots each.

    It has `group_size` samples of each prompt or, with `rows`, one of prompt rows[b] each. chunk:
    see `Cache`.
    """
    L, P, K, _, H = prompt.k.shape
    rules = compute.rules
    count = P * group_size if rows is None else len(rows)
    if compute.attention == "splash":
        # Another number of slots makes XLA copy the cache, see `decode_kernels`.
        max_tokens += -max_tokens % LANES
    elif chunk:
        max_tokens += -max_tokens % min(chunk, max_tokens)
    shape = (L, count, K, max_tokens, H)
    spec = rules.spec(None, "batch", "kv_heads", None, None)
    zeros = jnp.zeros(shape, prompt.k.dtype, out_sharding=spec)
    lengths = jnp.zeros(count, jnp.int32, out_sharding=rules.spec("batch"))
    return Cache(
        prompt=prompt, k=zeros, v=zeros, lengths=lengths, rows=rows, chunk=chunk
    )


def append_token(
    cache: Cache,
    k: jax.Array,
    v: jax.Array,
    compute: Compute,
) -> tuple[jax.Array, jax.Array]:
    """Returns cache.k and cache.v with k, v [L, B, K, H] in each sample's next slot.

    A sample whose slots are all taken writes nothing.
    """
    rules = compute.rules
    write = decode_kernels.append if compute.attention == "splash" else _append
    cache_spec = rules.spec(None, "batch", "kv_heads", None, None)
    if cache_spec is not None:  # every device writes its own rows and heads
        entry_spec = rules.spec(None, "batch", "kv_heads", None)
        slot_spec = rules.spec("batch")
        write = jax.shard_map(
            write,
            in_specs=(cache_spec, cache_spec, entry_spec, entry_spec, slot_spec),
            out_specs=(cache_spec, cache_spec),
            check_vma=False,
        )
    return write(cache.k, cache.v, k, v, cache.lengths)


def _append(k_cache, v_cache, k, v, slots):
    """Does what `decode_kernels.append` does, by XLA."""
    rows = jnp.arange(len(slots))

    def write(cache, entry):
        return cache.at[:, rows, :, slots].set(
            jnp.swapaxes(entry, 0, 1),
            mode="drop",
            unique_indices=True,
            indices_are_sorted=True,
        )

    return write(k_cache, k), write(v_cache, v)


def layer_of(
    stacked: jax.Array, layer: jax.Array, slots: int | None = None
) -> jax.Array:
    """Returns one layer of keys or values, [L, B, K, S, H] -> [B, K, S, H].

    Of its slots, all or the first `slots`.
    """
    L, B, K, S, H = stacked.shape
    if slots is None:
        slots = S
    start = (layer, 0, 0, 0, 0)
    return jax.lax.dynamic_slice(stacked, start, (1, B, K, slots, H))[0]
