"""What learns, AdamW, schedules."""

from collections.abc import Callable

import jax
import optax

from r1v3_jax.config import Optimizer

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
    name = next(
        str(key.key) for key in reversed(path) if isinstance(key, jax.tree_util.DictKey)
    )
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
        0.0 if config.warmup_steps else config.lr,
        config.lr,
        max(config.warmup_steps, 1),
    )
    return optax.join_schedules([warmup, after], [config.warmup_steps])
