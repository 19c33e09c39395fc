"""One update: what learns, the optimizer, and the jitted step that every stage shares.

Knows losses only as functions of a model and a micro-batch.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.run.program import concrete


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step: int32[], updates applied; model: all weights; optimizer: moments of the trainable ones
    only.
    """

    step: jax.Array
    model: R1V3
    optimizer: optax.OptState


def create(
    model: R1V3, optimizer: optax.GradientTransformation, learns: Callable
) -> TrainState:
    """A fresh state at step 0. Frozen parts have no optimizer state."""
    params = nnx.split(model, learns, ...)[1]
    return TrainState(
        step=jnp.int32(0), model=model, optimizer=jax.jit(optimizer.init)(params)
    )


def release(model: R1V3) -> None:
    """Frees the arrays of a model that a restored state replaces: its callers still hold it."""
    for array in jax.tree.leaves(nnx.state(model)):
        array.delete()


def summed_gradients(loss: Callable, args: tuple, batch, count=None):
    """Gradients with respect to `args`, and metrics, added up in float32 over the micro-batches of
    a batch: its first `count` (int32[]; None: all N).

    loss: `(*args, micro_batch) -> (loss, metrics)`; each array of `batch` is [N, ...].
    """
    gradient = jax.value_and_grad(loss, argnums=tuple(range(len(args))), has_aux=True)

    def accumulate(i, total):
        (value, metrics), grads = gradient(*args, micro_batch(batch, i))
        return jax.tree.map(
            lambda t, x: t + x.astype(t.dtype),
            total,
            (grads, {"loss": value, **metrics}),
        )

    value, metrics = jax.eval_shape(lambda: loss(*args, micro_batch(batch, 0)))
    zeros = jax.tree.map(
        lambda x: jnp.zeros_like(x, jnp.float32), (args, {"loss": value, **metrics})
    )
    count = len(jax.tree.leaves(batch)[0]) if count is None else count
    return jax.lax.fori_loop(0, count, accumulate, zeros)


def micro_batch(batch, i: jax.Array):
    """Number i of the N micro-batches in arrays [N, ...]."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), batch
    )


def gradients(loss_fn: Callable):
    """For `make_update`: of a loss `(model, micro_batch) -> (loss, metrics)`."""

    def of_batch(model: Callable, params, batch):
        (grads,), metrics = summed_gradients(
            lambda params, micro: loss_fn(model(params), micro), (params,), batch
        )
        return grads, metrics

    return of_batch


def make_update(
    gradients: Callable,
    optimizer: optax.GradientTransformation,
    learns: Callable,
    lr: optax.Schedule,
):
    """The jitted step `(state, batch) -> (state, metrics)`; the state is donated.

    gradients: `(model, params, batch) -> (grads, metrics)` for the whole batch, metrics with its
    loss; `model(params)` is the model with these weights where it learns. A step whose loss,
    gradient, update or moments are not finite changes nothing; its `finite` is 0 and the caller
    decides.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, batch) -> tuple[TrainState, dict[str, jax.Array]]:
        graph, params, frozen = nnx.split(state.model, learns, ...)
        grads, metrics = gradients(
            lambda params: nnx.merge(graph, params, frozen), params, batch
        )
        norm = optax.tree.norm(grads)
        updates, moments = optimizer.update(grads, state.optimizer, params)
        update_norm = optax.tree.norm(updates)
        # Moments too: an infinite second moment makes an update of 0, which looks well.
        sums = [jnp.sum(x, dtype=jnp.float32) for x in jax.tree.leaves(moments)]
        finite = jnp.isfinite(
            jnp.stack([norm, metrics["loss"], update_norm, *sums])
        ).all()
        changed = optax.apply_updates(params, updates)
        params, moments = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (changed, moments),
            (params, state.optimizer),
        )
        metrics |= {
            "grad_norm": norm,
            "update_norm": update_norm,
            "lr": lr(state.step),
            "finite": finite.astype(jnp.float32),
        }
        model = nnx.merge(graph, params, frozen)
        return TrainState(
            step=state.step + finite, model=model, optimizer=moments
        ), metrics

    return update


def abstract_state(model, optimizer, learns, mesh) -> TrainState:
    params = nnx.split(model, learns, ...)[1]
    moments = concrete(jax.eval_shape(optimizer.init, params), mesh)
    step = concrete(jax.ShapeDtypeStruct((), jnp.int32), mesh)
    return TrainState(step=step, model=model, optimizer=moments)
