"""The coefficient of an adaptive entropy bonus, from step to step of a stage."""

from r1v3_jax.losses import AdaptiveEntropy
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.metrics import mean_entropy


class EntropyBonus:
    """Follows the entropy of a stage's samples; does nothing for a coefficient that is a number.

    Every host has all samples of a step, and so computes the same.
    """

    def __init__(self, rule, coefficient: float | None):
        """Goes on from `coefficient`, or starts (None). rule: `GRPO.entropy_coef`."""
        self.rule = rule if isinstance(rule, AdaptiveEntropy) else None
        # Of the next step that is measured, and what the bonus counts in the last that was.
        self.coefficient = coefficient
        self.applied = 0.0
        if self.rule is not None and coefficient is None:
            self.coefficient = self.rule.start

    def measure(self, groups: list[Group]) -> None:
        """Decides what the bonus counts in the step of these samples, and moves on."""
        if self.rule is None:
            return
        entropy = mean_entropy(groups)
        self.applied = self.rule.applied(self.coefficient, entropy)
        self.coefficient = self.rule.following(self.coefficient, entropy)

    def metrics(self) -> dict[str, float]:
        """Returns the coefficient of the next step; what counts is `number/entropy_coef`."""
        return {} if self.rule is None else {"entropy_coef/next": self.coefficient}
