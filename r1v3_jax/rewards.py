r"""Text -> reward: where the answer stands, whether it is right, whether the format is kept.

Knows text only: no tokens, no arrays, no images. Nothing that a model writes is executed.

A prompt ends in "<think>\n", so a completion is "reasoning</think>summary". Its answer is what
stands in the last balanced \boxed{...} of the summary; nothing else is looked at. How it is
compared depends on the reference answer, which is called gold below:

    gold                     the box is right if it holds
    B, (B)                   the same letter, in either case, in brackets or not
    Yes, 等腰三角形, AB, 3:2   the same text but for case and spaces
    5, 1,234                 that integer: 5 05 +5 5.0 x=5 5\text{ cm}, not 10/2, 2+3 or 500%
    0.5, \frac{1}{2}, 50%    a number in digits of exactly that value: .5 \frac{2}{4} 50%
    (1,7)  [1,7)  1,7        the same brackets and equal parts, in order; 1,7 is a set: 7,1
    x>1, 1<x<7               that relation or its interval
    2\sqrt{3}, y=2x+1        an expression of the same values, an equivalent equation

A number may carry a unit or a name (x=) that gold lacks, or lack gold's, but not another one. Not
accepted, as a policy would learn to exploit it: boxes that differ, "7 or 8", 10 for 10%, 1,7 for
(1,7), 0.3333 for 1/3, an expression that still has to be computed where gold is a number.

math-verify reads expressions, but does not compare them: it looks for proofs, which can take for
ever or round a decimal until it fits. Values at some points decide instead. So nothing in here
needs a time limit; what could take long is refused before it is read.
"""

import dataclasses
import enum
import functools
import itertools
import logging
import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

import math_verify
import mpmath
from latex2sympy2_extended import NormalizationConfig
from sympy import Basic, Eq, Expr

MAX_ANSWER = 400  # characters
MAX_DEPTH = 8  # of brackets; the parser takes a second for nine logarithms in each other
MAX_PARTS = 16  # of a list or a union

# math-verify warns that its time limits are off. They are signals, which only the main thread gets.
logging.getLogger("math_verify").setLevel(logging.ERROR)


class Verdict(enum.Enum):
    """ERROR: the verifier failed, so that the answer may be right or wrong. It is not WRONG."""

    RIGHT = "right"
    WRONG = "wrong"
    ERROR = "error"


@dataclasses.dataclass(frozen=True)
class Check:
    """What became of one answer. extracted: inside the last box; reason: a few words."""

    verdict: Verdict
    extracted: str | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Score:
    """The reward of one completion, and what it is made of.

    total and accuracy are None after an ERROR: the caller masks the sample out of its group.
    """

    total: float | None
    accuracy: float | None
    format: float
    verdict: Verdict
    extracted: str | None
    reason: str


# The answer in a completion


def _summary(completion: str, thinking: bool) -> str | None:
    _, end, summary = completion.rpartition("</think>")
    return summary if end or not thinking else None


def _boxes(text: str) -> tuple[list[str], bool]:
    r"""Contents of the balanced \boxed{...}, outermost only, and whether one is never closed.

    "\boxed{\frac{1}{2}}, \boxed{3"  ->  ["\frac{1}{2}"], True.    One pass over the text.
    """
    open_braces: list[int | None] = []  # for a box, where its content begins; else None
    spans: list[tuple[int, int]] = []
    for match in re.finditer(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]", text):
        token = match[0]
        if token == "{" or token.startswith(r"\boxed"):
            open_braces.append(None if token == "{" else match.end())
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start is not None:
                while spans and spans[-1][0] > start:  # a box within this one
                    spans.pop()
                spans.append((start, match.start()))
    unfinished = any(start is not None for start in open_braces)
    return [text[start:end].strip() for start, end in spans], unfinished


