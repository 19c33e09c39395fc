"""One spelling for each answer, and what it is made of: numbers, units, names, parts.

Regular expressions over short text; nothing here knows what is right.
"""

import functools
import itertools
import re
from fractions import Fraction

MAX_ANSWER = 400  # characters
MAX_DEPTH = (
    8  # of brackets; the parser takes a second for nine logarithms in each other
)
MAX_PARTS = 16  # of a list or a union

_CHARACTERS = str.maketrans(
    {chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}  # full-width forms
    | dict(zip("。、−–∶\u00a0", ".,--: ", strict=True))
    | {
        "×": r"\times ",
        "·": r"\cdot ",
        "÷": r"\div ",
        "π": r"\pi ",
        "√": r"\sqrt ",
        "±": r"\pm ",
    }
    | {
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "∪": r"\cup ",
    }
    | {
        "∈": r"\in ",
        "∠": r"\angle ",
        "△": r"\triangle ",
        "²": "^{2}",
        "³": "^{3}",
        "°": r"^\circ ",
    }
)
_SPELLINGS = [
    (re.compile(pattern.replace("END", "(?![A-Za-z])")), replacement)
    for pattern, replacement in [
        (r"(?<!\\)\\[()\[\]!]|\\?\$|[¥￥€£]|\\(?:left|right|displaystyle)END", ""),
        (r"~|(?<!\\)\\(?:[,;:> ]|q?quadEND)", " "),
        (r"\{,\}", ","),
        (r"\\%", "%"),
        (r"\\[dtc]fracEND", r"\\frac"),
        (r"\\frac *([0-9]) *([0-9])", r"\\frac{\1}{\2}"),
        (r"(?<![\\A-Za-z])sqrtEND", r"\\sqrt"),
        (r"\\sqrt *\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\^ *\(([^()]*)\)", r"^{\1}"),
        (r"\\([lg]e)(?:q(?:slant)?)?END", r"\\\1 "),
        (r"\\varnothingEND|∅", r"\\emptyset"),
        (r"(?:^|(?<=/))\{([0-9]+)\}", r"\1"),
        (r"\\ltEND", "<"),
        (r"\\gtEND", ">"),
        (r"\\lgEND", r"\\log_{10}"),
        (r"\+ *(?=\\infty)", ""),
        (r"\^ *\{ *\\circ *\}|\^ *\\circEND|\\degreeEND", r"^\\circ "),
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
    """One spelling: no markup, spaces only between words or digits, no full stop at the end."""
    text = re.sub(r"√ ?([0-9]+)", r"\\sqrt{\1}", text).translate(_CHARACTERS)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    while (unwrapped := _TEXT.sub(r"~\1 ", text)) != text:
        text = unwrapped
    text = re.sub(r"[ ~]*\b(?:per ?cent|pct)\b", "%", re.sub(r"\s+", " ", text))
    text = re.sub(r", (?=[0-9])", ";", text)  # 1, 234 is two numbers, 1,234 is one
    text = re.sub(r"(\\[A-Za-z]+) (?![A-Za-z])", r"\1", text)
    text = (
        re.sub(r"(?<![^\W_]) | (?![^\W_])", "", text)
        .strip("*")
        .rstrip("~.,;")
        .lstrip("~")
    )
    text = re.sub(r"\\([lg]e)(?![A-Za-z]) ?", r"\\\1 ", text)
    return re.sub(r"(?<=[0-9])[eE]([+-]?[0-9]{1,3})$", r"\\times10^{\1}", text)


_DECIMAL = re.compile(  # 05  1,234  1 234.5  .5  12%  3\times10^{8}  10^{8}, made 1\times10^{8}
    r"([+-]?)((?:[0-9]{1,3}(?:[, ][0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?)"
    r"(?:\\(?:times|cdot)10\^\{([+-]?[0-9]{1,3})\})?(%?)"
)
_FRACTION = re.compile(  # 1/2  -\frac{1}{2}  1\frac{1}{2}  1 1/2  \frac{1}{2}%
    r"([+-]?)(?:([0-9]+)(?: (?=[0-9])|(?=\\frac)))?"
    r"(?:\\frac\{([+-]?[0-9]+)\}\{([+-]?[0-9]+)\}|([0-9]+)/([0-9]+))(%?)"
)
_REPEATING = re.compile(
    r"([+-]?)([0-9]*)\.([0-9]*)\\(?:overline|dot|bar)\{([0-9]+)\}"
)  # 0.1\dot{6}


def read_number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a number in digits, and whether it is plain: not a fraction, not a percentage.

    None for everything else.
    """
    text = re.sub(r"^([+-]?)(?=10\^)", r"\g<1>1\\times", text)
    if (match := _DECIMAL.fullmatch(text)) and match[2]:
        sign, digits, power, percent = match.groups()
        value, plain = (
            Fraction(re.sub("[, ]", "", digits)) * Fraction(10) ** int(power or 0),
            True,
        )
    elif match := _FRACTION.fullmatch(text):
        sign, whole, *parts, percent = match.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        if bottom == 0 or (whole and (top < 0 or bottom < 0)):
            return None
        value, plain = int(whole or 0) + Fraction(top, bottom), False
    elif match := _REPEATING.fullmatch(text):
        (sign, *digits), percent = match.groups(), ""
        whole, once, again = digits
        every = int((whole + once + again) or 0) - int((whole + once) or 0)
        value, plain = Fraction(every, (10 ** len(again) - 1) * 10 ** len(once)), False
    else:
        return None
    value = -value if sign == "-" else value
    return (value / 100, False) if percent else (value, plain)


NAMED = re.compile(  # x=  x_{1}=  AB=  f(2)=  \theta=  \angle A=  S_{\triangle ABC}=  x\in
    r"((?:\\(?:angle|triangle|overline|vec) ?)?(?:[A-Za-z]{1,3}|\\(?:alpha|beta|gamma|theta|phi))"
    r"'?(?:_\{[^{}=]{1,20}\})?(?:\([a-z0-9]{1,3}\))?)(?:=|\\approx|\\in(?![A-Za-z]) ?)([^=]+)"
)
JOIN = re.compile(r"[ ~]*(?:\b(?:or|and)\b|或|和)[ ~]*")
_ORDER = re.compile(r"(\\[lg]e |[<>])")


def _ascending(text: str) -> str:
    r"""7>x\ge1 -> 1\le x<7; a text that is not all > stays."""
    parts = _ORDER.split(text)
    if len(parts) == 1 or {"<", r"\le "} & set(parts):
        return text
    return "".join(
        {">": "<", r"\ge ": r"\le "}.get(part, part) for part in reversed(parts)
    )


def _interval(text: str) -> tuple[str, str] | None:
    r"""1<x\le 7 -> x, (1,7];  x<1 -> x, (-\infty,1);  None for anything else."""
    parts = _ORDER.split(text)
    is_name = re.compile(r"[a-z]|\\(?:alpha|beta|theta|lambda)").fullmatch
    if len(parts) == 3:
        parts = (
            [r"-\infty", "<", *parts] if is_name(parts[0]) else [*parts, "<", r"\infty"]
        )
    if (
        len(parts) != 5
        or not is_name(parts[2])
        or not {parts[1], parts[3]} <= {"<", r"\le "}
    ):
        return None
    low, low_sign, name, high_sign, high = parts
    return name, f"{'[('[low_sign == '<']}{low},{high}{'])'[high_sign == '<']}"


_BUILDER = re.compile(
    r"\\\{([a-z])(?:\\in ?\\mathbb\{?R\}?)? ?(?:\\mid|\\vert|[|:]) ?(.*[<>].*|.*\\[lg]e .*)\\\}"
)
_REALS = re.compile(r"(?:[a-z]\\in ?)?(?:\\mathbb ?\{?R\}?|ℝ)")
_FRENCH = re.compile(
    r"([\[\]])([^\[\](),;]+[,;][^\[\](),;]+)([\[\]])"
)  # ]1,2] is (1,2]


def as_sets(text: str) -> str:
    r"""x<1 or x>7 -> x=(-\infty,1)\cup(7,\infty);  1 and 7 -> 1;7;  2>a+b -> a+b<2.

    Other ways to write sets and points are made one too: \{x|x<1\}, ]1,2[, \mathbb{R}, P(1,2).
    """
    if builder := _BUILDER.fullmatch(text):
        text = builder[2]
    if _REALS.fullmatch(text):
        return r"(-\infty,\infty)"
    if text == r"\{\}":
        return r"\emptyset"
    text = re.sub(r"^(?:[A-Z]'?|\([a-z](?:,[a-z])+\)=)(?=\([^()]*,[^()]*\)$)", "", text)
    text = re.sub(r"^[a-z]\\in ?(?=\\\{)", "", text)
    text = _FRENCH.sub(lambda m: "[("[m[1] == "]"] + m[2] + "])"[m[3] == "["], text)
    pieces = [_ascending(piece) for piece in JOIN.split(text)]
    intervals = [_interval(piece) for piece in pieces]
    if (
        re.search(r"\band\b|和", text)
        or None in intervals
        or len({i[0] for i in intervals}) > 1
    ):
        return ";".join(pieces)  # 7 and 391 are not 7,391
    return intervals[0][0] + "=" + r"\cup".join(interval for _, interval in intervals)


def take_apart(text: str) -> tuple[str, list[str]]:
    r"""How a text is put together, and of what.

    "(1,7]" -> "(]", [1, 7];    "1,7" and "\{1,7\}" -> "{}", [1, 7];    "\pm1" -> "{}", [+1, -1];
    "(1,7)\cup[8,9]" -> "cup", [(1,7), [8,9]];    "x", "(x)", "f(1,7)" -> "", [the text]
    """
    depth, top = (
        0,
        [],
    )  # top: what stands outside all brackets, and the outermost brackets
    for match in re.finditer(r"\\[{}]|[()\[\]{},;]|\\cup(?![A-Za-z])", text):
        depth -= match[0][-1] in ")]}"
        if depth == 0:
            top.append(match)
        depth += match[0][-1] in "([{"
    for kind, separators in (("cup", (r"\cup",)), ("{}", (",", ";"))):
        if cuts := [match.span() for match in top if match[0] in separators]:
            edges = [0, *(edge for cut in cuts for edge in cut), len(text)]
            pieces = [
                text[i:j].strip() for i, j in zip(edges[::2], edges[1::2], strict=True)
            ]
            return kind, [one for piece in pieces for one in _signs(piece)]
    if len(top) == 2 and top[0].start() == 0 and top[1].end() == len(text):
        brackets = top[0][0][-1] + top[1][0][-1]
        kind, inner = take_apart(text[top[0].end() : top[1].start()])
        if kind == "{}":
            return brackets, inner
        if brackets in ("()", "{}") and inner != [r"\emptyset"]:
            return kind, inner
    signs = _signs(text)
    return "{}" if len(signs) == 2 else "", signs


def _signs(text: str) -> list[str]:
    return [text.replace(r"\pm", sign) for sign in "+-"] if r"\pm" in text else [text]


def nesting(text: str) -> int:
    steps = ((character in "([{") - (character in ")]}") for character in text)
    return max(itertools.accumulate(steps), default=0)
