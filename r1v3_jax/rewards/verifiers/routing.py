"""Reads which rules a row's `verifier` names, and applies them to one box.

""                                  mathematics, and the run's model verifier if it has one
mathematics                         the rule alone
number relative=0.01                a rule with an argument
detection iou=0.5                   ... iou=dynamic is the run's threshold, `Verify.iou`
overlap iou=dynamic completeness=0.3    detection with partial credit: V-Triune's reward
my_project.checks:same_molecule     a function of the user's, see `custom`
choice|model                        right if the rule says so OR the model verifier does
model                               the model verifier alone
"""

import dataclasses
import difflib
import functools

from r1v3_jax.rewards.verifiers import (
    choice,
    custom,
    detection,
    grids,
    knights,
    mathematics,
    numbers,
    sets,
    strings,
)
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict

# (answer, box) -> how the box differs, or None if it is right.
RULES = {
    "mathematics": mathematics.difference,
    "choice": choice.difference,
    "number": numbers.difference,
    "string": strings.difference,
    "set": sets.difference,
    "detection": detection.difference,
    "grid": grids.difference,
    "knights": knights.difference,
}
# With partial credit: (answer, box) -> how the box differs, and what the answer is worth.
GRADED = {"overlap": detection.overlap}
NAMES = [*RULES, *GRADED]
ARGUMENTS = {
    "number": ("relative", "absolute"),
    "detection": ("iou",),
    "overlap": ("iou", "completeness"),
}
MODEL = "model"
MAX_BOX = 20_000  # characters of a box that a rule reads


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule with its arguments."""

    name: str  # one of NAMES, or "package.module:function"
    arguments: tuple[tuple[str, float], ...] = ()  # (("relative", 0.01),)


@dataclasses.dataclass(frozen=True)
class Verifier:
    """What a row's `verifier` means: a box is right if one of the rules or the model says so."""

    rules: tuple[Rule, ...]
    model: bool  # whether the model verifier is asked too


# 1. Reading a row's `verifier`


@functools.lru_cache(maxsize=4096)
def parse(text: str, *, iou: float = 1.0, model: bool = False) -> Verifier:
    """Returns what a row's `verifier` means. ValueError if it means nothing.

    iou: the threshold that iou=dynamic means. model: whether the run has a model
    verifier, which an empty text then means too.
    """
    if text.strip():
        parts = [part.strip() for part in text.split("|")]
        with_model = MODEL in parts
    else:
        parts = ["mathematics"]
        with_model = model
    rules = tuple(_rule(part, iou) for part in parts if part != MODEL)
    graded = [rule.name for rule in rules if rule.name in GRADED]
    if with_model and graded:
        raise ValueError(
            f"{graded[0]} has degrees, which a model does not know; leave one of them out"
        )
    return Verifier(rules, with_model)


def _rule(text: str, iou: float) -> Rule:
    name, *words = text.split() or [""]
    if name not in NAMES and not custom.is_name(name):
        near = difflib.get_close_matches(name, [*NAMES, MODEL], 1)
        if near:
            hint = f"did you mean {near[0]!r}?"
        else:
            hint = f"choose from {', '.join(NAMES)}, {MODEL}"
        raise ValueError(f"no verifier {name[:100]!r}; {hint}")
    return Rule(name, tuple(_argument(name, word, iou) for word in words))


def _argument(name: str, word: str, iou: float) -> tuple[str, float]:
    """Reads one argument of the rule `name`: "relative=0.01" -> "relative", 0.01."""
    key, _, value = word.partition("=")
    if key not in ARGUMENTS.get(name, ()):
        known = ", ".join(ARGUMENTS.get(name, ())) or "none"
        raise ValueError(
            f"verifier {name} has no argument {key[:100]!r}; it has: {known}"
        )
    if (key, value) == ("iou", "dynamic"):
        return key, iou
    return key, _size(word, value)


def _size(word: str, value: str) -> float:
    try:
        size = float(value)
    except ValueError:
        size = -1.0
    # Written as a chain, the comparison refuses nan too.
    if not 0 <= size < float("inf"):
        raise ValueError(f"{word[:100]!r}: wanted a number of at least 0")
    return size


# 2. Applying rules


def is_quick(rules: tuple[Rule, ...], answer: str, box: str) -> bool:
    """Returns whether `check` needs no parser, and so no process of its own.

    That is so for letters, text and plain numbers.
    """
    # A box that is too long is refused unread.
    if len(box) > MAX_BOX:
        return True
    return all(_is_quick(rule.name, answer, box) for rule in rules)


def _is_quick(name: str, answer: str, box: str) -> bool:
    if name == "mathematics":
        return mathematics.is_quick(answer, box)
    if name == "number":
        return numbers.is_quick(answer, box)
    return name in ("choice", "string", "knights")


def check(rules: tuple[Rule, ...], answer: str, box: str) -> Check:
    """Applies the rules to one box: RIGHT if one finds it right, ERROR if none does and one failed.

    The credit is the largest that a rule gives. Raises nothing.
    """
    if len(box) > MAX_BOX:
        return Check(Verdict.WRONG, box, "too long")
    reason = ""
    is_failed = False
    is_right = False
    partial_credits = []
    for rule in rules:
        try:
            difference, credit = _apply(rule, answer, box)
        except Exception as error:  # whatever sympy or a user's function raises
            reason = describe(error)
            is_failed = True
            continue
        # Full credit: no other rule can give more.
        if difference is None and credit is None:
            return Check(Verdict.RIGHT, box, "equal")
        if difference is None:
            is_right = True
        # The reason of a failure outlasts the differences that other rules see.
        if not is_failed:
            reason = difference
        if credit is not None:
            partial_credits.append(credit)
    worth = max(partial_credits, default=None)
    if is_right:
        return Check(Verdict.RIGHT, box, "equal", worth)
    # A rule that failed might have found the box right: the credit of the others says too little.
    if is_failed:
        return Check(Verdict.ERROR, box, reason)
    return Check(Verdict.WRONG, box, reason, worth)


def _apply(rule: Rule, answer: str, box: str) -> tuple[str | None, float | None]:
    """Returns how the box differs (None: it is right), and the partial credit or None."""
    arguments = dict(rule.arguments)
    if rule.name in RULES:
        return RULES[rule.name](answer, box, **arguments), None
    if rule.name in GRADED:
        return GRADED[rule.name](answer, box, **arguments)
    return custom.difference(rule.name, answer, box)


def describe(error: BaseException) -> str:
    """Returns an exception as one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
