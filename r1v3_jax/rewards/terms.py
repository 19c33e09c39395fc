"""The terms that a reward is made of; see `reward.Reward`.

A term takes an `Answered` and returns a number, or None where it has nothing to say. One without
settings is a function, one with settings a frozen dataclass.
"""

import dataclasses
import re
from collections.abc import Sequence

from r1v3_jax.rewards.answered import Answered
from r1v3_jax.rewards.equations import equations
from r1v3_jax.rewards.loops import looped_share
from r1v3_jax.rewards.verifiers import detection
from r1v3_jax.rewards.verifiers.boxes import summary
from r1v3_jax.rewards.verifiers.verdict import NOT_READ, Verdict

# 1. Of the answer


def correct(answered: Answered) -> float:
    """Returns 1.0 for a right answer, 0.0 for a wrong one; between, the credit of its verifier."""
    credit = answered.check.credit
    return float(answered.check.verdict is Verdict.RIGHT) if credit is None else credit


@dataclasses.dataclass(frozen=True)
class Graded:
    """Tells an answer that is wrong from one that cannot be read: 2, -1.5 and -2 in Logic-RL.

    Not read: there is no answer, there are several that differ, or the verifier says so.
    """

    right: float = 1.0
    wrong: float = 0.0
    unreadable: float = 0.0
    # Whether an answer in the wrong form counts as unreadable.
    needs_form: bool = False

    def __call__(self, answered: Answered) -> float:
        check = answered.check
        is_read = check.extracted is not None and check.reason not in NOT_READ
        if not is_read or (self.needs_form and not well_formed(answered)):
            return self.unreadable
        return self.right if check.verdict is Verdict.RIGHT else self.wrong


@dataclasses.dataclass(frozen=True)
class IoU:
    """The share of the reference's boxes that are found with an IoU of `threshold` or more.

    None for rows that are not about boxes. With weight 0 it is only logged, as V-Triune logs
    IoU@50, 75, 95 and 99 of each source: `reward/iou_50`. Boxes too many cost nothing here: a
    positive weight would teach to write many. The verifier `overlap` counts them.
    """

    threshold: float

    def __post_init__(self):
        if not 0 < self.threshold <= 1:
            raise ValueError(
                f"IoU.threshold is {self.threshold!r}; it must lie in (0, 1], as 0.5"
            )

    @property
    def name(self) -> str:
        return f"iou_{100 * self.threshold:g}"

    def __call__(self, answered: Answered) -> float | None:
        rules = [
            rule.split()[0]
            for rule in answered.example.verifier.split("|")
            if rule.strip()
        ]
        if not {"detection", "overlap"} & set(rules):
            return None
        box = answered.check.extracted or ""
        return detection.recall(answered.example.answer, box, iou=self.threshold)


# 2. Of the form


def well_formed(answered: Answered) -> float:
    """Returns 1.0 if a completion follows the chat template, else 0.0.

    As in the Skywork-R1V3 report, section 3.1. The completion must end by itself, have exactly one
    </think> and no <think> (the prompt has it), have some reasoning before </think>, and hold
    exactly one answer, closed and filled, after it. With thinking False there must be neither tag.
    """
    text = answered.text
    thinking = answered.thinking
    is_summarised = summary(text, thinking) is not None
    if not answered.ended or not is_summarised or "<think>" in text:
        return 0.0
    if text.count("</think>") != int(thinking):
        return 0.0
    if thinking and not text.partition("</think>")[0].strip():
        return 0.0
    has_one = len(answered.answers) == 1 and bool(answered.answers[0])
    return float(has_one and not answered.unfinished)


@dataclasses.dataclass(frozen=True)
class Formed:
    """Says of the form what `well_formed` says, in two numbers: 1 and -1 in Logic-RL."""

    right: float = 1.0
    wrong: float = -1.0

    def __call__(self, answered: Answered) -> float:
        return self.right if well_formed(answered) else self.wrong


