"""What learns, AdamW, and the learning rate by step."""

from collections.abc import Callable

import jax
import optax

from r1v3_jax.config import LoRA, Optimizer
from r1v3_jax.config.fit import parts_of
from r1v3_jax.config.lora import adapted_parts

# The word in a config -> the part of the model.
PARTS = {"llm": "language", "connector": "connector", "vision": "vision"}


def trainable(names: str, lora: LoRA | None = None) -> Callable:
    """Returns a predicate of parameter paths for what learns.

    names: "all", or parts joined by "+": "connector", "llm+connector", ... ValueError for a part
    that does not exist. lora: of a part that it adapts, only the adapters learn.
    """
    roots = {PARTS[name] for name in parts_of(names)}
    adapted = {PARTS[name] for name in adapted_parts(names)} if lora else set()

    # A path is ("language", "blocks", "q"): its first word is the part. Adapters are at
    # ("language", "blocks", "adapters", "q", "a").
    def learns(path: tuple, value) -> bool:
        if path[0] in adapted:
            return "adapters" in path
        return path[0] in roots

    return learns


def what_learns(stage) -> Callable:
    """Returns the predicate of a stage's config; see `trainable`."""
    return trainable(stage.trainable, stage.lora)


def make_optimizer(config: Optimizer, total_steps: int) -> optax.GradientTransformation:
    """Returns AdamW behind a global-norm clip, with the learning rate of `schedule`."""
    adamw = optax.adamw(
        schedule(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree_util.tree_map_with_path(decays, params),
    )
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adamw)


def decays(path, _) -> bool:
    """Whether a parameter decays: matrices do; norms, biases and layer scales are left alone."""
    # The last key that is a name: behind it there may be the index of a layer.
    name = next(
        str(key.key) for key in reversed(path) if isinstance(key, jax.tree_util.DictKey)
    )
    return not any(part in name for part in ("norm", "bias", "scale"))


def schedule(config: Optimizer, total_steps: int) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, then constant or cosine.

    The cosine ends at `final_lr_fraction` of `lr`, after `total_steps`, or `config.schedule_steps`
    if that is given. Beyond them the rate stays at its last value.
    """
    total_steps = config.schedule_steps or total_steps
    after_warmup = optax.constant_schedule(config.lr)
    if config.schedule == "cosine":
        decay_steps = max(total_steps - config.warmup_steps, 1)
        after_warmup = optax.cosine_decay_schedule(
            config.lr, decay_steps, config.final_lr_fraction
        )
    # Without warm-up the first piece is one step at the full rate.
    start = 0.0 if config.warmup_steps else config.lr
    warmup = optax.linear_schedule(start, config.lr, max(config.warmup_steps, 1))
    return optax.join_schedules([warmup, after_warmup], [config.warmup_steps])
