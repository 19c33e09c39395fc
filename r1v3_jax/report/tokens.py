"""Colours the tokens of a sample: their text, their numbers, and the step of each scale.

A colour is a class of the style sheet, never a style of its own, so that the page's policy can
forbid styles. The numbers in the note of a token are those of the rollouts file, digit by digit.
"""

import dataclasses
from bisect import bisect_right

from r1v3_jax.processing.tokenizer import Tokenizer
from r1v3_jax.report.rows import plain
from r1v3_jax.report.samples import Sample

BROKEN = "\N{REPLACEMENT CHARACTER}"  # of a token that is a part of a letter


@dataclasses.dataclass(frozen=True)
class Scale:
    """A way to colour tokens: level i has the values from bounds[i - 1] up to bounds[i].

    Signed scales have levels on both sides of 0, `n` for below and `p` for above.
    """

    letter: str  # of its classes: e0, e1, ...
    title: str
    unit: str
    bounds: tuple[float, ...]
    signed: bool = False

    def level(self, value: float) -> str:
        """Returns the class of a value.

        bounds (.05, .2): 0.1 -> e1; signed: -0.1 -> gn1, 0.01 -> g0
        """
        size = abs(value) if self.signed else value
        level = bisect_right(self.bounds, size)
        if not self.signed or level == 0:
            return f"{self.letter}{level}"
        return f"{self.letter}{'p' if value > 0 else 'n'}{level}"

    def legend(self) -> list[tuple[str, str]]:
        """Returns (class, words) of each level, from the lowest value to the highest."""
        lows = self.bounds
        highs = (*self.bounds[1:], None)
        levels = list(enumerate(zip(lows, highs, strict=True), start=1))
        middle = f"within {lows[0]:g}" if self.signed else f"below {lows[0]:g}"
        below = [
            (f"{self.letter}n{i}", f"-{high:g} to -{low:g}" if high else f"to -{low:g}")
            for i, (low, high) in reversed(levels)
        ]
        above = [
            (
                f"{self.letter}{'p' if self.signed else ''}{i}",
                f"{low:g} to {high:g}" if high else f"from {low:g}",
            )
            for i, (low, high) in levels
        ]
        return [*(below if self.signed else []), (f"{self.letter}0", middle), *above]


ENTROPY = Scale("e", "entropy", "nats", (0.05, 0.2, 0.5, 1.0, 2.0))
SURPRISE = Scale("l", "-log p of the sampler", "nats", (0.1, 0.7, 1.6, 3.0, 4.6))
GAP = Scale(
    "g", "log p of sampler minus trainer", "nats", (0.01, 0.05, 0.2, 1.0), signed=True
)
ADVANTAGE = Scale(
    "a",
    "advantage",
    "in units of the step's advantages",
    (0.01, 0.5, 1.0, 1.5),
    signed=True,
)
SCALES = {
    "entropy": ENTROPY,
    "logprob": SURPRISE,
    "gap": GAP,
    "advantage": ADVANTAGE,
}


@dataclasses.dataclass(frozen=True)
class Token:
    """One token as it is shown."""

    text: str
    classes: str
    note: str


class Pieces:
    """Turns token ids into the texts that, put together, are the text of the whole.

    tokenizer: None if the run's cannot be read; then there are no texts.
    """

    def __init__(self, tokenizer: Tokenizer | None):
        self.tokenizer = tokenizer
        self._known: dict[int, str] = {}
        special = tokenizer.hf.added_tokens_decoder if tokenizer else {}
        self._special = {i for i, token in special.items() if token.special}

    def texts(self, ids: list[int]) -> list[str] | None:
        """Returns a text for each id; None if there is no tokenizer, or it lacks one of them.

        A letter of several tokens is the text of the first, and the others have none.
        """
        if self.tokenizer is None:
            return None
        try:
            new = [[i] for i in {*ids} - self._known.keys()]
            decoded = self.tokenizer.decode_all(new, skip_special=False)
            self._known |= {i: text for (i,), text in zip(new, decoded, strict=True)}
            texts = [self._known[i] for i in ids]
            return self._mend(ids, texts) if any(BROKEN in x for x in texts) else texts
        except (ValueError, TypeError, OverflowError):
            return None

    def is_special(self, token_id: int) -> bool:
        """Whether a token is no text: it is left out of a completion."""
        return token_id in self._special

    def _mend(self, ids: list[int], texts: list[str]) -> list[str]:
        """Decodes neighbours that are parts of letters together."""
        mended = list(texts)
        start = 0
        while start < len(ids):
            end = start
            while end < len(ids) and BROKEN in texts[end]:
                end += 1
            if end > start:
                whole = self.tokenizer.decode(ids[start:end], skip_special=False)
                mended[start:end] = [whole, *[""] * (end - start - 1)]
            start = end + 1
        return mended


def tokens_of(
    sample: Sample, pieces: Pieces, limit: int
) -> tuple[list[Token], str, str]:
    """Returns (the first `limit` tokens, the text in front of them, the text behind them).

    Without a tokenizer, or if the tokens are not the completion, all of the text stands behind.
    """
    ids = sample.lists.get("tokens", [])
    texts = pieces.texts(ids) if ids else None
    if texts is None:
        return [], "", sample.completion
    spoken = "".join(
        text for i, text in zip(ids, texts, strict=True) if not pieces.is_special(i)
    )
    # What every answer is made to begin with was not sampled.
    if not sample.completion.endswith(spoken):
        return [], "", sample.completion
    prefill = sample.completion[: len(sample.completion) - len(spoken)]
    tokens = [token_of(sample, i, texts[i]) for i in range(min(limit, len(ids)))]
    return tokens, prefill, "".join(texts[limit:])


def token_of(sample: Sample, i: int, text: str) -> Token:
    """Returns the i-th token of a sample: its text, the levels of its numbers, and a note."""
    lists = sample.lists
    classes = ["t"]
    note = [f"{lists['tokens'][i]} {text!r}"]
    entropy = _at(lists.get("entropies"), i)
    if entropy is not None:
        classes.append(ENTROPY.level(entropy))
        note.append(f"entropy {entropy}")
    logprob = _at(lists.get("logprobs"), i)
    if logprob is not None:
        classes.append(SURPRISE.level(-logprob))
        note.append(f"log p {logprob}")
    old = _at(lists.get("old_log_probs"), i)
    if old is not None and logprob is not None:
        gap = round(logprob - old, 6)
        classes.append(GAP.level(gap))
        note.append(f"gap {gap}")
    advantage = sample.advantage
    if "advantages" in lists:
        advantage = _at(lists["advantages"], i)
    if advantage is not None:
        classes.append(ADVANTAGE.level(advantage))
        note.append(f"advantage {advantage}")
    if i in lists.get("critical", ()):
        classes.append("critical")
        note.append("a critical word")
    if i in lists.get("forced", ()):
        classes.append("forced")
        note.append("forced, not sampled")
    return Token(plain(text), " ".join(classes), plain(", ".join(note)))


def _at(numbers: list | None, i: int) -> float | None:
    """Returns the i-th number of a list, None if there is none or it is not finite."""
    value = numbers[i] if numbers is not None and i < len(numbers) else None
    return value if isinstance(value, int | float) else None
