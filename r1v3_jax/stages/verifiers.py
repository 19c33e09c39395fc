"""Whether the questions of a stage can be verified (`check_verifiers`)."""

import contextlib
from collections.abc import Callable

from r1v3_jax.config import Verify
from r1v3_jax.data.made import not_made
from r1v3_jax.data.sources import CHECKED
from r1v3_jax.rewards.verifiers import routing
from r1v3_jax.rewards.verify import check_allowed
from r1v3_jax.types import DroppedRow


def check_verifiers(source: Callable, settings: Verify) -> None:
    """Raises ValueError if one of the first rows asks for a verifier that the run does not have.

    That is a function that is not allowed, or a model where there is none: all samples of such a
    row would be errors. Rows that an earlier stage will make are looked at when they are there.
    """
    if not_made(source):
        return
    # A bad row is dropped when its turn comes; only its verifier is looked at here.
    for index in range(CHECKED):
        with contextlib.suppress(DroppedRow):
            example = source(index)
            try:
                check_allowed(routing.parse(example.verifier), settings)
            except ValueError as error:
                raise ValueError(f"{example.source}, {example.id}: {error}") from error
