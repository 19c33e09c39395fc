"""The groups that one step learns from: rollout passes, dynamic sampling."""

import dataclasses
from collections.abc import Callable

import jax

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
    counts: dict[str, float]  # for the log
    lengths: list[int]  # to which the prompts of each pass were padded
    ahead: PendingRollout | None  # the next step's rollout, if it was started


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

    With `config.refills`, groups whose rewards are all equal are replaced by later prompts, as long
    as refills last (dynamic sampling, DAPO). What is still missing is filled up with groups without
    signal.

    pending: this step's rollout, if it was started before. begin_next: starts the next step's
    rollout; called as soon as the devices are done with this one.
    """
    decoding_model = None
    started: list[PendingRollout] = []  # the next step's
    with_signal: list[Group] = []
    without_signal: list[Group] = []
    lengths: list[int] = []
    consumed = Consumed(reader.cursor)

    def begin_ahead() -> None:
        if begin_next is not None:
            started.append(begin_next())

    # A pass samples P prompts. Without refills there is one; with refills, as many as it takes to
    # have P groups with signal, but no more than `refills` after the first.
    while len(with_signal) < config.prompts and len(lengths) <= config.refills:
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
            # Without refills every group is kept: its place in the batch stays its prompt's.
            kept = group.has_signal or not config.refills
            (with_signal if kept else without_signal).append(group)

    # Over all groups that were sampled, also those that were replaced.
    flat = sum(not group.has_signal for group in with_signal) + len(without_signal)
    counts = {
        "frac_reward_zero_std": flat / (len(with_signal) + len(without_signal)),
        "rollout_passes": len(lengths),
    }
    groups = (with_signal + without_signal)[: config.prompts]
    ahead = started[0] if started else None
    return Collected(groups, consumed, counts, lengths, ahead)


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
