"""A bonus for entropy whose coefficient follows the measured entropy. On the host."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class AdaptiveEntropy:
    """Raises the coefficient after a step whose entropy is at most `target`, else lowers it.

    Skywork-OR1 (arXiv 2505.22312), section 4: c + step where H <= target, else c - step, within
    `low` and `high`; the bonus counts c where H <= target, else nothing. H is the mean over the
    step's sampled tokens, before the update.

        target .2, step .005, start 0      H  [.1   .1    .3    .1   ]
                                           c  [ 0  .005  .010  .005  ]   then .010
                                      counts  [ 0  .005   0    .005  ]
    """

    target: float = 0.2  # nats a token
    step: float = 0.005
    start: float = 0.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        for name in ("target", "step"):
            number = getattr(self, name)
            if not 0 < number < math.inf:
                raise ValueError(
                    f"AdaptiveEntropy.{name} is {number!r}; it must be positive, as 0.2 nats a "
                    "token for target and 0.005 for step"
                )
        if not 0 <= self.low <= self.start <= self.high < math.inf:
            raise ValueError(
                f"AdaptiveEntropy: low = {self.low!r}, start = {self.start!r} and high = "
                f"{self.high!r}; wanted 0 <= low <= start <= high, as 0.0, 0.0 and 1.0"
            )

    def applied(self, coefficient: float, entropy: float) -> float:
        """Returns what the bonus of a step counts whose entropy is `entropy`."""
        return coefficient if entropy <= self.target else 0.0

    def following(self, coefficient: float, entropy: float) -> float:
        """Returns the coefficient of the next step; an entropy that is nan changes nothing."""
        if math.isnan(entropy):
            return coefficient
        change = self.step if entropy <= self.target else -self.step
        return min(max(coefficient + change, self.low), self.high)
