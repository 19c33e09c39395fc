"""Terms of a reward besides the answer: penalties for repetition, length and mixed languages.

Knows token ids and text. It does not know which answers are right.
"""

import re
from collections.abc import Sequence

from r1v3_jax.rewards.settings import Shaping


def penalty(
    config: Shaping, ids: Sequence[int], text: str, question: str, limit: int
) -> float:
    """Returns the weighted sum of a completion's penalties.

    ids: the sampled tokens. limit: how many tokens a completion may have.
    """
    total = 0.0
    # A term of weight 0 is not computed.
    if config.repetition:
        total += config.repetition * repetition(ids, config.repetition_ngram)
    if config.overlong:
        total += config.overlong * overlong(len(ids), limit, config.overlong_tokens)
    if config.language:
        total += config.language * other_language(text, question)
    return total


def repetition(ids: Sequence[int], ngram: int) -> float:
    """Returns the share of a sequence's n-grams that came before, 1 - distinct / all.

    arXiv 2502.03373, C.2, which counts words. 0 for a sequence shorter than one n-gram.

        ids 1 2 1 2 1, ngram 2: (1 2) (2 1) (1 2) (2 1)   ->   1 - 2 / 4 = 0.5
    """
    count = len(ids) - ngram + 1
    if count <= 0:
        return 0.0
    ids = [int(i) for i in ids]
    distinct = {tuple(ids[start : start + ngram]) for start in range(count)}
    return 1 - len(distinct) / count


def overlong(length: int, limit: int, buffer: int) -> float:
    """Returns DAPO's soft punishment as a penalty, 0 to 1 (arXiv 2503.14476, equation 13).

    It is 0 up to `buffer` tokens before the limit and then rises in a line to 1 at the limit.

        limit 100, buffer 20: length 80 -> 0, 90 -> 0.5, 100 -> 1
    """
    # The line would be vertical.
    if buffer == 0:
        return float(length >= limit)
    return min(max((length - (limit - buffer)) / buffer, 0.0), 1.0)


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


def other_language(text: str, question: str) -> float:
    """Returns the share of a completion's words in another script than the question's.

    Chains that mix languages are hard to read (DeepSeek-R1, arXiv 2501.12948, rewards the share in
    the target language). Scripts are compared, not languages: English and French are the same here.
    Formulas and single letters are in no language. 0 if the question or the text has no words.
    """
    question_words = _count_words(question)
    words = _count_words(text)
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
