r"""Splits a name from its value: x=5, P(A)=\frac{1}{2}, \angle ABC=40, Surface area=6, (x,y)=(1,2).

A name is a letter or a word with its indices, a function of something, a length or an angle, a
derivative. A number times something is none (2x=6), and a sum is none (x+y=6): these are equations.
"""

import re

_GREEK = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma
    tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega
    ell""".split()
_LETTER = rf"(?:[A-Za-z]|\\(?:{'|'.join(_GREEK)})(?![A-Za-z]) ?)"
_INDICES = r"'{0,3}(?:_\{[^{}=]{1,20}\}'{0,2})?"
_POINTS = r"(?:[A-Z]'?(?:_\{[0-9]\})?){1,4}"
# Of a function: x, A|B, X=2, g(2), A'; quotes around a word are none.
_ARGUMENT = r"\((?:[^()'\"]|(?<=[A-Z])'|\([^()'\"]{0,10}\)){1,30}\)"
_TRIGONOMETRIC = (
    r"\\(?:(?:arc)?(?:sin|cos|tan|cot|sec|csc)|det|dim|deg|max|min|gcd|arg)"
)
_KINDS = [
    # x  x'_{1}  AB  S_{\triangle ABC}  \lambda_{1}  \Delta H  f(2)  f^{-1}(3)  P(A|B)
    rf"(?:\\Delta ?)?(?:{_LETTER}|[A-Za-z]{{2,3}}|{_POINTS}){_INDICES}"
    rf"(?:(?:\^\{{-1\}})?{_ARGUMENT})?",
    # \angle A  m\angle ABC  \overline{AB}  \vec{a}  \triangle ABC  \hat{p}
    rf"m?[~ ]?\\(?:angle|triangle|odot) ?(?:{_POINTS}|[0-9])",
    rf"\\(?:overline|vec|hat|widehat|dot|tilde)\{{ ?(?:{_POINTS}|{_LETTER}{_INDICES})\}}{_INDICES}",
    # |AB|  |z_{1}|  |\vec{a}|  |a+b|; but |x|=5 is an equation for x.
    r"\\?\|(?![xyt]\|)(?:[A-Za-z]|\\(?:vec|overline)\{)[^|=<>]{0,20}\\?\|",
    # \cos\theta  \sin^{2}A  \tan(A+B)  \sin\angle ABC
    rf"{_TRIGONOMETRIC}(?:\^\{{(?:-1|[2-9])\}})?[ ~]?(?:\\angle ?)?"
    rf"(?:{_ARGUMENT}|{_POINTS}|{_LETTER}|[0-9]{{1,3}}(?:\^\\circ ?)?)",
    # \lim_{x\to 0}f(x)
    r"\\lim_\{[^{}=]{1,20}\}[^=]{1,60}",
    # \frac{dy}{dx}  \frac{d^{2}y}{dx^{2}}  \frac{\partial f}{\partial x}
    r"\\frac\{(?:~?d[ ~]?|\\partial ?)(?:\^\{[2-9]\})?[A-Za-z]?(?:\([a-z]\))?\}"
    r"\{(?:(?:~?d[ ~]?|\\partial ?)[a-z](?:\^\{[2-9]\})?){1,3}\}(?:[a-z](?:\([a-z]\))?)?",
    # dy/dx  E[X]  [ABC], an area  x^{*}  f^{(4)}(x)  \hat{\beta}_{1}
    r"d[a-z]/d[a-z]",
    rf"(?:[A-Z]|\\mathbb\{{[A-Z]\}})\[[^\[\]='\"]{{1,20}}\]|\\mathbb\{{[A-Z]\}}{_ARGUMENT}",
    r"\[[A-Z]{3,5}\]",
    rf"{_LETTER}(?:_\{{[^{{}}=]{{1,20}}\}})?\^\{{?\*\}}?|[a-z]\^\{{\([0-9n]\)\}}\([a-z0-9]\)",
    # (x,y)  (a_{1},a_{2},a_{3})
    rf"\({_LETTER}{_INDICES}(?:[,;]{_LETTER}{_INDICES}){{1,4}}\)",
    # Area  Surface area  x-intercept  Area of \triangle ABC  面积
    r"(?:[A-Za-z]-)?[A-Za-z]{2,20}(?:[ ~-][A-Za-z]{2,20}){0,5}"
    rf"(?:(?:[ ~]|\\(?:triangle|angle) ?){_POINTS})?",
    r"[A-Za-z]{0,4}[\u4e00-\u9fff]{1,12}(?:\\(?:triangle|angle) ?)?[A-Z]{0,4}",
]
_NAME = re.compile("|".join(_KINDS))
# A value that is taken back or left open has no name in front of it.
_NO_WORDS = re.compile(
    r"\b(?:not?|n[ou]r|never|or|and|if|unless|than|except|isn|aren|either|neither|without|"
    r"less|more|minus|plus|times|about|maybe|perhaps|wrong|false|incorrect)\b|不|非|或|和|错",
    re.I,
)
# Words that say only that a value follows.
_NEUTRAL = re.compile(
    r"(?:the )?(?:final )?(?:answer|ans|result|value)|答案?|解|结果", re.I
)
_MAX_NAME = 100  # characters
_SIGN = re.compile(r"=|\\approx(?![A-Za-z])|\\in(?![A-Za-z]) ?")
_POINT = re.compile(r"([A-Z]'?(?:_\{[0-9]\})?)(\([^()]*[,;][^()]*\))")


def split(text: str) -> tuple[str, str]:
    r"""Returns the name and the value of a normalised text; "" and the text if it has no name.

    x=5 -> "x", "5";    P(1,2) -> "P", "(1,2)";    2x=6 -> "", "2x=6";    the answer=5 -> "", "5"
    """
    point = _POINT.fullmatch(text)
    if point:
        return point[1], point[2]
    sign = _first_sign(text)
    if sign is None:
        return "", text
    name = text[: sign.start()].strip(" ~")
    value = text[sign.end() :].strip(" ~")
    # x=y=5 is no value of x, except where the equations are those of a system.
    if not value or ("=" in value and not value.startswith(r"\begin")):
        return "", text
    if _NEUTRAL.fullmatch(name):
        return "", value
    if not _NAME.fullmatch(name) or _NO_WORDS.search(name):
        return "", text
    # e\approx2.72 is one number, exact and rounded.
    if name == "e" and sign[0] == r"\approx":
        return "", text
    return name, value


def _first_sign(text: str) -> re.Match | None:
    """Returns the first sign outside round brackets: the second one of P(X=2)=0.5."""
    for sign in _SIGN.finditer(text, 0, _MAX_NAME):
        name = text[: sign.start()]
        if name.count("(") == name.count(")"):
            return sign
    return None


_LENGTH = re.compile(r"\\?\||\\(?:overline|vec)\{|\}")
_ANGLE = re.compile(r"m?[~ ]?\\angle ?")


def _bare(name: str) -> str:
    r"""|AB| and \overline{AB} are AB, m\angle A is A; words have no case; |x| is not x."""
    name = _ANGLE.sub("", name)
    bare = _LENGTH.sub("", name)
    if re.fullmatch("[A-Z]{2}", bare):
        return bare
    name = re.sub("[ ~]", "", name).replace(";", ",")
    return name.casefold() if re.search(r"[A-Za-z]{4}", name) else name


_SYNONYMS = {
    "f(x)": "y",
    "f'(x)": "y'",
    r"\frac{dy}{dx}": "y'",
    "dy/dx": "y'",
}


def are_same(gold: str, box: str) -> bool:
    """Returns whether two names may be of the same thing: x and x_{1}, y and f(x), AB and |AB|."""
    if _SYNONYMS.get(gold, gold) == _SYNONYMS.get(box, box):
        return True
    # A point and its coordinates: P(1,2) and (x,y)=(1,2).
    if {gold[:1], box[:1]} & {"("} and re.search("^[A-Z]$", min(gold, box, key=len)):
        return True
    gold_base = base(gold)
    box_base = base(box)
    # Equal without indices, and one of the two has none: x_{1} and x_{2} are two things.
    if _bare(gold_base) == _bare(box_base):
        return _bare(gold) == _bare(box) or gold_base == gold or box_base == box
    # S is S_{\triangle ABC}, but x_{a} is not x_{b}.
    short, long = sorted((gold, box), key=len)
    return re.fullmatch(rf"{re.escape(short)}_\{{[^{{}}]*\}}", long) is not None


def base(name: str) -> str:
    """Returns a name without its index: x_{1} and x_{2} are two solutions for x."""
    return re.sub(r"_\{[0-9]+\}", "", name)


_is_variable = re.compile(rf"{_LETTER}{_INDICES}").fullmatch


def are_variables(*names: str) -> bool:
    """Returns whether all names are letters, which may be the unknowns of an equation."""
    return all(map(_is_variable, names))


def of_different_things(parts: list[str]) -> bool:
    """Returns whether a list has values of two or more things: x=1, y=2; not x=1, x=2."""
    bases = {base(split(part)[0]) for part in parts}
    return len(bases - {""}) > 1
