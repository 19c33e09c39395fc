"""Which rules a row's verifier names, and what they say of one box.

""                                  mathematics, and the run's model verifier if it has one
mathematics                         the rule alone
number relative=0.01                a rule with an argument
detection iou=0.5                   ... iou=dynamic is V-Triune's threshold, see `detection`
overlap iou=dynamic completeness=0.3    detection by degrees: V-Triune's reward
my_project.checks:same_molecule     a function of one's own, see `custom`
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
    mathematics,
    numbers,
    sets,
    strings,
)
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict

RULES = {
    "mathematics": mathematics.difference,
    "choice": choice.difference,
    "number": numbers.difference,
    "string": strings.difference,
    "set": sets.difference,
    "detection": detection.difference,
    "grid": grids.difference,
}
# Rules by degrees: what is wrong, and what the answer is worth.
GRADED = {"overlap": detection.overlap}
NAMES = [*RULES, *GRADED]
ARGUMENTS = {
    "number": ("relative", "absolute"),
    "detection": ("iou",),
    "overlap": ("iou", "completeness"),
}
MODEL = "model"
MAX_BOX = 20_000  # characters of what a rule looks at


@dataclasses.dataclass(frozen=True)
class Rule:
    """name: of NAMES, or of a function. arguments: (name, value), ..."""

    name: str
    arguments: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Verifier:
    """A box is right if one of the rules says so, or, with `model`, the model verifier."""

    rules: tuple[Rule, ...]
    model: bool


@functools.lru_cache(maxsize=4096)
def parse(text: str, *, progress: float = 1.0, model: bool = False) -> Verifier:
    """What a row's `verifier` means. ValueError if it means nothing.

    progress: of the run, 0 to 1, for a threshold that is dynamic. model: whether the run has a
    model verifier, which an empty text then means too.
    """
    parts = (
        [part.strip() for part in text.split("|")] if text.strip() else ["mathematics"]
    )
    with_model = MODEL in parts or (model and not text.strip())
    rules = tuple(_rule(part, progress) for part in parts if part != MODEL)
    if with_model and (
        graded := next((r.name for r in rules if r.name in GRADED), None)
    ):
        raise ValueError(
            f"{graded} has degrees, which a model does not know; leave one of them out"
        )
    return Verifier(rules, with_model)


def _rule(text: str, progress: float) -> Rule:
    name, *words = text.split() or [""]
    if name not in NAMES and not custom.is_name(name):
        near = difflib.get_close_matches(name, [*NAMES, MODEL], 1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"choose from {', '.join(NAMES)}, {MODEL}"
        )
        raise ValueError(f"no verifier {name[:100]!r}; {hint}")
    arguments = []
    for word in words:
        key, _, value = word.partition("=")
        if key not in ARGUMENTS.get(name, ()):
            known = ", ".join(ARGUMENTS.get(name, ())) or "none"
            raise ValueError(
                f"verifier {name} has no argument {key[:100]!r}; it has: {known}"
            )
        dynamic = (key, value) == ("iou", "dynamic")
        arguments.append(
            (key, detection.schedule(progress) if dynamic else _size(word, value))
        )
    return Rule(name, tuple(arguments))


def _size(word: str, value: str) -> float:
    try:
        size = float(value)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise ValueError(f"{word[:100]!r}: wanted a number of at least 0")
    return size


def is_quick(rules: tuple[Rule, ...], answer: str, box: str) -> bool:
    """Whether `check` needs no parser and no process of its own: letters, text, plain numbers."""
    if len(box) > MAX_BOX:
        return True
    for rule in rules:
        if rule.name == "mathematics":
            quick = mathematics.is_quick(answer)
        elif rule.name == "number":
            quick = numbers.is_quick(answer, box)
        else:
            quick = rule.name in ("choice", "string")
        if not quick:
            return False
    return True


def check(rules: tuple[Rule, ...], answer: str, box: str) -> Check:
    """RIGHT if one of the rules finds the box right; ERROR if none does and one failed. Worth the
    most that one of them gives.

    Raises nothing.
    """
    if len(box) > MAX_BOX:
        return Check(Verdict.WRONG, box, "too long")
    reason, failed, right, worth = "", False, False, None
    for rule in rules:
        try:
            if rule.name in RULES:
                difference, credit = (
                    RULES[rule.name](answer, box, **dict(rule.arguments)),
                    None,
                )
            elif rule.name in GRADED:
                difference, credit = GRADED[rule.name](
                    answer, box, **dict(rule.arguments)
                )
            else:
                difference, credit = custom.difference(rule.name, answer, box)
        except Exception as error:  # whatever sympy raises, or somebody's function
            reason, failed = describe(error), True
            continue
        if difference is None and credit is None:
            return Check(Verdict.RIGHT, box, "equal")
        right = right or difference is None
        reason = reason if failed else difference
        if credit is not None:
            worth = credit if worth is None else max(worth, credit)
    if right:
        return Check(Verdict.RIGHT, box, "equal", worth)
    return (
        Check(Verdict.ERROR, box, reason)
        if failed
        else Check(Verdict.WRONG, box, reason, worth)
    )


def describe(error: BaseException) -> str:
    """An exception in one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
