"""One update: what learns, the optimizer, and the jitted step that every stage shares.

Knows losses only as functions `(model, micro_batch) -> (loss, metrics)`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from r1v3_jax.config import Optimizer
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.types import Batch

PARTS = {"llm": "language", "connector": "connector", "vision": "vision"}


def trainable(names: str) -> Callable:
    """A path predicate for what learns: "all", or parts joined by "+": "connector",
    "llm+connector", ...

    Raises ValueError for a part that does not exist.
    """
    wanted = list(PARTS) if names == "all" else names.split("+")
    if unknown := [name for name in wanted if name not in PARTS]:
        raise ValueError(
            f"trainable {names!r}: no part {unknown[0]!r}; name all, or some of "
            f"{', '.join(PARTS)} joined by +"
        )
    roots = {PARTS[name] for name in wanted}
    return lambda path, value: path[0] in roots


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step: int32[], updates applied; model: all weights; optimizer: moments of the trainable ones
    only.
    """

    step: jax.Array
    model: R1V3
    optimizer: optax.OptState


def make_optimizer(config: Optimizer, total_steps: int) -> optax.GradientTransformation:
    """AdamW behind a global-norm clip; linear warm-up, then constant or cosine to
    `final_lr_fraction`.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            schedule(config, total_steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(decays, params),
        ),
    )


def decays(path, _) -> bool:
    """Weight decay is for matrices: norms, biases and layer scales are left alone."""
    name = next(str(key.key) for key in reversed(path) if isinstance(key, jax.tree_util.DictKey))
    return not any(part in name for part in ("norm", "bias", "scale"))


def schedule(config: Optimizer, total_steps: int) -> optax.Schedule:
    """Learning rate by step. Defined beyond `total_steps` too, where it stays at its last value."""
    decay = max(total_steps - config.warmup_steps, 1)
    after = (
        optax.cosine_decay_schedule(config.lr, decay, config.final_lr_fraction)
        if config.schedule == "cosine"
        else optax.constant_schedule(config.lr)
    )
    warmup = optax.linear_schedule(
        0.0 if config.warmup_steps else config.lr, config.lr, max(config.warmup_steps, 1)
    )
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def create(model: R1V3, optimizer: optax.GradientTransformation, learns: Callable) -> TrainState:
    """A fresh state at step 0. Frozen parts have no optimizer state."""
    params = nnx.split(model, learns, ...)[1]
    return TrainState(step=jnp.int32(0), model=model, optimizer=jax.jit(optimizer.init)(params))


def make_update(
    loss_fn: Callable, optimizer: optax.GradientTransformation, learns: Callable, lr: optax.Schedule
):
    """The jitted step `(state, batch) -> (state, metrics)`; the state is donated.

    Gradients of the batch's N micro-batches are added, in float32, before the one optimizer step. A
    step whose loss or gradient is not finite changes nothing; its `finite` is 0 and the caller
    decides.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        graph, params, frozen = nnx.split(state.model, learns, ...)

        def loss(params, micro_batch):
            return loss_fn(nnx.merge(graph, params, frozen), micro_batch)

        def accumulate(total, micro_batch):
            (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, micro_batch)
            return jax.tree.map(
                lambda t, x: t + x.astype(t.dtype), total, (grads, {"loss": value, **metrics})
            ), None

        first = jax.tree.map(lambda x: x[0], batch)
        shapes = jax.eval_shape(loss, params, first)
        zeros = jax.tree.map(
            lambda x: jnp.zeros_like(x, jnp.float32), (params, {"loss": shapes[0], **shapes[1]})
        )
        (grads, metrics), _ = jax.lax.scan(accumulate, zeros, batch)

        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        updates, moments = optimizer.update(grads, state.optimizer, params)
        changed = optax.apply_updates(params, updates)
        params, moments = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (changed, moments),
            (params, state.optimizer),
        )
        metrics |= {
            "grad_norm": norm,
            "update_norm": optax.tree.norm(updates),
            "lr": lr(state.step),
            "finite": finite.astype(jnp.float32),
        }
        model = nnx.merge(graph, params, frozen)
        return TrainState(step=state.step + finite, model=model, optimizer=moments), metrics

    return update


def token_logprobs(
    model: R1V3, batch: Batch, *, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """log p of each token of a micro-batch given those before it, and the entropy there: float32[B,
    T] each.

    A row's first token has no prediction: 0. What precedes the first token of a later segment is
    another segment; such entries mean nothing and carry no loss weight.
    """
    images = None if batch.tiles is None else model.encode_images(batch.tiles)
    hidden = model(batch.tokens, batch.positions, batch.segment_ids, images, batch.image_index)
    # hidden     [ h0  h1  h2 ]   predicts the token to its right: targets are shifted left,
    # targets    [ t1  t2  t0 ]   and the results back to where their token stands
    labels = batch.tokens if batch.labels is None else batch.labels
    out = model.logprobs(hidden, jnp.roll(labels, -1, axis=1), temperature=temperature)
    return tuple(jnp.roll(x, 1, axis=1).at[:, 0].set(0.0) for x in out)
