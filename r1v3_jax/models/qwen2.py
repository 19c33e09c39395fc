"""The language model: Qwen2.5 (qkv bias), Qwen3 (per-head qk-norm), or a Llama (neither).

Five ways through the same layers:

    __call__   packed rows: supervised training
    prefill    prompts; keeps their keys and values
    extend     complete samples that continue those prompts: scoring, policy update
    decode     one more token of every sample of those prompts
    decode_several     some more tokens of every sample, of which the caller may take back the last

Knows embeddings, positions and segments; no images, no choice of tokens. Letters as in `layers.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Compute, TextConfig
from r1v3_jax.models import int8, lora
from r1v3_jax.models.attention import (
    NEVER,
    attention,
    attention_after_prompt,
    causal_mask,
    splash_after_prompt,
    splash_attention,
)
from r1v3_jax.models.attention_cudnn import (
    cudnn_after_prompt,
    cudnn_packed,
    cudnn_prompts,
)
from r1v3_jax.models.caches import Cache, PromptCache, append_token, empty_cache
from r1v3_jax.models.decode_attention import (
    attend_new_tokens,
    attend_slots,
    joined_attention,
    merge_softmax,
    prompt_attention,
    queries_of_tokens,
    sample_attention,
    tokens_of_queries,
)
from r1v3_jax.models.joined_cache import JoinedCache, is_joined, join
from r1v3_jax.models.layers import keep, param, remat, rms_norm, rope_angles
from r1v3_jax.models.products import product
from r1v3_jax.models.qwen2_layers import Block, MergedBlock
from r1v3_jax.sharding import each_shard, gather, look_up, take_rows


class Qwen2(nnx.Module):
    """Embedding, layers, norm and head; the head may be the embedding."""

    def __init__(
        self,
        config: TextConfig,
        compute: Compute,
        rngs: nnx.Rngs,
        adapters: lora.Adapters | None = None,
    ):
        self.config = config
        self.compute = compute
        D = config.embed
        table = (config.padded_vocab, D)
        axes = ("vocab", "embed")
        is_tied = config.tie_embeddings
        # As a head too, the embedding has to give logits of size 1.
        std = D**-0.5 if is_tied else 1.0
        self.embedding = param(rngs, compute, table, axes, std=std)
        self.blocks = Block(config, compute, rngs, adapters)
        self.norm = param(rngs, compute, (D,), (None,), constant=1.0)
        self.head = None if is_tied else param(rngs, compute, table, axes, std=0.02)

    @property
    def dtype(self):
        return jnp.dtype(self.compute.dtype)

    def gather(self, weights):
        """Returns a layer's weights as it computes with them.

        Matrices in 8 bits and adapters are multiplied out; all are gathered, and cast.
        """
        weights = int8.dequantised(weights)
        weights = lora.multiplied_out(weights)
        return gather(weights, self.compute.rules.text_gather, self.dtype)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Looks up embeddings: int32[B, T] -> float[B, T, D].

        JAX clamps ids outside the table; the host checks them (`tokenizer.check_token_ids`).
        """
        rules = self.compute.rules
        table = self.embedding[...]
        # Looked up in the stored dtype and cast after: in bfloat16 the gradient of a frequent token
        # would stop growing at 256 occurrences.
        table = gather(table, rules.text_gather, table.dtype)
        spec = rules.spec("batch", None, None)
        return look_up(table, tokens, spec).astype(self.dtype)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
    ) -> jax.Array:
        """Runs packed rows through the layers and the last norm.

        float[B, T, D] embeddings, int32[B, T] positions and segments (0 is padding) -> hidden
        states, float[B, T, D].
        """
        attend = self.self_attention(segment_ids)
        angles = rope_angles(positions, self.config)

        def layer(x, block):
            return self.gather(block)(x, angles, attend), None

        layer = remat(layer, self.compute.remat)
        x, _ = jax.lax.scan(layer, x, self.blocks)
        return self.last_norm(x)

    def self_attention(self, segment_ids: jax.Array, lengths: jax.Array | None = None):
        """Returns `attend(q, k, v)` within the segments of packed rows.

        lengths: int32[B], where every row is one segment of so many tokens, and padding.
        """
        if self.compute.attention == "cudnn":
            if lengths is not None:
                return lambda q, *kv: each_shard(cudnn_prompts, q, *kv, lengths, like=q)
            return lambda q, *kv: each_shard(cudnn_packed, q, *kv, segment_ids, like=q)
        if self.compute.attention == "splash":
            spec = self.compute.rules.spec("batch", None, "kv_heads", None, None)
            return lambda q, k, v: splash_attention(
                q, k, v, segment_ids, causal=True, q_spec=spec
            )
        mask = causal_mask(segment_ids)
        return lambda q, k, v: keep(attention(q, k, v, mask), "context")

    def last_norm(self, x: jax.Array) -> jax.Array:
        weight = self.norm[...].astype(x.dtype)
        return rms_norm(x, weight, self.config.norm_eps)

    # ---------------------------------------------------------------------------------------------
    # the head

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns float32[B, T, padded_vocab] for float[B, T, D] hidden states.

        Pad rows of the vocabulary are NEVER. For short T: training goes through `logprobs`.
        """
        return self._logits(hidden, self.head_weights())

    def head_weights(self) -> jax.Array:
        weights = self.embedding if self.head is None else self.head
        return self.gather(weights[...])

    def _logits(self, hidden, head):
        logits = product("btd,vd->btv", hidden, head, self.compute, dtype=jnp.float32)
        ids = jnp.arange(logits.shape[-1])
        is_token = ids < self.config.vocab_size
        return jnp.where(is_token, logits, NEVER)

    def logprobs(
        self,
        hidden: jax.Array,
        targets: jax.Array,
        *,
        temperature: float | jax.Array = 1.0,
    ):
        """Returns log p(targets) and the entropy (nats) of softmax(logits / temperature).

        hidden float[B, T, D], targets int32[B, T] -> two float32[B, T]. Logits exist for
        `compute.logprob_chunk` tokens of each row at a time, in the backward pass too.
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
        def measure_chunk(_, xs):
            hidden, targets = xs
            logits = self._logits(hidden, head.astype(hidden.dtype))
            logits = logits / temperature
            # Compares with an iota instead of gathering: the vocabulary may be sharded, and a
            # gather would fetch all of it.
            ids = jnp.arange(logits.shape[-1])
            is_target = ids == targets[..., None]
            normaliser = jax.nn.logsumexp(logits, axis=-1)
            selected = jnp.where(is_target, logits, 0.0)
            target_logit = jnp.sum(selected, axis=-1)
            probabilities = jnp.exp(logits - normaliser[..., None])
            mean_logit = jnp.sum(probabilities * logits, axis=-1)
            return None, (target_logit - normaliser, normaliser - mean_logit)

        def split(x):  # [B, n * chunk, ...] -> [n, B, chunk, ...]
            x = x.reshape(batch, -1, chunk, *x.shape[2:])
            return x.swapaxes(0, 1)

        def join(x):  # [n, B, chunk] -> [B, T]
            x = x.swapaxes(0, 1).reshape(batch, -1)
            return x[:, :length]

        chunks = (split(hidden), split(targets))
        _, (logprobs, entropy) = jax.lax.scan(measure_chunk, None, chunks)
        return join(logprobs), join(entropy)

    # ---------------------------------------------------------------------------------------------
    # prompts, and what follows them

    def prefill(
        self, x: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, PromptCache]:
        """Runs prompts through the layers and keeps their keys and values.

        float[P, T, D] embeddings, padded on the right, int32[P] lengths -> the hidden state of each
        prompt's last token, float[P, D], and the cache of T slots.
        """
        count, length, _ = x.shape
        slots = jnp.broadcast_to(jnp.arange(length), (count, length))
        is_used = slots < lengths[:, None]
        segment_ids = is_used.astype(jnp.int32)
        attend = self.self_attention(segment_ids, lengths)
        angles = rope_angles(slots, self.config)

        def layer(x, block):
            recorded = []

            def attend_and_record(q, k, v):
                recorded.extend((k, v))
                return attend(q, k, v)

            x = self.gather(block)(x, angles, attend_and_record)
            # A cache has the heads before the slots: one head's slots are read together.
            entries = tuple(jnp.einsum("btkh->bkth", entry) for entry in recorded)
            return x, entries

        layer = remat(layer, self.compute.remat)
        x, (k, v) = jax.lax.scan(layer, x, self.blocks)
        # The last token is selected by a sum with one term that is not 0: no gather on a mesh.
        is_last = slots == lengths[:, None] - 1
        is_last = is_last[..., None]
        selected = jnp.where(is_last, self.last_norm(x), 0)
        last = jnp.sum(selected, axis=1)
        return last, PromptCache(k=k, v=v, lengths=lengths)

    def extend(
        self,
        x: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        prompt: PromptCache,
        prompt_of_row: jax.Array,
    ) -> jax.Array:
        """Runs samples, packed into rows that continue their prompts, through the layers.

        float[B, T, D] embeddings, int32[B, T] positions (they go on from the prompt's) and segments
        -> hidden states, float[B, T, D].

        prompt_of_row: int32[J], the prompt of each B / J adjacent rows; on a mesh it counts from
        the device's own first prompt.

            prompt p   [a b c d - -]
            row b      |            x y z u v - ]   segment_ids 1 1 1 2 2 0
                       position  4 5 6 4 5
        """
        angles = rope_angles(positions, self.config)
        used = take_rows(prompt.lengths, prompt_of_row)
        attend_after_prompt = self.attention_after_prompt(segment_ids, used)

        def layer(x, xs):
            block, *entries = xs
            prompt_kv = [take_rows(entry, prompt_of_row) for entry in entries]

            def attend(q, k, v):
                return attend_after_prompt(q, k, v, *prompt_kv)

            return self.gather(block)(x, angles, attend), None

        layers = (self.blocks, prompt.k, prompt.v)
        layer = remat(layer, self.compute.remat)
        x, _ = jax.lax.scan(layer, x, layers)
        return self.last_norm(x)

    def attention_after_prompt(self, segment_ids: jax.Array, used: jax.Array):
        """Returns `attend(q, k, v, prompt_k, prompt_v)`, see `attention_after_prompt`."""
        if self.compute.attention == "reference":
            return lambda *qkv: keep(
                attention_after_prompt(*qkv, segment_ids, used), "context"
            )
        # Every device works on its own rows and heads.
        is_splash = self.compute.attention == "splash"
        kernel = splash_after_prompt if is_splash else cudnn_after_prompt
        return lambda q, *kv: each_shard(kernel, q, *kv, segment_ids, used, like=q)

    def new_cache(
        self,
        prompt: PromptCache,
        *,
        rows: jax.Array | None = None,
        several: bool = False,
        **sizes,
    ) -> Cache | JoinedCache:
        """Returns a cache without tokens for samples of these prompts; see `empty_cache`.

        several: whether it is for `decode_several`.
        """
        if rows is None:
            samples = len(prompt.lengths) * sizes.get("group_size", 1)
            may_join = is_joined(prompt, self.compute, samples)
        else:
            ring_slots = sizes["max_tokens"]
            may_join = is_joined(prompt, self.compute, len(rows), ring_slots)
        if may_join and not several:
            return join(prompt, self.compute, rows=rows, **sizes)
        return empty_cache(prompt, self.compute, rows=rows, **sizes)

    def merged_layers(self) -> tuple[MergedBlock, ...]:
        """Returns the layers for a joined cache; make them once, before a loop over tokens."""
        layers = []
        for i in range(self.config.layers):
            block = jax.tree.map(lambda weight, i=i: weight[i], self.blocks)
            layers.append(MergedBlock(self.gather(block)))
        return tuple(layers)

    def decode(
        self,
        x: jax.Array,
        cache: Cache | JoinedCache,
        layers: tuple[MergedBlock, ...] | None = None,
    ) -> tuple[jax.Array, Cache | JoinedCache]:
        """Runs one token of each sample through the layers and appends it to the cache.

        float[B, D] embeddings -> hidden states, float[B, D], and the cache. A sample whose slots
        are all taken has no room for another token: its caller stops it before. layers: for a
        joined cache, `merged_layers()`, which are made here if they are not given.
        """
        angles = rope_angles(cache.positions[:, None], self.config)
        if isinstance(cache, JoinedCache):
            layers = layers or self.merged_layers()
            hidden, cache = self._decode_joined(x, angles, cache, layers)
        else:
            hidden, cache = self._decode_shared(x, angles, cache)
        return hidden, dataclasses.replace(cache, lengths=cache.lengths + 1)

    def _decode_shared(self, x, angles, cache: Cache) -> tuple[jax.Array, Cache]:
        """Runs x [B, D] through the layers, against a prompt's one copy of keys."""
        attend_prompt = prompt_attention(cache, self.compute)
        attend_sample = sample_attention(cache, self.compute)

        def layer(x, xs):
            block, i = xs
            token_kv = []

            def attend(q, k, v):
                q = q[:, 0]
                k = k[:, 0]
                v = v[:, 0]
                token_kv.extend((k, v))
                to_prompt = attend_prompt(q, i)
                to_sample = attend_sample(q, i)
                # The token sees itself as a cache of one slot.
                k_slot = k[:, :, None]
                v_slot = v[:, :, None]
                used = jnp.ones_like(cache.lengths)
                to_itself = attend_slots(q, k_slot, v_slot, used)
                context = merge_softmax((to_prompt, to_sample, to_itself))
                return context.astype(q.dtype)[:, None]

            return self.gather(block)(x, angles, attend), tuple(token_kv)

        # The cache is read in every layer and written once, after the last: it never is an output
        # of the scan, which would copy it.
        index = jnp.arange(self.config.layers)
        x = x[:, None]
        x, (k, v) = jax.lax.scan(layer, x, (self.blocks, index))
        k, v = append_token(cache, k, v, self.compute)
        return self.last_norm(x)[:, 0], dataclasses.replace(cache, k=k, v=v)

    def decode_several(self, x: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Runs T tokens of each sample through the layers and writes them into the cache.

        float[B, T, D] embeddings -> hidden states, float[B, T, D], and the cache with its lengths
        as they were: the caller adds as many of the T tokens as it keeps, and what is behind them
        is overwritten.
        """
        T = x.shape[1]
        positions = cache.positions[:, None] + jnp.arange(T)
        angles = rope_angles(positions, self.config)
        attend_prompt = prompt_attention(cache, self.compute)
        attend_sample = sample_attention(cache, self.compute)

        def layer(x, xs):
            block, i = xs
            token_kv = []

            def attend(q, k, v):
                token_kv.extend((k, v))
                # All T tokens see the same slots, which are read once: as T * Q queries.
                side_by_side = queries_of_tokens(q)
                to_prompt = attend_prompt(side_by_side, i)
                to_sample = attend_sample(side_by_side, i)
                to_each_other = attend_new_tokens(q, k, v)
                context = merge_softmax((to_prompt, to_sample, to_each_other))
                return tokens_of_queries(context.astype(q.dtype), T)

            return self.gather(block)(x, angles, attend), tuple(token_kv)

        # As in `_decode_shared`, the cache is written once, after the last layer.
        index = jnp.arange(self.config.layers)
        x, (k, v) = jax.lax.scan(layer, x, (self.blocks, index))
        lengths = cache.lengths
        for t in range(T):
            here = dataclasses.replace(cache, lengths=lengths + t)
            keys, values = append_token(here, k[:, :, t], v[:, :, t], self.compute)
            cache = dataclasses.replace(cache, k=keys, v=values)
        return self.last_norm(x), cache

    def _decode_joined(
        self, x, angles, cache: JoinedCache, layers: tuple[MergedBlock, ...]
    ) -> tuple[jax.Array, JoinedCache]:
        """Runs x [B, D] through the layers, each with keys and values of its own."""
        attend_joined = joined_attention(cache)
        keys = []
        values = []

        def attend(q, k, v):
            layer = len(keys)
            context, k, v = attend_joined(q[:, 0], k[:, 0], v[:, 0], layer)
            keys.append(k)
            values.append(v)
            return context[:, None]

        x = x[:, None]
        for block in layers:
            x = block(x, angles, attend)
        cache = cache.stepped(tuple(keys), tuple(values))
        return self.last_norm(x)[:, 0], cache
