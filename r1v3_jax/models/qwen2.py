"""The language model: Qwen2.5 (qkv bias), Qwen3 (per-head qk-norm), or a Llama (neither).

Three ways through the same layers: `__call__` for packed rows (training, scoring), `prefill` for
prompts, which leaves their keys and values behind, and `decode` for one more token of every sample.
The G samples of a prompt share its one copy of keys and values.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Compute, TextConfig
from r1v3_jax.models.layers import (
    NEVER,
    attention,
    causal_mask,
    keep,
    param,
    remat,
    rms_norm,
    rope_angles,
    rotate,
    splash_attention,
)
from r1v3_jax.sharding import gather


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """Keys and values of P prompts. k, v: float[L, P, K, S, H]; lengths: int32[P], the slots in
    use.
    """

    k: jax.Array
    v: jax.Array
    lengths: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """One decode in flight: B = P * G samples, sample b continuing prompt b // G.

    k, v: float[L, B, K, S, H], of sampled tokens only; lengths: int32[B], how many of them are
    written.

        prompt p   [a b c d - -]                    lengths[p] = 4
        sample b   |            x y z - - - - -     lengths[b] = 3; the next token goes to slot 3
                   position  4 5 6                  and has position 4 + 3
    """

    prompt: PromptCache
    k: jax.Array
    v: jax.Array
    lengths: jax.Array

    @property
    def positions(self) -> jax.Array:
        """int32[B]: the position of each sample's next token."""
        group = self.lengths.shape[0] // self.prompt.lengths.shape[0]
        return (self.prompt.lengths[:, None] + self.lengths.reshape(-1, group)).reshape(-1)


class Block(nnx.Module):
    """The layers, stacked along a first axis [L, ...]; called, inside a scan, on one of them."""

    def __init__(self, config: TextConfig, compute: Compute, rngs: nnx.Rngs):
        self.config, self.compute = config, compute
        L, D, F, H = config.layers, config.embed, config.mlp, config.head_dim
        K, Q = config.kv_heads, config.queries_per_kv

        def p(shape, axes, **init):
            return param(rngs, compute, (L, *shape), ("layers", *axes), **init)

        self.norm1 = p((D,), (None,), constant=1.0)
        self.q = p((D, K, Q, H), ("embed", "kv_heads", None, "head_dim"), std=D**-0.5)
        self.k = p((D, K, H), ("embed", "kv_heads", "head_dim"), std=D**-0.5)
        self.v = p((D, K, H), ("embed", "kv_heads", "head_dim"), std=D**-0.5)
        self.q_bias = p((K, Q, H), ("kv_heads", None, "head_dim")) if config.qkv_bias else None
        self.k_bias = p((K, H), ("kv_heads", "head_dim")) if config.qkv_bias else None
        self.v_bias = p((K, H), ("kv_heads", "head_dim")) if config.qkv_bias else None
        self.q_norm = p((H,), (None,), constant=1.0) if config.qk_norm else None
        self.k_norm = p((H,), (None,), constant=1.0) if config.qk_norm else None
        self.out = p(
            (K, Q, H, D), ("kv_heads", None, "head_dim", "embed"), std=(2 * L * K * Q * H) ** -0.5
        )
        self.norm2 = p((D,), (None,), constant=1.0)
        self.gate = p((D, F), ("embed", "mlp"), std=D**-0.5)
        self.up = p((D, F), ("embed", "mlp"), std=D**-0.5)
        self.down = p((F, D), ("mlp", "embed"), std=(2 * L * F) ** -0.5)

    def __call__(self, x: jax.Array, angles, attend) -> jax.Array:
        """float[B, T, D] -> float[B, T, D]. `attend(q, k, v)` -> context [B, T, K, Q, H] is what
        differs between training, prefill and decoding.
        """
        config, spec = self.config, self.compute.rules.spec("batch", None, None)
        h = rms_norm(x, self.norm1[...], config.norm_eps)
        q = jnp.einsum("btd,dkqh->btkqh", h, self.q)
        k = jnp.einsum("btd,dkh->btkh", h, self.k)
        v = jnp.einsum("btd,dkh->btkh", h, self.v)
        if config.qkv_bias:
            q, k, v = q + self.q_bias, k + self.k_bias, v + self.v_bias
        if config.qk_norm:
            q, k = (
                rms_norm(q, self.q_norm[...], config.norm_eps),
                rms_norm(k, self.k_norm[...], config.norm_eps),
            )
        q, k, v = keep(rotate(q, *angles), "q"), keep(rotate(k, *angles), "k"), keep(v, "v")
        # Tensor parallelism: each device holds some heads and some of the MLP; the two sums below
        # run over all.
        x = keep(
            x + jnp.einsum("btkqh,kqhd->btd", attend(q, k, v), self.out, out_sharding=spec),
            "middle",
        )
        h = rms_norm(x, self.norm2[...], config.norm_eps)
        gate = keep(jnp.einsum("btd,df->btf", h, self.gate), "gate")
        up = keep(jnp.einsum("btd,df->btf", h, self.up), "up")
        return x + jnp.einsum("btf,fd->btd", jax.nn.silu(gate) * up, self.down, out_sharding=spec)


