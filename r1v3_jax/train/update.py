"""One update: the training state, and the jitted step that every stage shares.

It knows losses only as functions of a model and a micro-batch.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec

from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.run.program import concrete
from r1v3_jax.slices import each_slice, sum_over_slices


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a stage trains: weights, optimizer state, and the number of updates."""

    step: jax.Array  # int32[], updates applied
    model: R1V3  # all weights
    optimizer: optax.OptState  # moments, of the trainable weights only


def create(
    model: R1V3, optimizer: optax.GradientTransformation, learns: Callable
) -> TrainState:
    """Returns a fresh state at step 0. Frozen parts have no optimizer state."""
    params = nnx.split(model, learns, ...)[1]
    moments = jax.jit(functools.partial(fresh_moments, optimizer))(params)
    return TrainState(step=jnp.int32(0), model=model, optimizer=moments)


def fresh_moments(optimizer: optax.GradientTransformation, params) -> optax.OptState:
    """Returns the optimizer's first state, in the dtype of the gradients whatever the weights'.

    Gradients are float32. Moments that began in bfloat16 would be float32 after the first update:
    another program, and another state than the one that a resumed run begins with.
    """
    return optimizer.init(jax.tree.map(lambda x: x.astype(jnp.float32), params))


def release(model: R1V3, *, kept_by: R1V3 | None = None) -> None:
    """Frees the arrays of a model that a restored state replaces.

    Callers still hold the model, so its arrays would stay beside the restored ones. kept_by: the
    restored model; arrays that it took over are left.
    """
    kept = {id(array) for array in jax.tree.leaves(kept_by)}
    for array in jax.tree.leaves(nnx.state(model)):
        if id(array) not in kept:
            array.delete()


def summed_gradients(loss: Callable, args: tuple, batch, count=None):
    """Returns gradients and metrics, added up in float32 over the micro-batches of a batch.

    loss: `(*args, micro_batch) -> (loss, metrics)`; the gradients are with respect to `args`. Each
    array of `batch` is [N, ...]; used are its first `count` micro-batches (int32[]; None: all N).
    """
    # With respect to every one of `args`: parameters, and perhaps what was computed of them before.
    gradient = jax.value_and_grad(loss, argnums=tuple(range(len(args))), has_aux=True)

    def add_micro_batch(i, total):
        (value, metrics), grads = gradient(*args, micro_batch(batch, i))
        part = (grads, {"loss": value, **metrics})
        return jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, part)

    # Sums start at zeros of the right shapes: nothing is computed for them.
    value, metrics = jax.eval_shape(lambda: loss(*args, micro_batch(batch, 0)))
    shapes = (args, {"loss": value, **metrics})
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), shapes)
    if count is None:
        count = len(jax.tree.leaves(batch)[0])
    return jax.lax.fori_loop(0, count, add_micro_batch, zeros)


def micro_batch(batch, i: jax.Array):
    """Returns number i of the N micro-batches in arrays [N, ...]."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), batch
    )


def gradients(loss_fn: Callable) -> Callable:
    """Returns what `make_update` calls gradients, for a loss of a micro-batch.

    loss_fn: `(model, micro_batch) -> (loss, metrics)`.
    """

    def of_batch(model: Callable, params, batch):
        def loss_of_params(params, micro):
            return loss_fn(model(params), micro)

        (grads,), metrics = summed_gradients(loss_of_params, (params,), batch)
        return sum_over_slices((grads, metrics))

    return of_batch


def make_update(
    gradients: Callable,
    optimizer: optax.GradientTransformation,
    learns: Callable,
    lr: optax.Schedule,
):
    """Returns the jitted step `(state, batch) -> (state, metrics)`; the state is donated.

    gradients: `(model, params, batch) -> (grads, metrics)` for the whole batch, metrics with its
    loss; `model(params)` is the model with these weights where it learns. Each of several slices
    calls it with its own rows, and there it adds up what the slices have, once. A step whose loss,
    gradient, update or moments are not finite changes nothing; its `finite` is 0 and the caller
    decides.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, batch) -> tuple[TrainState, dict[str, jax.Array]]:
        # 1. Gradients, and the step that the optimizer makes of them.
        graph, params, frozen = nnx.split(state.model, learns, ...)

        def of_slice(params, frozen, batch):
            return gradients(
                lambda params: nnx.merge(graph, params, frozen), params, batch
            )

        layouts = (params, PartitionSpec())
        grads, metrics = each_slice(of_slice, params, frozen, batch, like=layouts)
        norm = optax.tree.norm(grads)
        updates, moments = optimizer.update(grads, state.optimizer, params)
        update_norm = optax.tree.norm(updates)

        # 2. Whether all of it is finite. Moments too: an infinite second moment makes an update of
        # 0, which looks well.
        sums = [jnp.sum(x, dtype=jnp.float32) for x in jax.tree.leaves(moments)]
        numbers = jnp.stack([norm, metrics["loss"], update_norm, *sums])
        finite = jnp.isfinite(numbers).all()

        # 3. Applied, or not.
        changed = optax.apply_updates(params, updates)
        params, moments = jax.tree.map(
            lambda after, before: jnp.where(finite, after, before),
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
        state = TrainState(step=state.step + finite, model=model, optimizer=moments)
        return state, metrics

    return update


def abstract_state(
    model, optimizer: optax.GradientTransformation, learns: Callable, mesh
) -> TrainState:
    """Returns the shapes of what `create` makes, on the devices of `mesh`."""
    params = nnx.split(model, learns, ...)[1]
    begin = functools.partial(fresh_moments, optimizer)
    moments = concrete(jax.eval_shape(begin, params), mesh)
    step = concrete(jax.ShapeDtypeStruct((), jnp.int32), mesh)
    return TrainState(step=step, model=model, optimizer=moments)
