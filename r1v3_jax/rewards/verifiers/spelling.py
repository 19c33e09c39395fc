"""Gives each answer one spelling. This file does not know which answers are right.

Unicode (`characters`), LaTeX's synonyms and frames (`commands`) and plain text (`plain_text`) come
first, then spaces, exponents and the rest.
"""

import functools
import re

from r1v3_jax.rewards.verifiers import characters, commands, plain_text

MAX_ANSWER = 400  # characters
# The parser takes a second for nine logarithms in each other.
MAX_DEPTH = 8  # of brackets
MAX_PARTS = 16  # of a list or a union

_DELIMITERS = re.compile(r"\$|[¥￥€£]")
# Applied in this order. END is the end of a command's name: \le is no part of \left.
_SPELLINGS = [
    (re.compile(pattern.replace("END", "(?![A-Za-z])")), replacement)
    for pattern, replacement in [
        (r"\{,\}", ","),
        (r"(\\[A-Za-z]+)\{ ?\}", r"\1 "),  # x^\circ{} is x^\circ
        (r"(?:^|(?<=/))\{([0-9]+)\}", r"\1"),
        (r"\+ *(?=\\infty)", ""),
        (r"\^ *\{ *\\circ *\}|\^ *\\circEND", r"^\\circ "),
        # Braces around exponents and indices: x^2 -> x^{2}
        (r"([\^_]) *([+-]?[0-9]+|[A-Za-z])", r"\1{\2}"),
        (r"([\^_]) *(\\(?!(?:circ|frac|sqrt)END)[A-Za-z]+)", r"\1{\2}"),
        # The third root of the second is \sqrt[3]{2}, written ³√2.
        (r"(?:^|(?<=[-+*/=(,; ]))\^\{([0-9])\}\\sqrt(?=\{)", r"\\sqrt[\1]"),
    ]
]


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def normalise(text: str) -> str:
    """Returns one spelling: no markup, spaces only between words or digits, no final full stop."""
    # 1. One name for each sign and command. Most answers are a few digits.
    text = text.strip(" \n`*$")
    if re.fullmatch("[0-9]+", text):
        return text
    text = _DELIMITERS.sub(
        "", commands.renamed(characters.as_latex(text).replace("~", " "))
    )
    text = plain_text.as_latex(commands.unframed(text))
    text = commands.braced(text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)

    # 2. Spaces. A tie before a word says that it was text: "5~m" is a length.
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"~[~ ]*", "~", text)
    text = re.sub(r"(?:(?<=[^ ~])|^)[ ~]*\b(?:per ?cent|pct)\b", "%", text)
    text = re.sub(r", (?=[0-9])", ";", text)  # 1, 234 is two numbers, 1,234 is one
    text = re.sub(r"(\\[A-Za-z]+) (?![A-Za-z])", r"\1", text)
    text = re.sub(r"(?<![^\W_]) | (?![^\W_])", "", text)

    # 3. What stands around it all.
    text = text.strip("*").rstrip("~.,;").lstrip("~")
    for _ in range(MAX_DEPTH):
        if text[:1] != "{" or commands.brace_pairs(text).get(0) != len(text) - 1:
            break
        text = text[1:-1].strip("~")
    text = re.sub(r"^=~?(?=.)", "", text)
    # The patterns of relations find \le and \ge by the one space behind them.
    text = re.sub(r"\\([lgn]e)(?![A-Za-z]) ?", r"\\\1 ", text)
    return re.sub(r"(?<=[0-9])[eE]([+-]?[0-9]{1,3})$", r"\\times10^{\1}", text)
