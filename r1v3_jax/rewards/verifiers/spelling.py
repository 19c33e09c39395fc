"""Gives each answer one spelling. This file does not know which answers are right.

Unicode (`characters`), LaTeX's synonyms and frames (`commands`) and plain text (`plain_text`) come
first, then spaces, exponents and the rest.
"""

import functools
import re
from typing import NamedTuple

from r1v3_jax.rewards.verifiers import characters, commands, plain_text

MAX_ANSWER = 400  # characters
# The parser takes a second for nine logarithms in each other.
MAX_DEPTH = 8  # of brackets
MAX_PARTS = 16  # of a list or a union


class _Rule(NamedTuple):
    needs: str  # a text without this character stays as it is
    pattern: re.Pattern
    replacement: str


def _rules(*rows: tuple[str, str, str]) -> list[_Rule]:
    """Makes rules that are applied in order. END is the end of a command's name."""
    return [
        _Rule(needs, re.compile(pattern.replace("END", "(?![A-Za-z])")), replacement)
        for needs, pattern, replacement in rows
    ]


_BRACES = _rules(
    ("{", r"\{,\}", ","),
    ("}", r"(\\[A-Za-z]+)\{ ?\}", r"\1 "),  # x^\circ{} is x^\circ
    ("{", r"(?:^|(?<=/))\{([0-9]+)\}", r"\1"),
    ("+", r"\+ *(?=\\infty)", ""),
    ("^", r"\^ *\{ *\\circ *\}|\^ *\\circEND", r"^\\circ "),
    # Braces around exponents and indices: x^2 -> x^{2}
    ("^", r"\^ *([+-]?[0-9]+|[A-Za-z]|\\(?!(?:circ|frac|sqrt)END)[A-Za-z]+)", r"^{\1}"),
    ("_", r"_ *([+-]?[0-9]+|[A-Za-z]|\\(?!(?:circ|frac|sqrt)END)[A-Za-z]+)", r"_{\1}"),
    ("^", r"\^([+-])(?=$|[ ~,;)])", r"^{\1}"),  # a charge: Na^+
    # The third root of the second is \sqrt[3]{2}, written ³√2.
    ("^", r"(?:^|(?<=[-+*/=(,; ]))\^\{([0-9])\}\\sqrt(?=\{)", r"\\sqrt[\1]"),
)
_SPACES = _rules(
    # A tie before a word says that it was text: "5~m" is a length.
    ("~", r"~[~ ]*", "~"),
    ("c", r"(?:(?<=[^ ~])|^)[ ~]*\b(?:per ?cent|pct)\b", "%"),
    (" ", r", (?=[0-9])", ";"),  # 1, 234 is two numbers, 1,234 is one
    (" ", r"(\\[A-Za-z]+) (?![A-Za-z])", r"\1"),
    (" ", r"(?<![^\W_]) | (?![^\W_])", ""),
)
_ENDS = _rules(
    ("=", r"^=~?(?=.)", ""),
    # The patterns of relations find \le, \ge and \ne by the one space behind them.
    ("\\", r"\\([lgn]e)END ?", r"\\\1 "),
    ("e", r"(?<=[0-9])e([+-]?[0-9]{1,3})(?=[ ~]|$)", r"\\times10^{\1}"),
    ("E", r"(?<=[0-9])E([+-]?[0-9]{1,3})(?=[ ~]|$)", r"\\times10^{\1}"),
)
_is_digits = re.compile("[0-9]+").fullmatch
_LAST_SPACE = re.compile(r"(?<!\\)\\$")  # what is left of "\ " at the end
_WHITE = re.compile(r"\s+")
_MONEY = re.compile(r"[$¥￥€£¢]")
_PLAIN_NUMBER = r"[0-9]+(?:(?:,|\{,\})[0-9]{3})*(?:\.[0-9]+)?"
# A sign before a number; before words, as in \$5 million, it says nothing that they need.
_PRICE = re.compile(
    rf"(\\\$|[¥￥€£])[ ~]*({_PLAIN_NUMBER})(?![0-9])(?![ ~]*(?:\\text\{{)?[ ~]*[A-Za-z])"
)
_PRICE_BEHIND = re.compile(rf"({_PLAIN_NUMBER})[ ~]*([¥￥€£¢])$")
_CURRENCIES = {
    "\\$": "dollars", "€": "euros", "£": "GBP", "¥": "yuan", "￥": "yuan", "¢": "cents",
}  # fmt: skip


def _with_currency(text: str) -> str:
    r"""Writes a sign of money as a unit: \$5 -> 5\text{ dollars}, 5€ -> 5\text{ euros}."""
    if not _MONEY.search(text):
        return text
    # One dollar sign alone opens no formula: it is money.
    if text.startswith("$") and text.count("$") == 1:
        text = "\\" + text
    text = _PRICE.sub(lambda m: rf"{m[2]}\text{{ {_CURRENCIES[m[1]]}}}", text)
    return _PRICE_BEHIND.sub(lambda m: rf"{m[1]}\text{{ {_CURRENCIES[m[2]]}}}", text)


def _apply(rules: list[_Rule], text: str) -> str:
    for needs, pattern, replacement in rules:
        if needs in text:
            text = pattern.sub(replacement, text)
    return text


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def normalise(text: str) -> str:
    """Returns one spelling: no markup, spaces only between words or digits, no final full stop."""
    # 1. One name for each sign and command. Most answers are a few digits.
    text = _with_currency(_LAST_SPACE.sub("", text.strip(" \n`*")))
    text = text.strip(" \n`*$")
    if _is_digits(text):
        return text
    text = commands.renamed(characters.as_latex(text).replace("~", " "))
    text = plain_text.as_latex(commands.unframed(_MONEY.sub("", text)))
    text = _apply(_BRACES, commands.braced(text))

    # 2. Spaces.
    text = _apply(_SPACES, _WHITE.sub(" ", text))

    # 3. What stands around it all.
    text = text.strip("*").rstrip("~.,;").lstrip("~")
    for _ in range(MAX_DEPTH):
        if text[:1] != "{" or commands.brace_pairs(text).get(0) != len(text) - 1:
            break
        text = text[1:-1].strip("~")
    return _apply(_ENDS, text)