@dataclasses.dataclass(frozen=True)
class Tags:
    """The share of the tags that occur exactly once: quarters, with four (V-Triune).

    V-Triune (arXiv 2505.18129) has <think> among them, which the prompt has written here.
    """

    tags: tuple[str, ...] = ("</think>", "<answer>", "</answer>")

    def __post_init__(self):
        if not self.tags or isinstance(self.tags, str):
            raise ValueError(
                f"Tags.tags is {self.tags!r}; wanted texts, as ('</think>', '<answer>')"
            )

    def __call__(self, answered: Answered) -> float:
        once = [tag for tag in self.tags if answered.text.count(tag) == 1]
        return len(once) / len(self.tags)


def is_of_answer(term) -> bool:
    """Whether a term is the part of a reward that `Example.accuracy_weight` weighs."""
    return term is correct or isinstance(term, Graded)


def is_of_form(term) -> bool:
    """Whether a term is the part of a reward that has the rest of `Example.accuracy_weight`."""
    return term is well_formed or isinstance(term, Formed | Tags)


# 3. Of repetition


@dataclasses.dataclass(frozen=True)
class Repeated:
    """The share of a completion's n-grams of tokens that came before, 1 - distinct / all.

    arXiv 2502.03373, C.2, which counts words. 0 for a completion shorter than one n-gram.

        ids 1 2 1 2 1, ngram 2: (1 2) (2 1) (1 2) (2 1)   ->   1 - 2 / 4 = 0.5
    """

    ngram: int = 40  # tokens

    def __post_init__(self):
        _check_above("Repeated.ngram", self.ngram, 0, "40")

    def __call__(self, answered: Answered) -> float:
        ids = [int(i) for i in answered.ids]
        return _share_seen_before(
            [tuple(ids[i : i + self.ngram]) for i in range(len(ids) - self.ngram + 1)]
        )


@dataclasses.dataclass(frozen=True)
class Looped:
    """The share of a completion that its final loop takes (CAMPO of MiroMind-M1).

    arXiv 2507.14683, equation 6, whose f(o) is taken off a reward: give it the weight -1. With
    `constant` it is that much for any loop of a completion that was cut at the length limit, and 0
    for all others, as in the released code: `constant=0.1`.
    """

    constant: float = 0.0  # 0: the share

    def __post_init__(self):
        if not 0 <= self.constant < float("inf"):
            raise ValueError(
                f"Looped.constant is {self.constant!r}; it must be at least 0, as 0.1"
            )

    def __call__(self, answered: Answered) -> float:
        if self.constant and answered.ended:
            return 0.0
        share = looped_share(answered.ids)
        return self.constant * (share > 0) if self.constant else share


def repeated_sentences(answered: Answered) -> float:
    """Returns the share of a completion's sentences that came before, 1 - distinct / all.

    A sentence ends at . ! ? or a line's end; case and blanks do not matter.
    """
    parts = re.split(r"[.!?。！？\n]+", answered.text)
    sentences = [" ".join(part.lower().split()) for part in parts]
    return _share_seen_before([sentence for sentence in sentences if sentence])


def _share_seen_before(things: Sequence) -> float:
    return 1 - len(set(things)) / len(things) if things else 0.0


# 4. Of the steps


def equations_hold(answered: Answered) -> float | None:
    """Returns 1.0 if every equation of the thoughts holds, 0.0 if one does not; None without one.

    The minimum over steps, as of a process reward model (M-STAR, arXiv 2412.17451); but exact, an
    oracle: "7+8=15;4+3=8" is 0.0.
    """
    thoughts, _, _ = answered.text.partition("</think>")
    found = list(equations(thoughts))
    return float(all(found)) if found else None


# 5. Of the length


@dataclasses.dataclass(frozen=True)
class Overlong:
    """DAPO's soft punishment as 0 to 1 (arXiv 2503.14476, equation 13): give it a negative weight.

    It is 0 up to `tokens` before the limit, and then rises in a line to 1 at the limit.

        limit 100, tokens 20: length 80 -> 0, 90 -> 0.5, 100 -> 1
    """

    tokens: int = 1024

    def __post_init__(self):
        _check_above("Overlong.tokens", self.tokens, -1, "1024")

    def __call__(self, answered: Answered) -> float:
        over = len(answered.ids) - (answered.limit - self.tokens)
        # The line would be vertical.
        if self.tokens == 0:
            return float(over >= 0)
        return min(max(over / self.tokens, 0.0), 1.0)


