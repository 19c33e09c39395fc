"""Gives each answer one spelling, and reads what it is made of: numbers, names, parts.

Regular expressions over short text. This file does not know which answers are right.
"""

import functools
import itertools
import re
from fractions import Fraction
from typing import NamedTuple

MAX_ANSWER = 400  # characters
# The parser takes a second for nine logarithms in each other.
MAX_DEPTH = 8  # of brackets
MAX_PARTS = 16  # of a list or a union

# 1. One spelling

_FULL_WIDTH = {chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}
_PUNCTUATION = dict(zip("。、−–∶\u00a0", ".,--: ", strict=True))
_COMMANDS = {
    "×": r"\times ",
    "·": r"\cdot ",
    "÷": r"\div ",
    "π": r"\pi ",
    "√": r"\sqrt ",
    "±": r"\pm ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "∪": r"\cup ",
    "∈": r"\in ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "²": "^{2}",
    "³": "^{3}",
    "°": r"^\circ ",
}
_CHARACTERS = str.maketrans(_FULL_WIDTH | _PUNCTUATION | _COMMANDS)

# Applied in this order. END is the end of a command's name: \le is no part of \left.
_SPELLINGS = [
    (re.compile(pattern.replace("END", "(?![A-Za-z])")), replacement)
    for pattern, replacement in [
        # Delimiters of formulas, signs of money, and spaces
        (r"(?<!\\)\\[()\[\]!]|\\?\$|[¥￥€£]|\\(?:left|right|displaystyle)END", ""),
        (r"~|(?<!\\)\\(?:[,;:> ]|q?quadEND)", " "),
        (r"\{,\}", ","),
        (r"\\%", "%"),
        # Fractions and roots: \dfrac12 -> \frac{1}{2}, sqrt(3) -> \sqrt{3}
        (r"\\[dtc]fracEND", r"\\frac"),
        (r"\\frac *([0-9]) *([0-9])", r"\\frac{\1}{\2}"),
        (r"(?<![\\A-Za-z])sqrtEND", r"\\sqrt"),
        (r"\\sqrt *\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\^ *\(([^()]*)\)", r"^{\1}"),
        # Other names of one sign
        (r"\\([lg]e)(?:q(?:slant)?)?END", r"\\\1 "),
        (r"\\varnothingEND|∅", r"\\emptyset"),
        (r"(?:^|(?<=/))\{([0-9]+)\}", r"\1"),
        (r"\\ltEND", "<"),
        (r"\\gtEND", ">"),
        (r"\\lgEND", r"\\log_{10}"),
        (r"\+ *(?=\\infty)", ""),
        (r"\^ *\{ *\\circ *\}|\^ *\\circEND|\\degreeEND", r"^\\circ "),
        # Braces around exponents and indices: x^2 -> x^{2}
        (r"([\^_]) *([+-]?[0-9]+|[A-Za-z])", r"\1{\2}"),
    ]
]
# What was text (or a box in the box) keeps a tie before it: "5\text{ m}" -> "5~m", a length, while
# "5m" is a product.
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|boldsymbol|mbox|boxed) *\{([^{}]*)\}"
)


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def normalise(text: str) -> str:
    """Returns one spelling: no markup, spaces only between words or digits, no final full stop."""
    text = re.sub(r"√ ?([0-9]+)", r"\\sqrt{\1}", text).translate(_CHARACTERS)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    # From the inside out: _TEXT matches only commands without braces in them.
    while (unwrapped := _TEXT.sub(r"~\1 ", text)) != text:
        text = unwrapped
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"[ ~]*\b(?:per ?cent|pct)\b", "%", text)
    text = re.sub(r", (?=[0-9])", ";", text)  # 1, 234 is two numbers, 1,234 is one
    text = re.sub(r"(\\[A-Za-z]+) (?![A-Za-z])", r"\1", text)
    text = re.sub(r"(?<![^\W_]) | (?![^\W_])", "", text)
    text = text.strip("*").rstrip("~.,;").lstrip("~")
    # _ORDER, below, finds \le and \ge by the one space behind them.
    text = re.sub(r"\\([lg]e)(?![A-Za-z]) ?", r"\\\1 ", text)
    return re.sub(r"(?<=[0-9])[eE]([+-]?[0-9]{1,3})$", r"\\times10^{\1}", text)


# 2. Numbers


class Number(NamedTuple):
    """A number that is written in digits."""

    value: Fraction
    plain: bool  # not a fraction, a repeating decimal or a percentage


