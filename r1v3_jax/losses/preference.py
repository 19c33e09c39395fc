"""Losses of preferences: what an update of (chosen, rejected) pairs makes smaller.

The reward of an answer is beta times the log-ratio of policy and reference, summed over its tokens:
r = beta sum_t (log p(t) - log p_ref(t)). (arXiv 2305.18290, equation 5.)
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Mpo:
    """-w_p log s(r_c - r_r) - w_q [log s(r_c - d) + log s(d - r_r)] - w_g log p(chosen).

    Mixed preference optimization, arXiv 2411.10442, with the weights of InternVL's scripts; s is
    the logistic function, r_c and r_r the rewards of a pair. The first term is DPO, a mean over
    pairs. The second is BCO, which says of each answer by itself whether it is good; d is the mean
    of rewards up to now, see `RunningMean`. The third is supervised learning, a mean over all
    chosen tokens. DPO is Mpo(1.0, 0.0, 0.0); with the supervised term, as in Insight-V, it is
    Mpo(1.0, 0.0, 1.0).
    """

    preference: float = 0.8
    quality: float = 0.2
    generation: float = 1.0

    def __call__(
        self,
        chosen: jax.Array,
        rejected: jax.Array,
        shift: jax.Array,
        weight: float,
        generation: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss of some pairs, and its terms, each without its weight.

        chosen, rejected: float32[B], the rewards of each pair. shift: float32[], d. weight: of each
        pair, 1 / pairs of the step. generation: float32[], the supervised loss of these pairs,
        already weighted.
        """
        preference = weight * jnp.sum(minus_log_sigmoid(chosen - rejected))
        good = minus_log_sigmoid(chosen - shift)
        bad = minus_log_sigmoid(shift - rejected)
        quality = weight * jnp.sum(good + bad)
        loss = self.preference * preference
        loss += self.quality * quality
        loss += self.generation * generation
        terms = {
            "loss/preference": preference,
            "loss/quality": quality,
            "loss/generation": generation,
        }
        return loss, terms


def minus_log_sigmoid(x: jax.Array) -> jax.Array:
    """Returns -log(1 / (1 + exp(-x))); finite wherever x is."""
    return jax.nn.softplus(-x)


@dataclasses.dataclass(frozen=True)
class RunningMean:
    """The mean of the rewards of all steps before this one: d of BCO, arXiv 2404.04656.

    A step counts once, with the mean over its chosen and rejected answers. InternVL's code counts
    the step itself too: one step of k moves the mean by (its own - the mean) / k. Without it the
    shift is known before the update, whatever number of micro-batches and hosts the step is cut
    into.

        0.0 before step 0; step means .2, .4   ->   0.0, 0.2, 0.3
    """

    mean: float = 0.0
    steps: int = 0

    def followed_by(self, step_mean: float) -> "RunningMean":
        """Returns the mean with one more step."""
        steps = self.steps + 1
        return RunningMean(self.mean + (step_mean - self.mean) / steps, steps)