class Qwen2(nnx.Module):
    def __init__(self, config: TextConfig, compute: Compute, rngs: nnx.Rngs):
        self.config, self.compute = config, compute
        vocab, D = config.padded_vocab, config.embed
        table, tied = ("vocab", "embed"), config.tie_embeddings
        self.embedding = param(rngs, compute, (vocab, D), table, std=D**-0.5 if tied else 1.0)
        self.blocks = Block(config, compute, rngs)
        self.norm = param(rngs, compute, (D,), (None,), constant=1.0)
        self.head = None if tied else param(rngs, compute, (vocab, D), table, std=0.02)

    @property
    def dtype(self):
        return jnp.dtype(self.compute.dtype)

    def gather(self, weights):
        return gather(weights, self.compute.rules.text_gather, self.dtype)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """int32[B, T] -> float[B, T, D]. Ids are checked on the host (`tokens.check_token_ids`):
        JAX clamps bad ones.
        """
        rules, table = self.compute.rules, self.embedding[...]
        # Looked up in the stored dtype and cast after: in bfloat16 the gradient of a frequent token
        # would stop growing at 256 occurrences.
        rows = gather(table, rules.text_gather, table.dtype).at[tokens]
        return rows.get(out_sharding=rules.spec("batch", None, None)).astype(self.dtype)

    def __call__(self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """Packed rows: float[B, T, D] embeddings, int32[B, T] positions and segments (0 is padding)
        -> hidden states after the last norm, float[B, T, D].
        """
        attend, angles = self.self_attention(segment_ids), rope_angles(positions, self.config)

        def layer(x, block):
            return self.gather(block)(x, angles, attend), None

        x, _ = jax.lax.scan(remat(layer, self.compute.remat), x, self.blocks)
        return self.last_norm(x)

    def self_attention(self, segment_ids: jax.Array):
        if self.compute.attention == "splash":
            spec = self.compute.rules.spec("batch", None, "kv_heads", None, None)
            return lambda q, k, v: splash_attention(q, k, v, segment_ids, causal=True, q_spec=spec)
        mask = causal_mask(segment_ids)
        return lambda q, k, v: keep(attention(q, k, v, mask), "context")

    def last_norm(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.norm[...].astype(x.dtype), self.config.norm_eps)

    # ---------------------------------------------------------------------------------------------
    # the head

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float[B, T, D] -> float32[B, T, padded_vocab]; pad rows of the vocabulary at -1e30.

        For short T: training goes through `logprobs`.
        """
        return self._logits(hidden, self.head_weights())

    def head_weights(self) -> jax.Array:
        return self.gather((self.embedding if self.head is None else self.head)[...])

    def _logits(self, hidden, head):
        logits = jnp.einsum("btd,vd->btv", hidden, head, preferred_element_type=jnp.float32)
        return jnp.where(jnp.arange(logits.shape[-1]) < self.config.vocab_size, logits, NEVER)

    def logprobs(self, hidden: jax.Array, targets: jax.Array, *, temperature: float = 1.0):
        """log p(targets) and the entropy (nats) of softmax(logits / temperature): two float32[B,
        T].

        hidden float[B, T, D], targets int32[B, T]. Logits exist for `compute.logprob_chunk` tokens
        of each row at a time, in the backward pass too.
        """
        batch, length, _ = hidden.shape
        chunk = min(self.compute.logprob_chunk, length)
        pad = -length % chunk
        hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
        targets = jnp.pad(targets, ((0, 0), (0, pad)))
        # In float32 outside the scan, cast back inside: its gradient, a sum over the chunks, is
        # then added up in float32.
        head = self.head_weights().astype(jnp.float32)

        @jax.checkpoint
        def piece(_, xs):
            hidden, targets = xs
            logits = self._logits(hidden, head.astype(hidden.dtype)) / temperature
            # Compares with an iota instead of gathering: the vocabulary may be sharded, and a
            # gather would fetch all of it.
            hit = jnp.arange(logits.shape[-1]) == targets[..., None]
            normaliser = jax.nn.logsumexp(logits, axis=-1)
            chosen = jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
            mean = jnp.sum(jnp.exp(logits - normaliser[..., None]) * logits, axis=-1)
            return None, (chosen - normaliser, normaliser - mean)

        def split(x):  # [B, n * chunk, ...] -> [n, B, chunk, ...]
            return x.reshape(batch, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

        _, out = jax.lax.scan(piece, None, (split(hidden), split(targets)))
        return tuple(x.swapaxes(0, 1).reshape(batch, -1)[:, :length] for x in out)

    # ---------------------------------------------------------------------------------------------
    # generation

    def prefill(self, x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, PromptCache]:
        """Prompts, padded on the right: float[P, T, D] embeddings, int32[P] lengths -> the hidden
        state of each prompt's last token, float[P, D], and the cache of T slots.
        """
        count, length, _ = x.shape
        slots = jnp.broadcast_to(jnp.arange(length), (count, length))
        segment_ids = (slots < lengths[:, None]).astype(jnp.int32)
        attend, angles = self.self_attention(segment_ids), rope_angles(slots, self.config)

        def layer(x, block):
            kv = []

            def attend_and_record(q, k, v):
                kv.extend((k, v))
                return attend(q, k, v)

            x = self.gather(block)(x, angles, attend_and_record)
            return x, tuple(jnp.einsum("btkh->bkth", entry) for entry in kv)

        x, (k, v) = jax.lax.scan(layer, x, self.blocks)
        last = (slots == lengths[:, None] - 1)[..., None]
        return jnp.sum(jnp.where(last, self.last_norm(x), 0), axis=1), PromptCache(
            k=k, v=v, lengths=lengths
        )

    def new_cache(self, prompt: PromptCache, *, group_size: int, max_tokens: int) -> Cache:
        """An empty cache for `group_size` samples of each prompt, `max_tokens` tokens each."""
        L, P, K, _, H = prompt.k.shape
        rules = self.compute.rules
        shape, spec = (
            (L, P * group_size, K, max_tokens, H),
            rules.spec(None, "batch", "kv_heads", None, None),
        )
        zeros = jnp.zeros(shape, prompt.k.dtype, out_sharding=spec)
        lengths = jnp.zeros(P * group_size, jnp.int32, out_sharding=rules.spec("batch"))
        return Cache(prompt=prompt, k=zeros, v=zeros, lengths=lengths)

    def decode(self, x: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """One token of each sample: float[B, D] embeddings -> hidden float[B, D] and the cache with
        it appended.

        A sample whose slots are all taken writes nothing; its caller stops it before that.
        """
        angles = rope_angles(cache.positions[:, None], self.config)
        index = jnp.arange(self.config.layers)

        def layer(carry, xs):
            x, k_cache, v_cache = carry
            block, i, prompt_k, prompt_v = xs
            caches = []

            def attend(q, k, v):
                # The cache is carried, not scanned over, so that it is updated in place and never
                # copied.
                caches.append(self.append(k_cache, k[:, 0], i, cache.lengths))
                caches.append(self.append(v_cache, v[:, 0], i, cache.lengths))
                own = (jax.lax.dynamic_index_in_dim(c, i, 0, keepdims=False) for c in caches)
                return decode_attention(q[:, 0], prompt_k, prompt_v, *own, cache)[:, None]

            x = self.gather(block)(x, angles, attend)
            return (x, *caches), None

        (x, k, v), _ = jax.lax.scan(
            layer,
            (x[:, None], cache.k, cache.v),
            (self.blocks, index, cache.prompt.k, cache.prompt.v),
        )
        return self.last_norm(x)[:, 0], dataclasses.replace(
            cache, k=k, v=v, lengths=cache.lengths + 1
        )

    def append(
        self, buffer: jax.Array, new: jax.Array, layer: jax.Array, slots: jax.Array
    ) -> jax.Array:
        """`buffer` [L, B, K, S, H] with `new` [B, K, H] at slot `slots` int32[B] of `layer`."""
        rules = self.compute.rules

        def local(buffer, new, layer, slots):
            rows, heads = jnp.arange(new.shape[0])[:, None], jnp.arange(new.shape[1])[None]
            return buffer.at[layer, rows, heads, slots[:, None]].set(
                new, mode="drop", unique_indices=True, indices_are_sorted=True
            )

        spec = rules.spec(None, "batch", "kv_heads", None, None)
        if spec is not None:  # every device writes its own rows and heads
            in_specs = (
                spec,
                rules.spec("batch", "kv_heads", None),
                rules.spec(),
                rules.spec("batch"),
            )
            local = jax.shard_map(local, in_specs=in_specs, out_specs=spec, check_vma=False)
        return local(buffer, new, layer, slots)


def decode_attention(q, prompt_k, prompt_v, k, v, cache: Cache) -> jax.Array:
    """One query a sample against its prompt's keys and its own, under one softmax.

    q [B, K, Q, H]; prompt_k, prompt_v [P, K, S, H]; k, v [B, K, S', H], own tokens with the query's
    written at slot `cache.lengths` -> [B, K, Q, H].
    """
    prompts = prompt_k.shape[0]
    grouped = q.reshape(prompts, -1, *q.shape[1:])  # [P, G, K, Q, H]
    scale = q.shape[-1] ** -0.5

    def weights(scores, used):
        return jnp.where(used, scores * scale, NEVER)

    shared = jnp.einsum("pgkqh,pksh->pgkqs", grouped, prompt_k, preferred_element_type=jnp.float32)
    used = jnp.arange(prompt_k.shape[2]) < cache.prompt.lengths[:, None]
    shared = weights(shared, used[:, None, None, None])
    own = jnp.einsum("bkqh,bksh->bkqs", q, k, preferred_element_type=jnp.float32)
    used = jnp.arange(k.shape[2]) <= cache.lengths[:, None]
    own = weights(own, used[:, None, None])

    top_shared = jnp.max(shared, axis=-1, keepdims=True)
    top = jnp.maximum(top_shared.reshape(*own.shape[:-1], 1), jnp.max(own, axis=-1, keepdims=True))
    shared = jnp.exp(shared - top.reshape(top_shared.shape))
    own = jnp.exp(own - top)
    total = jnp.sum(shared, axis=-1, keepdims=True).reshape(top.shape) + jnp.sum(
        own, axis=-1, keepdims=True
    )
    out = jnp.einsum(
        "pgkqs,pksh->pgkqh", shared.astype(v.dtype), prompt_v, preferred_element_type=jnp.float32
    )
    out = out.reshape(q.shape) + jnp.einsum(
        "bkqs,bksh->bkqh", own.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (out / total).astype(q.dtype)
