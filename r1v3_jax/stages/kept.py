"""What a GRPO stage saves, and goes on from: its training state and what stands beside it."""

import dataclasses

import jax

from r1v3_jax.config import GRPO
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.run.checkpoints import States
from r1v3_jax.stages.loop import Resume, newest, resumed
from r1v3_jax.train.update import TrainState, release


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
    """A training state, and what learns or moves with it."""

    state: TrainState
    reference: R1V3 | None  # that follows the policy
    drafts: TrainState | None = None  # of the draft head


def saved_state(
    config: GRPO,
    state: TrainState,
    reference: R1V3 | None,
    drafts: TrainState | None,
) -> TrainState | Kept:
    """Returns what is saved of a stage: the training state, alone if nothing moves with it."""
    if not config.follows and drafts is None:
        return state
    return Kept(state, reference if config.follows else None, drafts)


def newest_of_all(
    config: GRPO,
    states: States,
    state: TrainState,
    reference: R1V3 | None,
    drafts: TrainState | None,
) -> tuple[Kept, Resume]:
    """Returns the newest good state on disk, what stands beside it, and where it stands.

    Without one, and for a reference that stays as it is, what was given is returned for it.
    """
    given = Kept(state, reference, drafts)
    like = saved_state(config, state, reference, drafts)
    if like is state:
        state, resume = newest(states, state)
        return Kept(state, reference, drafts), resume
    saved = states.newest(like)
    if saved is None:
        return given, Resume()
    step, kept, extra = saved
    release(state.model, kept_by=kept.state.model)
    if config.follows:
        release(reference)
    else:
        kept = dataclasses.replace(kept, reference=reference)
    if drafts is not None:
        release(drafts.model)
    return kept, resumed(step, extra)
