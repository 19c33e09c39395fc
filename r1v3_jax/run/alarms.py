"""Entropy, groups without signal, numbers that are not finite."""

from pathlib import Path

import jax
import numpy as np
from absl import logging

from r1v3_jax.config import Health
from r1v3_jax.files import first_process


def alarms(metrics: dict[str, float], config: Health) -> dict[str, str]:
    """{name: what is wrong and what to do} of the thresholds that a step's metrics cross."""
    h = config
    known = {
        "entropy_collapse": (
            metrics.get("entropy", np.nan) < h.entropy_below,
            f"the policy's entropy fell below {h.entropy_below} nats: it says the same whatever it "
            "is asked; lower the learning rate, raise clip_high, or go back to a checkpoint",
        ),
        "entropy_explosion": (
            h.entropy_above and metrics.get("entropy", np.nan) > h.entropy_above,
            f"the policy's entropy rose above {h.entropy_above} nats: lower the learning rate, or "
            "go back to a checkpoint",
        ),
        "zero_signal": (
            h.zero_signal_above
            and metrics.get("frac_reward_zero_std", np.nan) > h.zero_signal_above,
            f"more than {h.zero_signal_above:.0%} of the groups have equal rewards and teach "
            "nothing: the questions are too easy or too hard, or the verifier accepts nothing",
        ),
        "sampler_gap": (
            h.sampler_gap_above
            and metrics.get("sampler_gap", np.nan) > h.sampler_gap_above,
            f"sampler and trainer disagree by more than {h.sampler_gap_above} nats a token: they "
            "do not compute the same policy (temperature, weights or masks differ; of rollout_int8 "
            "some is expected)",
        ),
        "clipped_length": (
            h.clipped_above
            and metrics.get("completions/clipped_ratio", np.nan) > h.clipped_above,
            f"more than {h.clipped_above:.0%} of the completions were cut at the length limit: "
            "raise max_completion_tokens, or use shaping.overlong",
        ),
    }
    return {name: text for name, (crossed, text) in known.items() if crossed}


class Alarms:
    """The alarms of a stage: each said once when it begins, and counted in every step it lasts."""

    def __init__(self, stage: str, config: Health):
        self.stage, self.config, self.ringing = stage, config, set()

    def step(self, step: int, metrics: dict[str, float]) -> dict[str, int]:
        found = alarms(metrics, self.config)
        for name in found.keys() - self.ringing:
            if first_process():
                logging.warning(
                    "%s, step %d: %s (alarm/%s)", self.stage, step, found[name], name
                )
        self.ringing = set(found)
        return {f"alarm/{name}": 1 for name in found}


def not_finite(config: Health, what: str, batch, path: Path, skipped: int) -> None:
    """For a step whose numbers were not finite, and so changed nothing: writes its batch to `path`,
    STAGE_STEP.npz, and ends the run or lets it go on.

    what: was not finite. batch: a pytree of arrays, whole on this host. skipped: such steps of the
    stage, this one among them. FloatingPointError if that is the policy, or they are too many.
    """
    if first_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        named = jax.tree_util.tree_flatten_with_path(batch)[0]
        np.savez(
            path,
            **{jax.tree_util.keystr(p).lstrip("."): np.asarray(x) for p, x in named},
        )
    said = f"{path.stem}: {what} not finite; the update was not applied, its batch is in {path}"
    if config.not_finite == "stop" or skipped > config.max_skipped:
        raise FloatingPointError(
            f"{said} ({skipped} such steps in this stage, health.not_finite = "
            f"{config.not_finite!r}, health.max_skipped = {config.max_skipped}). Look at it, or "
            "lower the learning rate; --config.health.not_finite=skip goes on without such steps"
        )
    logging.warning("%s; the run goes on", said)
