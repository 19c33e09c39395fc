"""The groups that one step learns from: rollout passes, dynamic sampling."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from r1v3_jax.config import GRPO
from r1v3_jax.data.reader import Consumed, Reader
from r1v3_jax.models.build import for_decoding
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.sampler import GroupSampler, PendingRollout
from r1v3_jax.run import watchdog
from r1v3_jax.types import StepInfo


@dataclasses.dataclass(frozen=True)
class Collected:
    """The groups of one step, and what it took to make them."""

    groups: list[Group]
    consumed: Consumed  # rows that were taken of the reader
    # For the log, over all groups that were sampled, also those that were replaced.
    counts: dict[str, float]
    lengths: list[int]  # to which the prompts of each pass were padded
    ahead: PendingRollout | None  # the next step's rollout, if it was started
    # Tokens that were sampled in this step, where they are not those of its groups.
    drawn: int | None = None


def collect(
    sampler: GroupSampler,
    model,
    reader: Reader,
    config: GRPO,
    info: StepInfo,
    *,
    pending: PendingRollout | None = None,
    begin_next: Callable[[], PendingRollout] | None = None,
) -> Collected:
    """Returns P groups for one step.

    With `config.refills`, groups without signal are replaced by later prompts, as long as refills
    last (dynamic sampling, DAPO). What is still missing is filled up with such groups.

    pending: this step's rollout, if it was started before. begin_next: starts the next step's
    rollout; called as soon as the devices are done with this one.
    """
    decoding_model = None
    started: list[PendingRollout] = []  # the next step's
    kept: list[Group] = []
    replaced: list[Group] = []
    lengths: list[int] = []
    consumed = Consumed(reader.cursor)

    def begin_ahead() -> None:
        if begin_next is not None:
            started.append(begin_next())

    # A pass samples P prompts. Without refills there is one; with refills, as many as it takes to
    # have P groups to keep, but no more than `refills` after the first.
    while len(kept) < config.prompts and len(lengths) <= config.refills:
        if pending is None:
            # The weights are laid out for decoding once a step.
            if decoding_model is None:
                decoding_model = for_decoding(model, int8=config.rollout_int8)
            pending = begin(
                sampler, decoding_model, reader, config, info, passes=len(lengths)
            )
        groups = sampler.finish(
            pending,
            when_all_are_sampled=begin_ahead,
        )
        lengths.append(pending.length)
        consumed = consumed.followed_by(pending.consumed)
        pending = None
        for group in groups:
            (kept if is_kept(group, config) else replaced).append(group)

    sampled = kept + replaced
    ahead = started[0] if started else None
    counts = counts_of(sampled, len(lengths))
    return Collected(sampled[: config.prompts], consumed, counts, lengths, ahead)


def counts_of(groups: list[Group], passes: int) -> dict[str, float]:
    """Returns what is logged of all groups that were sampled for a step, in so many passes."""
    counts = {
        "frac_reward_zero_std": np.mean([not group.has_signal for group in groups]),
        "frac_mixed_answers": np.mean([group.is_mixed for group in groups]),
        "rollout_passes": passes,
        "rollout_tokens": sum(group.completions.lengths.sum() for group in groups),
    }
    return {name: float(count) for name, count in counts.items()}


def is_kept(group: Group, config: GRPO) -> bool:
    """Whether a step learns from a group, rather than sampling another prompt in its place."""
    # Without refills every group is kept: its place in the batch stays its prompt's.
    if not config.refills:
        return True
    return group.is_mixed if config.refill_by == "accuracy" else group.has_signal


def begin(
    sampler: GroupSampler,
    model,
    reader: Reader,
    config: GRPO,
    info: StepInfo,
    passes: int = 0,
) -> PendingRollout:
    """Starts a pass over the next P prompts: the first of its step, or a later one.

    passes: how many passes the step has had; each has a random key of its own.
    """
    with watchdog.own_work():
        items, consumed = reader.take(config.prompts)
    examples = [item.example for item in items]
    key = jax.random.fold_in(info.key, passes)
    info = dataclasses.replace(info, key=key)
    pending = sampler.begin(model, examples, info)
    return dataclasses.replace(pending, consumed=consumed)
