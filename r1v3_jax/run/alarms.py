"""Alarms: metrics that cross a threshold, and numbers that are not finite.

Knows metrics by name and nothing of models.
"""

from pathlib import Path

import jax
import numpy as np
from absl import logging

from r1v3_jax.config import Health
from r1v3_jax.files import first_process


def alarms(metrics: dict[str, float], config: Health) -> dict[str, str]:
    """Returns {name: the problem and what to do} for the thresholds that a step's metrics cross.

    A metric that a step does not have crosses nothing, and a threshold of 0 is never crossed.
    """

    def rises_above(metric: str, threshold: float) -> bool:
        return bool(threshold) and metrics.get(metric, np.nan) > threshold

    # A function of the user's that raises would else be seen only in the metrics.
    errors = "reward_errors/"
    failing = [name.removeprefix(errors) for name in metrics if name.startswith(errors)]
    # {name: (whether it rings, text)}; nan compares false with everything.
    h = config
    known = {
        "entropy_collapse": (
            metrics.get("entropy", np.nan) < h.entropy_below,
            f"the policy's entropy fell below {h.entropy_below} nats: it says the same whatever it "
            "is asked; lower the learning rate, raise the upper bound of the loss, or go back to a "
            "checkpoint",
        ),
        "entropy_explosion": (
            rises_above("entropy", h.entropy_above),
            f"the policy's entropy rose above {h.entropy_above} nats: lower the learning rate, or "
            "go back to a checkpoint",
        ),
        "zero_signal": (
            rises_above("frac_reward_zero_std", h.zero_signal_above),
            f"more than {h.zero_signal_above:.0%} of the groups have equal rewards and teach "
            "nothing: the questions are too easy or too hard, or the verifier accepts nothing",
        ),
        "sampler_gap": (
            rises_above("sampler_gap", h.sampler_gap_above),
            f"sampler and trainer disagree by more than {h.sampler_gap_above} nats a token: they "
            "do not compute the same policy (temperature, weights or masks differ; of rollout_int8 "
            "and in_flight some is expected)",
        ),
        "ess": (
            metrics.get("ess", np.nan) < h.ess_below,
            f"the effective sample size of tokens drawn by older weights, before the correction, "
            f"fell below {h.ess_below} of them: the policy has gone far from those that drew them; "
            "lower the learning rate or in_flight",
        ),
        "clipped_length": (
            rises_above("completions/clipped_ratio", h.clipped_above),
            f"more than {h.clipped_above:.0%} of the completions were cut at the length limit: "
            "raise max_completion_tokens, or give reward the term Overlong",
        ),
        "failed_term": (
            bool(failing),
            f"a term of the reward fails ({', '.join(failing)}), and its samples are not learnt "
            "from: `problem` in WORKDIR/rollouts has how",
        ),
    }
    return {name: text for name, (crossed, text) in known.items() if crossed}


class Alarms:
    """The alarms of a stage: each is logged once when it begins, and counted in every step."""

    def __init__(self, stage: str, config: Health):
        self.stage = stage
        self.config = config
        self.ringing: set[str] = set()

    def step(self, step: int, metrics: dict[str, float]) -> dict[str, int]:
        """Logs the alarms that begin with a step; returns {"alarm/NAME": 1} for all that ring."""
        texts = alarms(metrics, self.config)
        # Only what did not ring in the step before is logged.
        for name in texts.keys() - self.ringing:
            if first_process():
                logging.warning(
                    "%s, step %d: %s (alarm/%s)", self.stage, step, texts[name], name
                )
        self.ringing = set(texts)
        return {f"alarm/{name}": 1 for name in texts}


def not_finite(config: Health, what: str, batch, path: Path, skipped: int) -> None:
    """Writes the batch of a step whose numbers were not finite, then ends the run or lets it go on.

    The step changed nothing. what: names the numbers. batch: a pytree of arrays, whole on this
    host. path: STAGE_STEP.npz. skipped: such steps of the stage, this one among them.
    FloatingPointError if the config says stop, or there are too many.
    """
    if first_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        # {".rows.tokens": array}: a name that says where it was in the batch.
        leaves = jax.tree_util.tree_flatten_with_path(batch)[0]
        arrays = {
            jax.tree_util.keystr(key).lstrip("."): np.asarray(x) for key, x in leaves
        }
        np.savez(path, **arrays)
    problem = (
        f"{path.stem}: {what} not finite; the update was not applied, its batch is in "
        f"{path}"
    )
    if config.not_finite == "stop" or skipped > config.max_skipped:
        raise FloatingPointError(
            f"{problem} ({skipped} such steps in this stage, health.not_finite = "
            f"{config.not_finite!r}, health.max_skipped = {config.max_skipped}). Look at it, or "
            "lower the learning rate; --config.health.not_finite=skip goes on without such steps"
        )
    logging.warning("%s; the run goes on", problem)