_DECIMAL = re.compile(  # 05  1,234  1 234.5  .5  12%  3\times10^{8}  10^{8}, made 1\times10^{8}
    r"([+-]?)((?:[0-9]{1,3}(?:[, ][0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?)"
    r"(?:\\(?:times|cdot)10\^\{([+-]?[0-9]{1,3})\})?(%?)"
)
_FRACTION = re.compile(  # 1/2  -\frac{1}{2}  1\frac{1}{2}  1 1/2  \frac{1}{2}%
    r"([+-]?)(?:([0-9]+)(?: (?=[0-9])|(?=\\frac)))?"
    r"(?:\\frac\{([+-]?[0-9]+)\}\{([+-]?[0-9]+)\}|([0-9]+)/([0-9]+))(%?)"
)
_REPEATING = re.compile(  # 0.1\dot{6}
    r"([+-]?)([0-9]*)\.([0-9]*)\\(?:overline|dot|bar)\{([0-9]+)\}"
)


def read_number(text: str) -> Number | None:
    """Returns the number that a normalised text writes in digits; None for everything else."""
    text = re.sub(r"^([+-]?)(?=10\^)", r"\g<1>1\\times", text)
    decimal = _DECIMAL.fullmatch(text)
    # The pattern also matches a sign or a "%" without a digit.
    if decimal and decimal[2]:
        sign, digits, power, percent = decimal.groups()
        value = Fraction(re.sub("[, ]", "", digits)) * Fraction(10) ** int(power or 0)
        plain = True
    elif fraction := _FRACTION.fullmatch(text):
        sign, whole, *parts, percent = fraction.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        # 1\frac{-1}{2} is no mixed number.
        if bottom == 0 or (whole and (top < 0 or bottom < 0)):
            return None
        value = int(whole or 0) + Fraction(top, bottom)
        plain = False
    elif repeating := _REPEATING.fullmatch(text):
        sign, *digits = repeating.groups()
        value = _repeating_value(*digits)
        percent = ""
        plain = False
    else:
        return None
    if sign == "-":
        value = -value
    return Number(value / 100, False) if percent else Number(value, plain)


def _repeating_value(whole: str, before: str, period: str) -> Fraction:
    r"""Returns the value of whole.before\overline{period}.

    0.1\overline{6}: (016 - 01) / ((10^1 - 1) * 10^1) = 15/90 = 1/6
    """
    difference = int(whole + before + period) - int((whole + before) or 0)
    return Fraction(difference, (10 ** len(period) - 1) * 10 ** len(before))


# 3. Names, relations, sets

NAMED = re.compile(  # x=  x_{1}=  AB=  f(2)=  \theta=  \angle A=  S_{\triangle ABC}=  x\in
    r"((?:\\(?:angle|triangle|overline|vec) ?)?(?:[A-Za-z]{1,3}|\\(?:alpha|beta|gamma|theta|phi))"
    r"'?(?:_\{[^{}=]{1,20}\})?(?:\([a-z0-9]{1,3}\))?)(?:=|\\approx|\\in(?![A-Za-z]) ?)([^=]+)"
)
JOIN = re.compile(r"[ ~]*(?:\b(?:or|and)\b|或|和)[ ~]*")
_ORDER = re.compile(r"(\\[lg]e |[<>])")
_MIRRORED = {">": "<", r"\ge ": r"\le "}
_VARIABLE = re.compile(r"[a-z]|\\(?:alpha|beta|theta|lambda)")


def _ascending(text: str) -> str:
    r"""Turns a descending chain round: 7>x\ge1 -> 1\le x<7; a text that is not all > stays."""
    parts = _ORDER.split(text)
    if len(parts) == 1 or {"<", r"\le "} & set(parts):
        return text
    return "".join(_MIRRORED.get(part, part) for part in reversed(parts))


def _interval(text: str) -> tuple[str, str] | None:
    r"""Returns the variable of an ascending relation and its interval; None for anything else.

    1<x\le 7 -> x, (1,7];  x<1 -> x, (-\infty,1)
    """
    parts = _ORDER.split(text)
    # One relation is open at the side of its variable.
    if len(parts) == 3 and _VARIABLE.fullmatch(parts[0]):
        parts = [r"-\infty", "<", *parts]
    elif len(parts) == 3:
        parts = [*parts, "<", r"\infty"]
    if len(parts) != 5:
        return None
    low, low_sign, name, high_sign, high = parts
    if not _VARIABLE.fullmatch(name) or not {low_sign, high_sign} <= {"<", r"\le "}:
        return None
    opening = "(" if low_sign == "<" else "["
    closing = ")" if high_sign == "<" else "]"
    return name, f"{opening}{low},{high}{closing}"


_BUILDER = re.compile(
    r"\\\{([a-z])(?:\\in ?\\mathbb\{?R\}?)? ?(?:\\mid|\\vert|[|:]) ?(.*[<>].*|.*\\[lg]e .*)\\\}"
)
_REALS = re.compile(r"(?:[a-z]\\in ?)?(?:\\mathbb ?\{?R\}?|ℝ)")
_FRENCH = re.compile(  # ]1,2] is (1,2]
    r"([\[\]])([^\[\](),;]+[,;][^\[\](),;]+)([\[\]])"
)
_POINT_NAME = re.compile(r"^(?:[A-Z]'?|\([a-z](?:,[a-z])+\)=)(?=\([^()]*,[^()]*\)$)")