def extract(completion: str, *, thinking: bool = True) -> str | None:
    r"""The inside of the last balanced \boxed{...} after the last </think>; None if there is none.

    thinking False (NoThink): a completion without </think> is all summary.
    """
    summary = _summary(completion, thinking)
    boxes = [] if summary is None else _boxes(summary)[0]
    return boxes[-1] if boxes else None


# One spelling for each answer

_CHARACTERS = str.maketrans(
    {chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}  # full-width forms
    | dict(zip("。、−–∶\u00a0", ".,--: ", strict=True))
    | {"×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "√": r"\sqrt ", "±": r"\pm "}
    | {"∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup "}
    | {"∈": r"\in ", "∠": r"\angle ", "△": r"\triangle ", "²": "^{2}", "³": "^{3}", "°": r"^\circ "}
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


def _normalise(text: str) -> str:
    """One spelling: no markup, spaces only between words or digits, no full stop at the end."""
    text = text.translate(_CHARACTERS)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    while (unwrapped := _TEXT.sub(r"~\1 ", text)) != text:
        text = unwrapped
    text = re.sub(r"[ ~]*\b(?:percent|pct)\b", "%", re.sub(r"\s+", " ", text))
    text = re.sub(r", (?=[0-9])", ";", text)  # 1, 234 is two numbers, 1,234 is one
    text = re.sub(r"(\\[A-Za-z]+) (?![A-Za-z])", r"\1", text)
    text = re.sub(r"(?<![^\W_]) | (?![^\W_])", "", text).strip("*").rstrip("~.,;").lstrip("~")
    text = re.sub(r"\\([lg]e)(?![A-Za-z]) ?", r"\\\1 ", text)
    return re.sub(r"(?<=[0-9])[eE]([+-]?[0-9]{1,3})$", r"\\times10^{\1}", text)


_DECIMAL = re.compile(  # 05  1,234  1 234.5  .5  12%  3\times10^{8}  10^{8}, made 1\times10^{8}
    r"([+-]?)((?:[0-9]{1,3}(?:[, ][0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?)"
    r"(?:\\(?:times|cdot)10\^\{([+-]?[0-9]{1,3})\})?(%?)"
)
_FRACTION = re.compile(  # 1/2  -\frac{1}{2}  1\frac{1}{2}  1 1/2  \frac{1}{2}%
    r"([+-]?)(?:([0-9]+)(?: (?=[0-9])|(?=\\frac)))?"
    r"(?:\\frac\{([+-]?[0-9]+)\}\{([0-9]+)\}|([0-9]+)/([0-9]+))(%?)"
)


def _number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a number in digits, and whether it is plain: not a fraction, not a percentage.

    None for everything else.
    """
    text = re.sub(r"^([+-]?)(?=10\^)", r"\g<1>1\\times", text)
    if (match := _DECIMAL.fullmatch(text)) and match[2]:
        sign, digits, power, percent = match.groups()
        value, plain = Fraction(re.sub("[, ]", "", digits)) * Fraction(10) ** int(power or 0), True
    elif match := _FRACTION.fullmatch(text):
        sign, whole, *parts, percent = match.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        if bottom == 0 or (whole and top < 0):
            return None
        value, plain = int(whole or 0) + Fraction(top, bottom), False
    else:
        return None
    value = -value if sign == "-" else value
    return (value / 100, False) if percent else (value, plain)


# The first spelling of a unit is its name. An s at the end goes without saying.
_UNIT_NAMES = {
    spelling: unit.split()[0]
    for unit in r"""
        mm millimeter millimetre 毫米; cm centimeter centimetre 厘米; dm decimeter decimetre 分米;
        m meter metre 米; km kilometer kilometre 千米 公里; inch inches; ft foot feet; mile;
        L l liter litre 升; mL ml milliliter millilitre 毫升; g gram 克; kg kilogram 千克 公斤;
        t ton tonne 吨; s sec second 秒; min minute 分钟; h hr hour 小时; day 天; year 年 岁;
        degree deg 度 ^\circ; ℃ ^\circ~C; rad radian; dollar; yuan 元; N newton 牛; J joule;
        W watt; V volt; A ampere; Pa pascal; Hz hertz; mol; unit; 个; 人""".split(";")
    for spelling in unit.split()
}
_UNIT_NAMES[r"^\circ C"] = "℃"
_SPELLED = "|".join(map(re.escape, sorted(_UNIT_NAMES, key=len, reverse=True)))
_UNIT = rf"(?:(square|sq|平方)|(cubic|cu|立方))? ?({_SPELLED})s?(?:\^\{{([23])\}})?"
_WITH_UNIT = re.compile(rf"(.*(?:[0-9)}}%]|\\pi))([ ~]?){_UNIT}(?:(?:/| per ){_UNIT})?")


def _split_unit(text: str) -> tuple[str, str]:
    r"""The text without its unit, and the unit in one spelling: 9.8\text{ m/s^2} -> 9.8, m/s2."""
    match = _WITH_UNIT.fullmatch(text)
    if not match or (not match[2] and re.fullmatch("[A-Za-z]", match[5])):
        return text, ""
    parts = [
        _UNIT_NAMES[name] + (power or (square and "2") or (cubic and "3") or "")
        for square, cubic, name, power in (match.groups()[2:6], match.groups()[6:])
        if name
    ]
    return match[1], "/".join(parts)


_NAMED = re.compile(  # x=  x_{1}=  AB=  f(2)=  \theta=  \angle A=  S_{\triangle ABC}=  x\in
    r"((?:\\(?:angle|triangle|overline|vec) ?)?(?:[A-Za-z]{1,3}|\\(?:alpha|beta|gamma|theta|phi))"
    r"'?(?:_\{[^{}=]{1,20}\})?(?:\([a-z0-9]{1,3}\))?)(?:=|\\approx|\\in(?![A-Za-z]) ?)([^=]+)"
)
_JOIN = re.compile(r"[ ~]*(?:\b(?:or|and)\b|或|和)[ ~]*")
_ORDER = re.compile(r"(\\[lg]e |[<>])")


def _ascending(text: str) -> str:
    r"""7>x\ge1 -> 1\le x<7; a text that is not all > stays."""
    parts = _ORDER.split(text)
    if len(parts) == 1 or {"<", r"\le "} & set(parts):
        return text
    return "".join({">": "<", r"\ge ": r"\le "}.get(part, part) for part in reversed(parts))


def _interval(text: str) -> tuple[str, str] | None:
    r"""1<x\le 7 -> x, (1,7];  x<1 -> x, (-\infty,1);  None for anything else."""
    parts = _ORDER.split(text)
    is_name = re.compile(r"[a-z]|\\(?:alpha|beta|theta|lambda)").fullmatch
    if len(parts) == 3:
        parts = [r"-\infty", "<", *parts] if is_name(parts[0]) else [*parts, "<", r"\infty"]
    if len(parts) != 5 or not is_name(parts[2]) or not {parts[1], parts[3]} <= {"<", r"\le "}:
        return None
    low, low_sign, name, high_sign, high = parts
    return name, f"{'[('[low_sign == '<']}{low},{high}{'])'[high_sign == '<']}"


def _as_sets(text: str) -> str:
    r"""x<1 or x>7 -> x=(-\infty,1)\cup(7,\infty);  1 and 7 -> 1,7;  2>a+b -> a+b<2."""
    pieces = [_ascending(piece) for piece in _JOIN.split(text)]
    intervals = [_interval(piece) for piece in pieces]
    if re.search(r"\band\b|和", text) or None in intervals or len({i[0] for i in intervals}) > 1:
        return ",".join(pieces)
    return intervals[0][0] + "=" + r"\cup".join(interval for _, interval in intervals)


def _parts(text: str) -> tuple[str, list[str]]:
    r"""How a text is put together, and of what.

    "(1,7]" -> "(]", [1, 7];    "1,7" and "\{1,7\}" -> "{}", [1, 7];    "\pm1" -> "{}", [+1, -1];
    "(1,7)\cup[8,9]" -> "cup", [(1,7), [8,9]];    "x", "(x)", "f(1,7)" -> "", [the text]
    """
    depth, top = 0, []  # top: what stands outside all brackets, and the outermost brackets
    for match in re.finditer(r"\\[{}]|[()\[\]{},;]|\\cup(?![A-Za-z])", text):
        depth -= match[0][-1] in ")]}"
        if depth == 0:
            top.append(match)
        depth += match[0][-1] in "([{"
    for kind, separators in (("cup", (r"\cup",)), ("{}", (",", ";"))):
        if cuts := [match.span() for match in top if match[0] in separators]:
            edges = [0, *(edge for cut in cuts for edge in cut), len(text)]
            pieces = [text[i:j].strip() for i, j in zip(edges[::2], edges[1::2], strict=True)]
            return kind, [one for piece in pieces for one in _signs(piece)]
    if len(top) == 2 and top[0].start() == 0 and top[1].end() == len(text):
        brackets = top[0][0][-1] + top[1][0][-1]
        kind, parts = _parts(text[top[0].end() : top[1].start()])
        if kind == "{}":
            return brackets, parts
        if brackets in ("()", "{}"):
            return kind, parts
    signs = _signs(text)
    return "{}" if len(signs) == 2 else "", signs


def _signs(text: str) -> list[str]:
    return [text.replace(r"\pm", sign) for sign in "+-"] if r"\pm" in text else [text]


# Comparison

_COMMANDS = frozenset(
    r"""\frac \sqrt \pi \infty \cdot \times \div \sin \cos \tan \cot \sec \csc \arcsin \arccos
    \arctan \ln \log \exp \alpha \beta \gamma \delta \theta \lambda \mu \rho \sigma \tau \phi
    \varphi \omega \Delta \Omega \vec \overline""".split()
)
_EXPONENT = re.compile(r"\^\{((?:[^{}^]|\\frac\{[^{}^]*\}\{[^{}^]*\})*)\}")
_LETTERS = re.compile(r"[~([{]*[^\W\d_](?:[^\W\d_]|[ ~,;.()\[\]{}])*")
# Without units=True, which would take the h off \pi r^2 h.
_LATEX = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
_PARSER = math_verify.LatexExtractionConfig(boxed_match_priority=-1, normalization_config=_LATEX)


def _is_text(gold: str) -> bool:
    """Whether gold is compared as text: choices, words, names of points, ratios, signs."""
    body, _ = _split_unit(gold)
    if named := _NAMED.fullmatch(body):
        body = named[2]
    body = re.sub(r"\\(?:begin|end)\{[a-z]*\}|\\[A-Za-z]+", " ", _JOIN.sub(",", body))
    wordy = re.search(r"[A-Z]{2}|[A-Za-z]{4}|:|[^\x00-\x7f]", body)
    return bool(wordy or _LETTERS.fullmatch(gold) or not re.search(r"[^\W_]", gold))


def _text_difference(gold: str, box: str) -> str | None:
    ignored = r"[ ~,;.()\[\]{}]" if _LETTERS.fullmatch(gold) else "[ ~]"
    gold, box = (re.sub(ignored, "", text).casefold().replace(";", ",") for text in (gold, box))
    return None if gold == box else "another text"


def _is_plain(text: str) -> bool:
    """Whether an expression is compared by its values, and not as text: no sums, integrals and
    factorials, which are no final answers; no towers of powers and other huge numbers, which take
    the parser for ever; no sets and inequalities; no primes, which the parser ignores.
    """
    product = 1  # of the powers of brackets and of powers
    exponents = list(_EXPONENT.finditer(text))
    for match in exponents:
        runs = re.findall("[0-9]+", match[1])
        if len("".join(runs)) > 3:
            return False
        if text[: match.start()].endswith((")", "]", "}")):
            product *= math.prod(map(int, runs))
    return (
        product <= 100
        and len(exponents) == text.count("^")
        and not re.search("[<>!']", text)
        and set(re.findall(r"\\[A-Za-z]+", text)) <= _COMMANDS
    )


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def _parse(text: str) -> tuple[Expr, bool] | None:
    """An expression, or the difference of an equation's sides and True; None for anything else."""
    parsed = math_verify.parse(
        f"${text.replace('~', ' ')}$",
        [_PARSER],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
        raise_on_error=True,
    )
    equation = bool(parsed) and isinstance(parsed[0], Eq)
    sides = parsed[0].args if equation else parsed
    if not sides or not all(isinstance(side, Expr) for side in sides):
        return None
    return (sides[0] - sides[1] if equation else sides[0]), equation


_ARITHMETIC = mpmath.MPContext()
_ARITHMETIC.dps = 40  # digits
_FUNCTIONS = {
    "Add": lambda *terms: _ARITHMETIC.fsum(terms),
    "Mul": lambda *factors: _ARITHMETIC.fprod(factors),
    "Pow": _ARITHMETIC.power,
    "Pi": lambda: +_ARITHMETIC.pi,
    "Exp1": lambda: +_ARITHMETIC.e,
    "Abs": _ARITHMETIC.fabs,
    "log": _ARITHMETIC.log,
} | {
    name: getattr(_ARITHMETIC, name)
    for name in "sin cos tan cot sec csc asin acos atan sinh cosh tanh exp".split()
}


def _value(node: Basic, point: dict):
    """The value of an expression at a point, no step of it beyond 1e100; raises if it has none."""
    if node.is_Symbol:
        return point[node]
    if node.is_Rational:
        value = _ARITHMETIC.mpf(node.p) / node.q
    elif node.is_Float:
        value = _ARITHMETIC.mpf(str(node))
    else:
        value = _FUNCTIONS[type(node).__name__](*(_value(part, point) for part in node.args))
    if not abs(value) < 1e100:
        raise OverflowError("too large")
    return value


def _values(expression: Expr, symbols: list) -> list | None:
    """The values at three points, the first symbol once negative; None if one has no value."""
    points = [
        {symbol: _ARITHMETIC.mpf(start + 0.29 * i) for i, symbol in enumerate(symbols)}
        for start in (0.37, 1.13, -0.45)
    ]
    try:
        return [_value(expression, point) for point in points]
    except (LookupError, ArithmeticError, ValueError, TypeError, RecursionError):
        return None


def _expression_difference(gold: str, box: str) -> str | None:
    """Compares values. Two equations are the same if their sides differ by one constant factor."""
    if not _is_plain(gold):
        return _text_difference(gold, box)
    if not box or len(box) > 4 * len(gold) + 64:
        return "far longer than the answer" if box else "empty"
    if not _is_plain(box):
        return "not in the form of a final answer"
    parsed_gold, parsed_box = _parse(gold), _parse(box)
    if parsed_gold is None:
        raise ValueError(f"the answer {gold!r} is neither text nor an expression nor an equation")
    if parsed_box is None or parsed_box[1] != parsed_gold[1]:
        return "not an equation" if parsed_gold[1] else "not an expression"
    (expression, is_equation), (box_expression, _) = parsed_gold, parsed_box
    symbols = sorted(expression.free_symbols, key=str)
    wanted, values = _values(expression, symbols), _values(box_expression, symbols)
    if wanted is None:  # infinity, f(x)
        return _text_difference(gold, box)
    if values is None:
        return "no value, or other variables"
    if is_equation:
        if not all(wanted) or not all(values):
            return "an identity"
        wanted, values = ([value / side[0] for value in side] for side in (wanted, values))
    equal = all(abs(x - y) <= 1e-25 * abs(x) for x, y in zip(wanted, values, strict=True))
    return None if equal else "another equation" if is_equation else "another value"


def _difference(gold: str, box: str) -> str | None:
    """What is wrong with a box, both normalised; None if it is right."""
    same_letters = re.sub("[ ~]", "", gold) == re.sub("[ ~]", "", box)
    (gold, gold_unit), (box, box_unit) = (_split_unit(text.strip(" ~")) for text in (gold, box))
    if gold_unit != box_unit and same_letters:  # 5 m and 5m
        return None
    if gold_unit and box_unit and gold_unit != box_unit:
        return "another unit"
    gold_named, box_named = _NAMED.fullmatch(gold), _NAMED.fullmatch(box)
    if gold_named and box_named and gold_named[1] == box_named[1]:
        return _difference(gold_named[2], box_named[2])
    if gold_named and not box_named and "=" not in box:
        return _difference(gold_named[2], box)
    if box_named and not gold_named and "=" not in gold:
        return _difference(gold, box_named[2])

    gold_number, box_number = _number(gold), _number(box)
    if gold_number and box_number:
        if gold_number[0] != box_number[0]:
            return "another number"
        is_integer = gold_number[1] and gold_number[0].denominator == 1
        return "not written as an integer" if is_integer and not box_number[1] else None

    gold_kind, gold_parts = ("", [gold]) if gold_number else _parts(gold)  # 1,234 is one number
    box_kind, box_parts = _parts(box)
    if not gold_kind and not box_kind:
        if [gold, box] != gold_parts + box_parts:  # brackets around it all
            return _difference(*gold_parts, *box_parts)
        if gold_named and _parts(gold_named[2])[0]:  # x=(1,7) is no equation
            return "another name"
        return "not a plain number" if gold_number else _expression_difference(gold, box)
    if gold_kind != box_kind or len(gold_parts) != len(box_parts):
        return "put together otherwise"
    if len(gold_parts) > MAX_PARTS:
        raise ValueError(
            f"the answer has {len(gold_parts)} parts, at most {MAX_PARTS} are compared"
        )
    if gold_kind not in ("{}", "cup"):
        return next(filter(None, map(_difference, gold_parts, box_parts)), None)
    for part in gold_parts:
        match = next((i for i, b in enumerate(box_parts) if not _difference(part, b)), None)
        if match is None:
            return "other elements"
        box_parts.pop(match)
    return None


# Verdicts

NO_ANSWER, SEVERAL = "no answer", "several answers"


def _compare(answer: str, box: str) -> Check:
    try:
        gold = _normalise(answer[: MAX_ANSWER + 1])
        box_spelling = _normalise(box[: MAX_ANSWER + 1])
        if not gold or len(answer) > MAX_ANSWER or _depth(gold) > MAX_DEPTH:
            raise ValueError(
                f"the answer must have 1 to {MAX_ANSWER} characters and at most {MAX_DEPTH} "
                "brackets in each other"
            )
        if _is_text(gold):
            difference = _text_difference(gold, box_spelling)
        elif len(box) > MAX_ANSWER or _depth(box_spelling) > MAX_DEPTH:
            difference = "too long or too deep"
        else:
            difference = _difference(_as_sets(gold), _as_sets(box_spelling))
    except Exception as error:  # whatever sympy raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Check(Verdict.ERROR, box, reason)
    return Check(Verdict.WRONG if difference else Verdict.RIGHT, box, difference or "equal")


def _depth(text: str) -> int:
    steps = ((character in "([{") - (character in ")]}") for character in text)
    return max(itertools.accumulate(steps), default=0)


def verify(completion: str, answer: str, *, thinking: bool = True) -> Check:
    """Whether the last box of a completion holds `answer`; the rules are at the top of this file.

    Balanced boxes after </think> that differ in more than spelling are WRONG, whatever they hold,
    and so is a box that does not parse. ERROR: `answer` cannot be compared with anything
    (`check_gold` finds these in advance), or the mathematics raised. Raises nothing itself.
    """
    summary = _summary(completion, thinking)
    boxes = [] if summary is None else _boxes(summary)[0]
    if not boxes:
        return Check(Verdict.WRONG, None, NO_ANSWER)
    different = sorted(set(boxes), key=len)
    if len(different) > 1 and (
        len(different) > MAX_PARTS
        or len(different[-1]) > MAX_ANSWER
        or len({_normalise(box) for box in different}) > 1
    ):
        return Check(Verdict.WRONG, boxes[-1], SEVERAL)
    return _compare(answer, boxes[-1])


def check_gold(answer: str) -> str | None:
    """What is wrong with a reference answer, for data loading; None if it verifies against itself.

    Text always does. Of mathematics each part must parse and equal itself.
    """
    check = _compare(answer, answer)
    return None if check.verdict is Verdict.RIGHT else f"{answer[:100]!r}: {check.reason}"


def format_score(completion: str, *, ended: bool, thinking: bool = True) -> float:
    r"""1.0 if a completion follows the chat template, else 0.0 (Skywork-R1V3 report, section 3.1).

    That is: it ended by itself, has exactly one </think> and no <think> (the prompt has it), does
    not leave the reasoning before it blank, and holds exactly one \boxed{...}, closed and filled,
    after it. With thinking False there must be neither tag.
    """
    summary = _summary(completion, thinking)
    if not ended or summary is None or "<think>" in completion:
        return 0.0
    if completion.count("</think>") != int(thinking):
        return 0.0
    if thinking and not completion.partition("</think>")[0].strip():
        return 0.0
    boxes, unfinished = _boxes(summary)
    return float(len(boxes) == 1 and bool(boxes[0]) and not unfinished)


def score(
    completion: str,
    answer: str,
    *,
    ended: bool,
    thinking: bool = True,
    accuracy_weight: float = 0.8,
    verifier: Callable[[str, str], Verdict] | None = None,
) -> Score:
    """w accuracy + (1 - w) format, as in the report, section 3.1; accuracy is rule OR verifier.

    verifier(completion, answer), a model's judgement, is asked only where the rule finds one answer
    and says WRONG: a missing box and a second one are not open to appeal. Its ERROR, or exception,
    is the verdict.
    """
    check = verify(completion, answer, thinking=thinking)
    verdict, reason = check.verdict, check.reason
    if verifier and verdict is Verdict.WRONG and reason not in (NO_ANSWER, SEVERAL):
        try:
            verdict, reason = verifier(completion, answer), "as the model verifier judges"
        except Exception as error:  # behind it is another program: anything can happen
            verdict, reason = Verdict.ERROR, f"{type(error).__name__}: {error}"[:200]
    form = format_score(completion, ended=ended, thinking=thinking)
    return scored(verdict, form, accuracy_weight, extracted=check.extracted, reason=reason)


def scored(
    verdict: Verdict,
    form: float,
    accuracy_weight: float,
    *,
    extracted: str | None = None,
    reason: str = "",
) -> Score:
    """The Score that a verdict and a format score make."""
    accuracy = {Verdict.RIGHT: 1.0, Verdict.WRONG: 0.0, Verdict.ERROR: None}[verdict]
    total = None if accuracy is None else accuracy_weight * accuracy + (1 - accuracy_weight) * form
    return Score(total, accuracy, form, verdict, extracted, reason)


def score_all(
    completions: Sequence[str], answers: Sequence[str], ended: Sequence[bool], **options
) -> list[Score]:
    """`score` of each, in order; options are score's.

    The seam for a pool of processes with a deadline an item: a batch goes in, a list of the same
    order comes out. A plain loop until then.
    """
    return [
        score(completion, answer, ended=bool(end), **options)
        for completion, answer, end in zip(completions, answers, ended, strict=True)
    ]