@dataclasses.dataclass(frozen=True)
class Short:
    """clip(slope * (budget - length) + offset, 0, 1): ReVisual-R1's efficient length.

    arXiv 2506.04207. budget 100, slope 0.005, offset 0.5: length 0 -> 1, 100 -> 0.5, 200 -> 0
    """

    budget: int  # tokens
    slope: float = 0.005
    offset: float = 0.5

    def __call__(self, answered: Answered) -> float:
        line = self.slope * (self.budget - len(answered.ids)) + self.offset
        return min(max(line, 0.0), 1.0)


def _check_above(field: str, number, low: int, example: str) -> None:
    """Raises ValueError unless a setting is a whole number above `low`."""
    if not isinstance(number, int) or number <= low:
        raise ValueError(
            f"{field} is {number!r}; it must be at least {low + 1}, as {example}"
        )


# 6. Of the language

# No formula begins within another one: from one that is never closed, the search would run to the
# end of the text again and again.
_FORMULAS = re.compile(
    r"\$[^$]*\$|\\[A-Za-z]+|\\\[(?:(?!\\\[).)*?\\\]|\\\((?:(?!\\\().)*?\\\)", re.DOTALL
)

_WORDS = {
    "latin": re.compile(r"[A-Za-zÀ-ɏ]{2,}"),
    "cyrillic": re.compile(r"[Ѐ-ӿ]{2,}"),
    "chinese": re.compile(r"[㐀-鿿]{1,2}"),  # a word has two characters, more or less
    "kana": re.compile(r"[぀-ヿ]{1,2}"),
    "hangul": re.compile(r"[가-힯]+"),
    "arabic": re.compile(r"[؀-ۿ]{2,}"),
}


def other_language(answered: Answered) -> float:
    """Returns the share of a completion's words in another script than the question's.

    Chains that mix languages are hard to read (DeepSeek-R1, arXiv 2501.12948, rewards the share in
    the target language). Scripts are compared, not languages: English and French are the same here.
    Formulas and single letters are in no language. 0 if the question or the text has no words.
    """
    question_words = _count_words(answered.example.question)
    words = _count_words(answered.text)
    if not sum(question_words.values()) or not sum(words.values()):
        return 0.0
    script = max(question_words, key=question_words.get)
    fitting = words[script]
    # Japanese is written in kana and Chinese characters.
    if script == "kana":
        fitting += words["chinese"]
    return 1 - fitting / sum(words.values())


def _count_words(text: str) -> dict[str, int]:
    text = _FORMULAS.sub(" ", text)
    return {script: len(words.findall(text)) for script, words in _WORDS.items()}


# 7. Of what is seen

_CAPTION = re.compile(r"<caption>(.*?)</caption>", re.DOTALL)


def captioned(answered: Answered) -> float:
    """Returns 1.0 if the thoughts hold one filled <caption>...</caption>, else 0.0 (RL-Ground).

    ComPABench (arXiv 2505.19406) lets the model say what it sees before it thinks about it.
    """
    thoughts = answered.text.partition("</think>")[0]
    captions = _CAPTION.findall(thoughts)
    is_only = thoughts.count("<caption>") == thoughts.count("</caption>") == 1
    return float(is_only and len(captions) == 1 and bool(captions[0].strip()))


def facts(answered: Answered) -> float | None:
    """Returns the share of the row's facts that the thoughts say; None for a row without any.

    `metadata["facts"]` of a row is a list of texts, as ["the square has area 9"], or one text. A
    fact is said where it stands whole between other words and numbers; case and blanks do not
    matter. Our form of RL-Ground's progress reward, whose formula is not published (ComPABench,
    arXiv 2505.19406).

        facts ["area 9", "area 4"], "... area 9, and area 42 or 4.5 ..."   ->   0.5
    """
    wanted = answered.example.metadata.get("facts")
    if not wanted:
        return None
    if isinstance(wanted, str):
        wanted = [wanted]
    thoughts = _plain(answered.text.partition("</think>")[0])
    said = [
        fact
        for fact in wanted
        if re.search(rf"{_START}{re.escape(_plain(fact))}{_END}", thoughts)
    ]
    return len(said) / len(wanted)


# Not within a word or a decimal number: "9" stands in "is 9." and not in "9.5" or "2.9".
_START = r"(?<!\w)(?<!\d\.)"
_END = r"(?!\w)(?!\.\d)"


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