def as_sets(text: str) -> str:
    r"""Gives relations, sets and points one spelling.

    x<1 or x>7 -> x=(-\infty,1)\cup(7,\infty);  1 and 7 -> 1;7;  2>a+b -> a+b<2;
    \{x|x<1\} -> x=(-\infty,1);  ]1,2[ -> (1,2);  \mathbb{R} -> (-\infty,\infty);  P(1,2) -> (1,2)
    """
    builder = _BUILDER.fullmatch(text)
    if builder:
        text = builder[2]
    if _REALS.fullmatch(text):
        return r"(-\infty,\infty)"
    if text == r"\{\}":
        return r"\emptyset"
    text = _POINT_NAME.sub("", text)
    text = re.sub(r"^[a-z]\\in ?(?=\\\{)", "", text)
    text = _FRENCH.sub(_unfrench, text)
    pieces = [_ascending(piece) for piece in JOIN.split(text)]
    intervals = [_interval(piece) for piece in pieces]
    # A union: relations of one variable that are joined by "or".
    is_conjunction = re.search(r"\band\b|和", text)
    if is_conjunction or None in intervals or len({name for name, _ in intervals}) > 1:
        return ";".join(pieces)  # 7 and 391 are not 7,391
    variable = intervals[0][0]
    return variable + "=" + r"\cup".join(interval for _, interval in intervals)


def _unfrench(match: re.Match) -> str:
    first_bracket, parts, last_bracket = match.groups()
    opening = "(" if first_bracket == "]" else "["
    closing = ")" if last_bracket == "[" else "]"
    return opening + parts + closing


# 4. Parts

UNION = "cup"
SET = "{}"  # no order, and no brackets or braces
_STRUCTURE = re.compile(r"\\[{}]|[()\[\]{},;]|\\cup(?![A-Za-z])")
_SEPARATORS = {UNION: (r"\cup",), SET: (",", ";")}


def take_apart(text: str) -> tuple[str, list[str]]:
    r"""Returns how a text is put together, and its parts.

    The first value is UNION, SET, a pair of brackets such as "(]", or "" for a text of one part.

    "(1,7]" -> "(]", [1, 7];    "1,7" and "\{1,7\}" -> SET, [1, 7];    "\pm1" -> SET, [+1, -1];
    "(1,7)\cup[8,9]" -> UNION, [(1,7), [8,9]];    "x", "(x)", "f(1,7)" -> "", [the text]
    """
    # 1. The separators outside all brackets, and the outermost brackets. Example, with the depth
    # at which each is looked at: (0 ,1 (1 )1 )0 \cup0 [0 ,1 ]0 in "(1,(2))\cup[3,4]".
    depth = 0
    outermost = []
    for match in _STRUCTURE.finditer(text):
        character = match[0][-1]
        depth -= character in ")]}"
        if depth == 0:
            outermost.append(match)
        depth += character in "([{"

    # 2. Cut at separators. A union binds less than a comma: (1,2)\cup(3,4), 5 is a union.
    for kind, separators in _SEPARATORS.items():
        cuts = [match.span() for match in outermost if match[0] in separators]
        if cuts:
            pieces = _pieces(text, cuts)
            return kind, [signed for piece in pieces for signed in _signs(piece)]

    # 3. One pair of brackets around it all.
    if len(outermost) == 2:
        opening, closing = outermost
        if opening.start() == 0 and closing.end() == len(text):
            brackets = opening[0][-1] + closing[0][-1]
            kind, inner = take_apart(text[opening.end() : closing.start()])
            if kind == SET:
                return brackets, inner
            # (x) is x, but [x] is not, and \{\emptyset\} is not empty.
            if brackets in ("()", "{}") and inner != [r"\emptyset"]:
                return kind, inner
    signs = _signs(text)
    return SET if len(signs) == 2 else "", signs


def _pieces(text: str, cuts: list[tuple[int, int]]) -> list[str]:
    """Returns the stripped pieces of a text around the spans that are cut out.

    "1, 7;8" without (1, 2) and (4, 5): edges 0 1 2 4 5 6, pieces [0:1] [2:4] [5:6], "1" "7" "8".
    """
    edges = [0, *itertools.chain.from_iterable(cuts), len(text)]
    starts = edges[::2]
    ends = edges[1::2]
    return [text[i:j].strip() for i, j in zip(starts, ends, strict=True)]


def _signs(text: str) -> list[str]:
    return [text.replace(r"\pm", sign) for sign in "+-"] if r"\pm" in text else [text]


def nesting(text: str) -> int:
    """Returns how many brackets of a text are open at most: 2 for "(1)[(2)]"."""
    steps = ((character in "([{") - (character in ")]}") for character in text)
    return max(itertools.accumulate(steps), default=0)
