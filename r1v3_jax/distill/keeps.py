"""What a stage of collecting keeps of the answers to a question: chains, pairs, rates, texts.

A keep is a function of one group of scored samples, `keep(group) -> Kept`. The rows that it makes
are read back by `data.made.Made`. MAKES says what they hold:

    chains    {"index", "id", "chain"}                 a chain of thought to learn from
    pairs     {"index", "id", "chosen", "rejected"}    two answers, the first one preferred
    said      {"index", "id", "said", "right"}         an answer as a text, right or not
    rates     {"index", "id", "pass_rate", ...}        how often the question is solved

"index", the number of the question in its source, is written by `keep_all`.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable
from typing import ClassVar

import numpy as np

from r1v3_jax.distill.filter import KEPT, Filter
from r1v3_jax.fields import PositiveInt, check
from r1v3_jax.rewards.reward import Term, name_of
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group


@dataclasses.dataclass(frozen=True)
class Kept:
    """What is kept of one group."""

    rows: list[dict]
    verdicts: list[str]  # of each sample: "kept", or why it was not


def keep_all(
    groups: Iterable[tuple[int, Group]], keep: Callable[[Group], Kept]
) -> tuple[list[dict], dict[str, int]]:
    """Returns the rows that are kept of all groups, in their order, and {verdict: samples}.

    groups: what `rollout.sampler.sample` yields, (index of the question, its samples).
    """
    rows = []
    counts = collections.Counter()
    for index, group in groups:
        kept = keep(group)
        rows += [{"index": index, **row} for row in kept.rows]
        counts.update(kept.verdicts)
    return rows, dict(counts)


# -------------------------------------------------------------------------------------------------
# chains


@dataclasses.dataclass(frozen=True)
class Shortest:
    """The shortest right chains of a question, in tokens (OpenVLThinker, arXiv 2503.17352).

    cut: words of reflection. The thoughts end before the first of them, and the answer behind
    `</think>` stays:

        "7+8=15; Wait, 7+8 ...</think>\\n\\boxed{15}"   ->   "7+8=15;</think>\\n\\boxed{15}"
    """

    count: PositiveInt = 1  # of a question, at most
    cut: tuple[str, ...] = ()
    filter: Filter = Filter()

    MAKES: ClassVar[str] = "chains"
    __post_init__ = check

    def __call__(self, group: Group) -> Kept:
        lengths = group.completions.lengths
        return _best_chains(group, self, lambda g: lengths[g])


@dataclasses.dataclass(frozen=True)
class Right:
    """The right chains of a question as they were sampled (STaR, arXiv 2203.14465)."""

    count: PositiveInt = 1  # of a question, at most
    cut: tuple[str, ...] = ()  # as in `Shortest`
    filter: Filter = Filter()

    MAKES: ClassVar[str] = "chains"
    __post_init__ = check

    def __call__(self, group: Group) -> Kept:
        return _best_chains(group, self, lambda g: g)


@dataclasses.dataclass(frozen=True)
class Longest:
    """The longest right chains of a question, in tokens (MiroMind-M1's cold start)."""

    count: PositiveInt = 1  # of a question, at most
    cut: tuple[str, ...] = ()  # as in `Shortest`
    filter: Filter = Filter()

    MAKES: ClassVar[str] = "chains"
    __post_init__ = check

    def __call__(self, group: Group) -> Kept:
        lengths = group.completions.lengths
        return _best_chains(group, self, lambda g: -lengths[g])


@dataclasses.dataclass(frozen=True)
class Best:
    """The right chains of a question that a scorer likes best (M-STAR, arXiv 2412.17451, top K).

    by: a term of `Collect.reward`. A sample of which it has nothing to say comes last.
    """

    by: Term
    count: PositiveInt = 2  # of a question, at most
    cut: tuple[str, ...] = ()  # as in `Shortest`
    filter: Filter = Filter()

    MAKES: ClassVar[str] = "chains"
    # See `GRPO.ALGORITHM`: chosen in a config file, no flag can change it.
    ALGORITHM: ClassVar[tuple[str, ...]] = ("by",)
    __post_init__ = check

    def __call__(self, group: Group) -> Kept:
        return _best_chains(group, self, lambda g: -self.score(group, g))

    def score(self, group: Group, sample: int) -> float:
        """Returns what the scorer says of one sample; -inf where it says nothing."""
        return group.scores[sample].parts.get(name_of(self.by), -np.inf)


def _best_chains(
    group: Group,
    keep: "Shortest | Longest | Right | Best",
    order: Callable[[int], float],
) -> Kept:
    """Keeps the first `keep.count` chains, in an order of samples, that pass the filter."""
    verdicts = [keep.filter.verdict(group, g) for g in range(len(group.texts))]
    # 1. What may be kept, cut. A chain that begins with a word of reflection has no thoughts left.
    chains = {}
    for g, verdict in enumerate(verdicts):
        if verdict != KEPT:
            continue
        chain = before_reflection(group.texts[g], keep.cut)
        if chain is None:
            verdicts[g] = "begins with a word of reflection"
        else:
            chains[g] = chain

    # 2. The first of them; of equal ones the one sampled before.
    ranked = sorted(chains, key=order)
    for g in ranked[keep.count :]:
        verdicts[g] = "others of its question were better"
    rows = [{"id": group.example.id, "chain": chains[g]} for g in ranked[: keep.count]]
    return Kept(rows, verdicts)


def before_reflection(text: str, words: tuple[str, ...]) -> str | None:
    """Returns a completion whose thoughts end before the first of some words.

    None if nothing of the thoughts is left.
    """
    thoughts, end, answer = text.partition("</think>")
    places = [place for word in words if (place := thoughts.find(word)) >= 0]
    if not places:
        return text
    cut = thoughts[: min(places)].rstrip()
    if not cut:
        return None
    # The line break in front of </think> is not part of the thought.
    space = thoughts[len(thoughts.rstrip()) :]
    return f"{cut}{space}{end}{answer}"


# -------------------------------------------------------------------------------------------------
# pairs


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of a right and a wrong answer to a question (MPO, arXiv 2411.10442, section 3).

    Both are whole and well formed: an answer that was cut, or that has no box, is no wrong answer
    but a third kind, which is left out. No answer is in two pairs.

        right, wrong, wrong, right, wrong, most = 2   ->   (0, 1), (3, 2)
    """

    most: PositiveInt = 1  # pairs of a question; MPO takes up to 15
    filter: Filter = Filter()

    MAKES: ClassVar[str] = "pairs"
    __post_init__ = check

    def __call__(self, group: Group) -> Kept:
        verdicts = [self.filter.verdict(group, g) for g in range(len(group.texts))]
        right = [g for g, verdict in enumerate(verdicts) if verdict == KEPT]
        wrong = [g for g, verdict in enumerate(verdicts) if verdict == "wrong"]
        wrong = [g for g in wrong if group.scores[g].format == 1]
        pairs = list(zip(right, wrong, strict=False))[: self.most]
        # 3 right, 2 wrong, most = 1: one of each could be one more pair, and one right answer is
        # left alone.
        possible = min(len(right), len(wrong))
        for g in right[possible:]:
            verdicts[g] = "right, without a wrong answer beside it"
        for g in wrong[possible:]:
            verdicts[g] = "wrong, without a right answer beside it"
        for g in right[len(pairs) : possible] + wrong[len(pairs) : possible]:
            verdicts[g] = "in a pair beyond `most`"
        for pair in pairs:
            for g in pair:
                verdicts[g] = KEPT
        rows = [
            {
                "id": group.example.id,
                "chosen": group.texts[chosen],
                "rejected": group.texts[rejected],
            }
            for chosen, rejected in pairs
        ]
        return Kept(rows, verdicts)


# -------------------------------------------------------------------------------------------------
# answers as texts, and how often they are right


@dataclasses.dataclass(frozen=True)
class Said:
    """Answers as texts, right or wrong: what a second model is to read (Insight-V's judge)."""

    count: PositiveInt = 1  # of a question, at most

    MAKES: ClassVar[str] = "said"
    __post_init__ = check

    def __call__(self, group: Group) -> Kept:
        return _said(group, range(len(group.texts)), self.count)


@dataclasses.dataclass(frozen=True)
class Wrong:
    """Wrong answers as texts (Insight-V shows its judge flawed chains too)."""

    count: PositiveInt = 1  # of a question, at most

    MAKES: ClassVar[str] = "said"
    __post_init__ = check

    def __call__(self, group: Group) -> Kept:
        wrong = [
            g
            for g, score in enumerate(group.scores)
            if score.verdict is Verdict.WRONG and group.completions.ended[g]
        ]
        return _said(group, wrong, self.count)


def _said(group: Group, samples, count: int) -> Kept:
    """Keeps the texts of the first `count` of some samples."""
    chosen = list(samples)[:count]
    verdicts = ["not asked for"] * len(group.texts)
    rows = []
    for g in chosen:
        verdicts[g] = KEPT
        is_right = group.scores[g].verdict is Verdict.RIGHT
        row = {"id": group.example.id, "said": group.texts[g], "right": is_right}
        rows.append(row)
    return Kept(rows, verdicts)


@dataclasses.dataclass(frozen=True)
class Rates:
    """How often each question is solved, and how far its rewards differ.

    With `data.mixtures.Curriculum` over the rows, later stages ask the questions that still teach
    something: those with 0 < pass_rate < 1, or with a `reward_std` above 0. That is the selective
    sample buffer of Skywork-R1V2 (arXiv 2504.16656) as it is used offline.
    """

    MAKES: ClassVar[str] = "rates"

    def __call__(self, group: Group) -> Kept:
        verified = [score for score in group.scores if score.total is not None]
        num_right = sum(score.verdict is Verdict.RIGHT for score in verified)
        row = {
            "id": group.example.id,
            "source": group.example.source,
            # Nobody knows, where no answer could be verified.
            "pass_rate": num_right / len(verified) if verified else None,
            "reward_std": float(np.std([score.total for score in verified]))
            if verified
            else None,
            "samples": len(verified),
        }
        return Kept([row], [KEPT] * len(group.texts))


def reward_pass(groups: list[Group], keep: Best) -> float:
    """Returns Reward-Pass@K: the share of questions with a right answer among the best K.

    The best are those that the scorer of `keep` likes best, right or wrong; K is `keep.count`
    (M-STAR, section 3.3). Questions of which no answer was verified do not count.
    """
    passed = []
    for group in groups:
        verified = [
            g for g, score in enumerate(group.scores) if score.total is not None
        ]
        if not verified:
            continue
        best = sorted(verified, key=lambda g: -keep.score(group, g))[: keep.count]
        passed.append(any(group.scores[g].verdict is Verdict.RIGHT for g in best))
    return float(np.mean(passed)) if passed else 0.0
