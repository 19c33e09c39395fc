"""A step's groups; dynamic sampling."""

import dataclasses
from collections.abc import Callable

from r1v3_jax.config import GRPO, Shaping
from r1v3_jax.data.reader import Consumed, Reader
from r1v3_jax.models.build import for_decoding
from r1v3_jax.rewards import score as rewards_score
from r1v3_jax.rewards import terms
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.sampler import GroupSampler, PendingRollout, begin


@dataclasses.dataclass(frozen=True)
class Collected:
    """The groups of one step, what they took of the reader, and counts for the log. lengths: to
    which the prompts of each pass were padded; ahead: the next rollout, if it was begun.
    """

    groups: list[Group]
    consumed: Consumed
    counts: dict[str, float]
    lengths: list[int]
    ahead: PendingRollout | None


def collect(
    sampler: GroupSampler,
    model,
    reader: Reader,
    key,
    config: GRPO,
    limit: int,
    progress: float = 1.0,
    *,
    flight: PendingRollout | None = None,
    then: Callable[[], PendingRollout] | None = None,
) -> Collected:
    """P groups for one step. `then` begins the next rollout, as soon as the devices are done;
    flight: this one, if it was begun so.

    With `config.refills`, groups whose rewards are all equal are replaced by later prompts, as long
    as refills last (dynamic sampling); what is still missing is filled up with groups without
    signal. progress: of the run, 0 to 1.
    """
    decoding, begun = None, []
    kept: list[Group] = []
    idle: list[Group] = []
    lengths, consumed = [], Consumed(reader.cursor)
    while len(kept) < config.prompts and len(lengths) <= config.refills:
        if flight is None:
            decoding = decoding or for_decoding(model, int8=config.rollout_int8)
            flight = begin(sampler, decoding, reader, key, config, limit, len(lengths))
        groups = sampler.finish(
            flight, accuracy_weight=config.accuracy_weight, progress=progress,
            meanwhile=lambda: then and begun.append(then()),
        )  # fmt: skip
        lengths.append(flight.length)
        consumed, flight = consumed.then(flight.consumed), None
        for group in (shaped(group, config, limit) for group in groups):
            (kept if group.has_signal or not config.refills else idle).append(group)
    seen = len(kept) + len(idle)
    without = sum(not group.has_signal for group in kept) + len(idle)
    counts = {"frac_reward_zero_std": without / seen, "rollout_passes": len(lengths)}
    groups = (kept + idle)[: config.prompts]
    return Collected(groups, consumed, counts, lengths, begun[0] if begun else None)


def shaped(group: Group, config: GRPO, limit: int) -> Group:
    """The group with `config.shaping` taken off its rewards."""
    if config.shaping == Shaping():
        return group
    question, made, scores = group.example.question, group.completions, []
    for g, (score, text) in enumerate(zip(group.scores, group.texts, strict=True)):
        ids = made.tokens[g, : made.lengths[g]]
        penalty = terms.penalty(config.shaping, ids, text, question, limit)
        scores.append(rewards_score.shaped(score, penalty))
    return dataclasses.replace(group, scores=scores)
