"""A draft head that guesses tokens while a stage samples (`Draft`)."""

import dataclasses
from typing import Annotated

from r1v3_jax.config.sft import Optimizer
from r1v3_jax.fields import Limit, PositiveInt, at_least, check


@dataclasses.dataclass(frozen=True)
class Draft:
    """Exact speculation: several tokens a pass, guessed by a head that learns beside the policy.

    Samples are the same with any guesses, token for token; only the time they take is not. (A pass
    of several tokens rounds its sums in another order, so a near tie may be decided otherwise:
    hardly ever in float32, now and then in bfloat16.)
    """

    # T, tokens that a pass through the model reads: the drawn one and T - 1 guesses.
    tokens: Annotated[int, Limit(lambda n: 2 <= n <= 4, "2, 3 or 4")] = 2
    # Tokens that a pass has to yield for guesses to pay: what a pass of T tokens takes, over what
    # one of a single token does. The dry run prints it. A rollout below it is the last with
    # guesses, until the next try; with off_policy_steps the one under way has them still.
    pays_from: Annotated[float, at_least(1, "a pass yields one token in any case")] = (
        1.3
    )
    # Steps between tries while guesses do not pay.
    retry_every: PositiveInt = 10
    # Of the head; the policy's own optimizer knows nothing of it.
    optimizer: Optimizer = Optimizer(lr=1e-4)

    def __post_init__(self):
        check(self)
        if self.pays_from > self.tokens:
            raise ValueError(
                f"Draft.pays_from is {self.pays_from} and Draft.tokens {self.tokens}: no pass "
                f"yields more than {self.tokens}; 1.3 would do"
            )


def check_draft(name: str, stage) -> None:
    """Raises ValueError for a draft head that stage `name` cannot use."""
    if stage.draft is not None and stage.in_flight:
        raise ValueError(
            f"{name}.draft guesses tokens of samples that end with their step, and "
            f"{name}.in_flight = {stage.in_flight} lets them go on; in_flight = 0 or draft = None "
            "would do"
        )
