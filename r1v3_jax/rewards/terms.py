"""Terms of a reward: correct, well formed, repeated, overlong, language, ...."""

import re
from collections.abc import Sequence

from r1v3_jax.config import Shaping


def penalty(
    config: Shaping, ids: Sequence[int], text: str, question: str, limit: int
) -> float:
    """The weighted sum of what is wrong with a completion besides its answer.

    ids: the sampled tokens; limit: how many there might have been.
    """
    total = 0.0
    if config.repetition:
        total += config.repetition * repetition(ids, config.repetition_ngram)
    if config.overlong:
        total += config.overlong * overlong(len(ids), limit, config.overlong_tokens)
    if config.language:
        total += config.language * other_language(text, question)
    return total


def repetition(ids: Sequence[int], ngram: int) -> float:
    """The share of a sequence's n-grams that have come before, 1 - distinct / all (arXiv
    2502.03373, C.2, there over words). 0 for a sequence that is shorter.

        ids 1 2 1 2 1, ngram 2: (1 2) (2 1) (1 2) (2 1)   ->   0.5
    """
    count = len(ids) - ngram + 1
    if count <= 0:
        return 0.0
    ids = [int(i) for i in ids]
    return 1 - len({tuple(ids[at : at + ngram]) for at in range(count)}) / count


def overlong(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft punishment (arXiv 2503.14476, equation 13), as a penalty: 0 up to `buffer` tokens
    before the limit, then rising in a line to 1 at the limit.
    """
    if buffer == 0:
        return float(length >= limit)
    return min(max((length - (limit - buffer)) / buffer, 0.0), 1.0)


# None begins in another one: what is never closed is not searched to the end again and again.
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


def other_language(text: str, question: str) -> float:
    """The share of a completion's words that are in another script than the question's.

    Chains that mix languages are hard to read (DeepSeek-R1, arXiv 2501.12948, rewards the share in
    the target language). Scripts, not languages: English and French are the same here. Formulas
    and single letters are in no language. 0 where either has no words.
    """
    theirs, ours = _count_words(question), _count_words(text)
    if not sum(theirs.values()) or not sum(ours.values()):
        return 0.0
    wanted = max(theirs, key=theirs.get)
    same = ours[wanted] + (ours["chinese"] if wanted == "kana" else 0)
    return 1 - same / sum(ours.values())


def _count_words(text: str) -> dict[str, int]:
    text = _FORMULAS.sub(" ", text)
    return {script: len(words.findall(text)) for script, words in _WORDS.items()}
