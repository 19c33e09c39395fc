"""The language model: Qwen2.5 (qkv bias), Qwen3 (per-head qk-norm), or a Llama (neither).

Four ways through the same layers: `__call__` for packed rows (supervised training); `prefill` for
prompts, which leaves their keys and values behind; and, behind those, `extend` for samples that are
there (scoring, policy update) and `decode` for one more token of every sample. The G samples of a
prompt share its one copy of keys and values.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Compute, TextConfig
from r1v3_jax.models import decode_kernels, int8
from r1v3_jax.models.attention import (
    LANES,
    NEVER,
    attention,
    attention_after_prompt,
    causal_mask,
    splash_after_prompt,
    splash_attention,
)
from r1v3_jax.models.layers import (
    keep,
    param,
    project,
    remat,
    rms_norm,
    rope_angles,
    rotate,
)
from r1v3_jax.sharding import each_shard, gather, split_rows, take_rows


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
    """One decode in flight: B = P * G samples, sample b continuing prompt b // G; or, with `rows`,
    B samples of any prompts.

    k, v: float[L, B, K, S, H], of sampled tokens only; lengths: int32[B], how many of them are
    written; rows: int32[B], the prompt of each sample, among those on its device.

        prompt p   [a b c d - -]                    lengths[p] = 4
        sample b   |            x y z - - - - -     lengths[b] = 3; the next token goes to slot 3
                   position  4 5 6                  and has position 4 + 3
    """

    prompt: PromptCache
    k: jax.Array
    v: jax.Array
    lengths: jax.Array
    rows: jax.Array | None = None

    @property
    def positions(self) -> jax.Array:
        """int32[B]: the position of each sample's next token."""
        if self.rows is not None:
            return take_rows(self.prompt.lengths, self.rows) + self.lengths
        own = split_rows(self.lengths, self.prompt.lengths.shape[0])
        return (self.prompt.lengths[:, None] + own).reshape(-1)


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
        self.q_bias = (
            p((K, Q, H), ("kv_heads", None, "head_dim")) if config.qkv_bias else None
        )
        self.k_bias = p((K, H), ("kv_heads", "head_dim")) if config.qkv_bias else None
        self.v_bias = p((K, H), ("kv_heads", "head_dim")) if config.qkv_bias else None
        self.q_norm = p((H,), (None,), constant=1.0) if config.qk_norm else None
        self.k_norm = p((H,), (None,), constant=1.0) if config.qk_norm else None
        self.out = p(
            (K, Q, H, D),
            ("kv_heads", None, "head_dim", "embed"),
            std=(2 * L * K * Q * H) ** -0.5,
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
        q, k, v = (
            keep(rotate(q, *angles), "q"),
            keep(rotate(k, *angles), "k"),
            keep(v, "v"),
        )
        # Tensor parallelism: each device holds some heads and some of the MLP; the two sums below
        # run over all.
        x = keep(
            x
            + jnp.einsum(
                "btkqh,kqhd->btd", attend(q, k, v), self.out, out_sharding=spec
            ),
            "middle",
        )
        h = rms_norm(x, self.norm2[...], config.norm_eps)
        gate = keep(project(h, self.gate[...]), "gate")
        up = keep(project(h, self.up[...]), "up")
        return x + jnp.einsum(
            "btf,fd->btd", jax.nn.silu(gate) * up, self.down, out_sharding=spec
        )


class Qwen2(nnx.Module):
    def __init__(self, config: TextConfig, compute: Compute, rngs: nnx.Rngs):
        self.config, self.compute = config, compute
        vocab, D = config.padded_vocab, config.embed
        table, tied = ("vocab", "embed"), config.tie_embeddings
        self.embedding = param(
            rngs, compute, (vocab, D), table, std=D**-0.5 if tied else 1.0
        )
        self.blocks = Block(config, compute, rngs)
        self.norm = param(rngs, compute, (D,), (None,), constant=1.0)
        self.head = None if tied else param(rngs, compute, (vocab, D), table, std=0.02)

    @property
    def dtype(self):
        return jnp.dtype(self.compute.dtype)

    def gather(self, weights):
        return gather(int8.whole(weights), self.compute.rules.text_gather, self.dtype)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """int32[B, T] -> float[B, T, D]. Ids are checked on the host (`tokens.check_token_ids`):
        JAX clamps bad ones.
        """
        rules, table = self.compute.rules, self.embedding[...]
        # Looked up in the stored dtype and cast after: in bfloat16 the gradient of a frequent token
        # would stop growing at 256 occurrences.
        rows = gather(table, rules.text_gather, table.dtype).at[tokens]
        return rows.get(out_sharding=rules.spec("batch", None, None)).astype(self.dtype)

    def __call__(
        self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array
    ) -> jax.Array:
        """Packed rows: float[B, T, D] embeddings, int32[B, T] positions and segments (0 is padding)
        -> hidden states after the last norm, float[B, T, D].
        """
        attend, angles = (
            self.self_attention(segment_ids),
            rope_angles(positions, self.config),
        )

        def layer(x, block):
            return self.gather(block)(x, angles, attend), None

        x, _ = jax.lax.scan(remat(layer, self.compute.remat), x, self.blocks)
        return self.last_norm(x)

    def self_attention(self, segment_ids: jax.Array):
        if self.compute.attention == "splash":
            spec = self.compute.rules.spec("batch", None, "kv_heads", None, None)
            return lambda q, k, v: splash_attention(
                q, k, v, segment_ids, causal=True, q_spec=spec
            )
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
        logits = jnp.einsum(
            "btd,vd->btv", hidden, head, preferred_element_type=jnp.float32
        )
        return jnp.where(
            jnp.arange(logits.shape[-1]) < self.config.vocab_size, logits, NEVER
        )

    def logprobs(
        self, hidden: jax.Array, targets: jax.Array, *, temperature: float = 1.0
    ):
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
    # prompts, and what follows them

    def prefill(
        self, x: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, PromptCache]:
        """Prompts, padded on the right: float[P, T, D] embeddings, int32[P] lengths -> the hidden
        state of each prompt's last token, float[P, D], and the cache of T slots.
        """
        count, length, _ = x.shape
        slots = jnp.broadcast_to(jnp.arange(length), (count, length))
        segment_ids = (slots < lengths[:, None]).astype(jnp.int32)
        attend, angles = (
            self.self_attention(segment_ids),
            rope_angles(slots, self.config),
        )

        def layer(x, block):
            kv = []

            def attend_and_record(q, k, v):
                kv.extend((k, v))
                return attend(q, k, v)

            x = self.gather(block)(x, angles, attend_and_record)
            return x, tuple(jnp.einsum("btkh->bkth", entry) for entry in kv)

        x, (k, v) = jax.lax.scan(remat(layer, self.compute.remat), x, self.blocks)
        last = (slots == lengths[:, None] - 1)[..., None]
        return jnp.sum(jnp.where(last, self.last_norm(x), 0), axis=1), PromptCache(
            k=k, v=v, lengths=lengths
        )

    def extend(
        self,
        x: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        prompt: PromptCache,
        owner: jax.Array,
    ) -> jax.Array:
        """Samples packed into rows behind their prompts: float[B, T, D] embeddings, int32[B, T]
        positions (they go on from the prompt's) and segments -> hidden states, float[B, T, D].

        owner: int32[J], the prompt of each B / J rows side by side; on a mesh it counts from the
        device's own first prompt.

            prompt p   [a b c d - -]
            row b      |            x y z u v - ]   segment_ids 1 1 1 2 2 0
                       position  4 5 6 4 5
        """
        angles, used = (
            rope_angles(positions, self.config),
            take_rows(prompt.lengths, owner),
        )
        attend_behind = self.attention_after_prompt(segment_ids, used)

        def layer(x, xs):
            block, *entries = xs
            k, v = (take_rows(entry, owner) for entry in entries)
            return self.gather(block)(
                x, angles, lambda *own: attend_behind(*own, k, v)
            ), None

        layers = (self.blocks, prompt.k, prompt.v)
        x, _ = jax.lax.scan(remat(layer, self.compute.remat), x, layers)
        return self.last_norm(x)

    def attention_after_prompt(self, segment_ids: jax.Array, used: jax.Array):
        """`attend(q, k, v, prompt_k, prompt_v)`; see `layers.attention_behind`."""
        if self.compute.attention != "splash":
            return lambda *qkv: keep(
                attention_after_prompt(*qkv, segment_ids, used), "context"
            )
        # Every device works on its own rows and heads.
        return lambda q, *kv: each_shard(
            splash_after_prompt, q, *kv, segment_ids, used, like=q
        )

    def new_cache(
        self,
        prompt: PromptCache,
        *,
        max_tokens: int,
        group_size: int = 1,
        rows: jax.Array | None = None,
    ) -> Cache:
        """An empty cache for `group_size` samples of each prompt, or one of prompt rows[b] each,
        `max_tokens` tokens each.
        """
        L, P, K, _, H = prompt.k.shape
        rules, count = self.compute.rules, P * group_size if rows is None else len(rows)
        if self.compute.attention == "splash":  # see decode_kernels on other sizes
            max_tokens += -max_tokens % LANES
        shape, spec = (
            (L, count, K, max_tokens, H),
            rules.spec(None, "batch", "kv_heads", None, None),
        )
        zeros = jnp.zeros(shape, prompt.k.dtype, out_sharding=spec)
        lengths = jnp.zeros(count, jnp.int32, out_sharding=rules.spec("batch"))
        return Cache(prompt=prompt, k=zeros, v=zeros, lengths=lengths, rows=rows)

    def decode(self, x: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """One token of each sample: float[B, D] embeddings -> hidden float[B, D] and the cache with
        it appended.

        A sample whose slots are all taken writes nothing; its caller stops it before that.
        """
        angles = rope_angles(cache.positions[:, None], self.config)
        attend_prompt, attend_cache = (
            self.prompt_attention(cache),
            self.cache_attention(cache),
        )

        def layer(x, xs):
            block, i = xs
            new = []

            def attend(q, k, v):
                q, k, v = q[:, 0], k[:, 0], v[:, 0]
                new.extend((k, v))
                pieces = (
                    attend_prompt(q, i),
                    attend_cache(q, i),
                    attend_slots(
                        q, k[:, :, None], v[:, :, None], jnp.ones_like(cache.lengths)
                    ),
                )
                return merge_softmax(pieces).astype(q.dtype)[:, None]

            return self.gather(block)(x, angles, attend), tuple(new)

        # The cache is read in every layer and written once, behind the last: it never is an output
        # of the scan, which would copy it.
        index = jnp.arange(self.config.layers)
        x, (k, v) = jax.lax.scan(layer, x[:, None], (self.blocks, index))
        k, v = self.append(cache, k, v)
        return self.last_norm(x)[:, 0], dataclasses.replace(
            cache, k=k, v=v, lengths=cache.lengths + 1
        )

    def prompt_attention(self, cache: Cache):
        """`attend(q, layer)`: q [B, K, Q, H] against the samples' prompts; a piece, see
        `one_softmax`.
        """
        prompt, rows = cache.prompt, cache.rows
        if rows is None:
            return lambda q, layer: attend_slots(
                q,
                one_layer(prompt.k, layer),
                one_layer(prompt.v, layer),
                prompt.lengths,
            )
        lengths = take_rows(prompt.lengths, rows)
        if self.compute.attention == "splash":
            return self.kernel(prompt.k, prompt.v, lengths, rows)

        def attend(q, layer):
            # One layer of a copy a sample, for as long as the layer takes.
            k, v = (take_rows(one_layer(x, layer), rows) for x in (prompt.k, prompt.v))
            return attend_slots(q, k, v, lengths)

        return attend

    def cache_attention(self, cache: Cache):
        """`attend(q, layer)`: q [B, K, Q, H] against the samples' own slots in use; a piece, see
        `one_softmax`.
        """
        if self.compute.attention == "splash":
            return self.kernel(cache.k, cache.v, cache.lengths)
        # Of the slots, as many quarters are read as the fullest row has begun.
        most = cache.k.shape[3]
        sizes = sorted({-(-most * part // 4) for part in (1, 2, 3, 4)})
        needed = sum(jnp.max(cache.lengths) > size for size in sizes[:-1])

        def first(size, q, layer):
            k, v = (one_layer(x, layer, size) for x in (cache.k, cache.v))
            return attend_slots(q, k, v, cache.lengths)

        ways = [functools.partial(first, size) for size in sizes]
        return lambda q, layer: jax.lax.switch(needed, ways, q, layer)

    def kernel(
        self,
        k: jax.Array,
        v: jax.Array,
        lengths: jax.Array,
        rows: jax.Array | None = None,
    ):
        """`attend(q, layer)` by `decode_kernels.attend`, every device on its own rows and heads."""

        rules, local, given = self.compute.rules, decode_kernels.attend, ()
        if rows is not None:
            # Samples of one prompt follow each other, and its slots, if they fit, are one block.
            given = rows, each_shard(jnp.argsort, rows, like=rows)
            local = functools.partial(local, block=k.shape[3])
        spec = rules.spec(None, "batch", "kv_heads", None, None)
        if spec is not None:
            query, row = (
                rules.spec("batch", "kv_heads", None, None),
                rules.spec("batch"),
            )
            local = jax.shard_map(
                local,
                in_specs=(query, spec, spec, rules.spec(), row, *[row] * len(given)),
                out_specs=(query, *[rules.spec("batch", "kv_heads", None)] * 2),
                check_vma=False,
            )
        return lambda q, layer: local(q, k, v, layer, lengths, *given)

    def append(
        self, cache: Cache, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The buffers [L, B, K, S, H] with k, v [L, B, K, H] in each sample's next slot."""
        rules = self.compute.rules
        local = decode_kernels.append if self.compute.attention == "splash" else _append
        spec = rules.spec(None, "batch", "kv_heads", None, None)
        if spec is not None:  # every device writes its own rows and heads
            new = rules.spec(None, "batch", "kv_heads", None)
            local = jax.shard_map(
                local,
                in_specs=(spec, spec, new, new, rules.spec("batch")),
                out_specs=(spec, spec),
                check_vma=False,
            )
        return local(cache.k, cache.v, k, v, cache.lengths)


def one_layer(
    stacked: jax.Array, layer: jax.Array, slots: int | None = None
) -> jax.Array:
    """Keys or values of one layer, [L, B, K, S, H] -> [B, K, S, H], of the first `slots`."""
    L, B, K, S, H = stacked.shape
    shape = (1, B, K, S if slots is None else slots, H)
    return jax.lax.dynamic_slice(stacked, (layer, 0, 0, 0, 0), shape)[0]


def _append(k_cache, v_cache, k, v, slots):
    """`decode_kernels.append`, by XLA."""
    rows = jnp.arange(len(slots))
    return tuple(
        buffer.at[:, rows, :, slots].set(
            jnp.swapaxes(new, 0, 1),
            mode="drop",
            unique_indices=True,
            indices_are_sorted=True,
        )
        for buffer, new in ((k_cache, k), (v_cache, v))
    )


def attend_slots(q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array):
    """One query a sample against the first `lengths` slots, which the G samples of a prompt share.

    q [B, K, Q, H]; k, v [P, K, S, H], B = P * G; lengths int32[P]. A piece, see `one_softmax`.
    """
    grouped = jnp.swapaxes(split_rows(q, k.shape[0]), 1, 2)  # [P, K, G, Q, H]
    exact = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("pkgqh,pksh->pkgqs", grouped, k, **exact)
    used = (jnp.arange(k.shape[2]) < lengths[:, None])[:, None, None, None]
    scores = jnp.where(used, scores * q.shape[-1] ** -0.5, NEVER)
    top = jnp.max(scores, axis=-1)
    weights = jnp.where(used, jnp.exp(scores - top[..., None]), 0)
    out = jnp.einsum("pkgqs,pksh->pkgqh", weights.astype(v.dtype), v, **exact)

    def by_sample(x):  # [P, K, G, ...] -> [B, K, ...]
        x = jnp.swapaxes(x, 1, 2)
        return x.reshape(len(q), *x.shape[2:])

    return by_sample(out), by_sample(top), by_sample(jnp.sum(weights, axis=-1))


def merge_softmax(pieces) -> jax.Array:
    """Attention over several sets of keys, float32[B, K, Q, H], from what each alone gives.

    A piece, with s = q k / sqrt(H) over its keys, all float32:
        out [B, K, Q, H] = sum exp(s - top) v,  top [B, K, Q] = max s,  total [B, K, Q] = sum
        exp(s - top); NEVER, 0 and 0 where it has no keys.
    """
    top = functools.reduce(jnp.maximum, [piece[1] for piece in pieces])
    shrink = [jnp.exp(piece[1] - top) for piece in pieces]
    total = sum(piece[2] * x for piece, x in zip(pieces, shrink, strict=True))
    out = sum(piece[0] * x[..., None] for piece, x in zip(pieces, shrink, strict=True))
    return out / total[..., None]
