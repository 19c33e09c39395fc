"""The reward of a sample: a weighted sum of terms, each a function of one answered sample.

    Reward(((0.8, correct), (1 - 0.8, well_formed)))

is the reward of Skywork-R1V3 (report, section 3.1). The terms that ship are in `terms`; any
function of an `Answered` will do. A term that says None has nothing to say about this sample, and
is left out of the sum.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Callable
from typing import ClassVar

from r1v3_jax.losses.policy import check_number
from r1v3_jax.losses.schedules import Number, is_off, value
from r1v3_jax.rewards import terms
from r1v3_jax.rewards.answered import Answered
from r1v3_jax.rewards.verifiers.routing import describe
from r1v3_jax.rewards.verifiers.verdict import Verdict

Term = Callable[[Answered], float | None]


@dataclasses.dataclass(frozen=True)
class Score:
    """The reward of one completion, and its parts."""

    # None where the verifier or a term failed: the caller masks the sample out of its group.
    total: float | None
    accuracy: float | None  # 1 right, 0 wrong; between by a rule with partial credit
    format: float  # 1 if the completion follows the chat template, else 0
    verdict: Verdict
    extracted: str | None  # the text of the last answer; None: there is none
    reason: str  # of the verdict, in a few words
    # What each term that spoke says, before its weight, and the weights.
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    failed: str = ""  # the term that failed, if one did
    problem: str = ""  # how it failed, in a few words


@dataclasses.dataclass(frozen=True)
class Reward:
    """sum of weight * term(answered) over the terms that have something to say.

    A weight may move with the run, and may be negative: ((-0.5, Repeated(40)),) is a penalty. A row
    with an `accuracy_weight` w of its own weighs the terms of the answer by w and those of the form
    by 1 - w (`terms.is_of_answer`, `terms.is_of_form`).
    """

    terms: tuple[tuple[Number, Term], ...] = (
        (0.8, terms.correct),
        (1 - 0.8, terms.well_formed),
    )

    # See `GRPO.ALGORITHM`: chosen in a config file, no flag can change it.
    ALGORITHM: ClassVar[tuple[str, ...]] = ("terms",)

    def __post_init__(self):
        wanted = "pairs (weight, term), as ((0.8, correct), (0.2, well_formed))"
        for pair in self.terms if isinstance(self.terms, tuple) else [self.terms]:
            is_pair = isinstance(pair, tuple) and len(pair) == 2 and callable(pair[1])
            if not is_pair or isinstance(pair[1], type):
                raise ValueError(f"Reward.terms: {pair!r} is no term; wanted {wanted}")
        for (weight, _), name in zip(self.terms, self.names, strict=True):
            field = f"Reward.terms: the weight of {name}"
            check_number(field, weight, -1e30, 1e30, "finite, as 0.8")
            # A lambda is called <lambda>, which names no metric.
            if not re.fullmatch(r"[\w.]+", name):
                raise ValueError(
                    f"Reward.terms: a term is called {name!r}; wanted a function with a name, as "
                    "def my_term(answered): ..."
                )
        self._check_names()
        if all(is_off(weight) for weight, _ in self.terms):
            raise ValueError(
                "Reward.terms: all weights are 0, which rewards nothing; wanted "
                + wanted
            )

    def _check_names(self) -> None:
        """Raises ValueError for two terms of one name."""
        names = self.names
        term_of = dict(zip(names, (term for _, term in self.terms), strict=True))
        twice = [name for name in names if names.count(name) > 1]
        if not twice:
            return
        term = term_of[twice[0]]
        how = (
            "as that of a function that calls it: def short_repeats(answered): return "
            "Repeated(3)(answered)"
        )
        # A term that asks a helper says nothing when it is called.
        if hasattr(term, "ASKS") or hasattr(term, "READS_REFERENCE"):
            own = type(term).__name__
            how = f'as that of a class: class Second({own}): name = "second"'
        raise ValueError(
            f"Reward.terms: two terms are called {twice[0]!r}; give one another name, {how}"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the terms, under which they are logged."""
        return tuple(name_of(term) for _, term in self.terms)

    def __call__(self, answered: Answered) -> Score:
        """Returns the score of a sample. Raises nothing: a term that fails costs its sample.

        RIGHT, form 0.0   ->   parts {correct: 1.0, well_formed: 0.0}, total 0.8
        """
        check = answered.check
        score = Score(
            total=None,
            accuracy=terms.correct(answered),
            format=terms.well_formed(answered),
            verdict=check.verdict,
            extracted=check.extracted,
            reason=check.reason,
        )
        # Nobody knows whether the answer is right.
        if check.verdict is Verdict.ERROR:
            return dataclasses.replace(score, accuracy=None)
        parts = {}
        weights = {}
        for weight, term in self.terms:
            name = name_of(term)
            part, problem = evaluate(term, answered)
            if problem:
                return dataclasses.replace(score, failed=name, problem=problem)
            if part is not None:
                parts[name] = part
                weights[name] = _weight(weight, term, answered)
        return dataclasses.replace(
            score, total=total(parts, weights), parts=parts, weights=weights
        )


def total(parts: dict[str, float], weights: dict[str, float]) -> float:
    """Returns the sum of weight times part."""
    return sum(weights[name] * part for name, part in parts.items())


def evaluate(term: Term, answered: Answered) -> tuple[float | None, str]:
    """Returns what a term says, or how it failed: it raised, or its value is no finite number."""
    try:
        said = term(answered)
    except Exception as error:  # whatever a user's function raises
        return None, describe(error)
    if said is None:
        return None, ""
    if not isinstance(said, numbers.Real) or not math.isfinite(said):
        return None, f"it returned {said!r}, wanted a finite number or None"[:200]
    return float(said), ""


def name_of(term: Term) -> str:
    """Returns the name of a term: its `name`, that of the function, or of its class.

    correct -> correct, Repeated(40) -> repeated, MyTerm() -> my_term
    """
    name = getattr(term, "name", "") or getattr(term, "__name__", "")
    # Behind the first letter a capital begins a new word.
    return name or re.sub(r"(?<!^)(?=[A-Z])", "_", type(term).__name__).lower()


def _weight(weight: Number, term: Term, answered: Answered) -> float:
    """Returns the weight of a term for one sample, whose row may have its own."""
    own = answered.example.accuracy_weight
    if own is not None and terms.is_of_answer(term):
        return own
    if own is not None and terms.is_of_form(term):
        return 1 - own
    return value(weight, answered.progress)
