r"""Gives relations and sets of real numbers one spelling, that of intervals.

x<1 or x>7 -> x=(-\infty,1)\cup(7,\infty)      x\ne2 -> x=(-\infty,2)\cup(2,\infty)
x>0 and x<2 -> x=(0,\infty)\cap(-\infty,2)     all real numbers -> (-\infty,\infty)
"""

import re

from r1v3_jax.rewards.verifiers.structure import split_list

REALS = r"(-\infty,\infty)"
JOIN = re.compile(
    r"(?<![ ~,;])[ ~,;]*(?:\b(?:or|and)\b|或者?|和|且|以及)[ ~]*|\\(?:vee|wedge)(?![A-Za-z]) ?"
)
_AND = re.compile(r"\band\b|和|且|以及|\\wedge")
_ORDER = re.compile(r"(\\[lg]e |[<>])")
_MIRRORED = {">": "<", r"\ge ": r"\le "}
_VARIABLE = r"(?:[a-z]|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega|rho))"
_is_variable = re.compile(_VARIABLE).fullmatch
_UNEQUAL = re.compile(rf"({_VARIABLE})(?:\\ne (.+)|\\notin ?\\\{{(.+)\\\}})")
_EQUAL = re.compile(rf"({_VARIABLE})=([^=<>\\(\[]+|\\[a-z]+\{{[^=<>]*)")


def _ascending(text: str) -> str:
    r"""Turns a descending chain round: 7>x\ge1 -> 1\le x<7; a text that is not all > stays."""
    parts = _ORDER.split(text)
    if len(parts) == 1 or {"<", r"\le "} & set(parts):
        return text
    return "".join(_MIRRORED.get(part, part) for part in reversed(parts))


def _interval(text: str) -> tuple[str, str] | None:
    r"""Returns the variable of a relation and its set; None for anything else.

    1<x\le 7 -> x, (1,7];  x<1 -> x, (-\infty,1);  x\ne1 -> x, (-\infty,1)\cup(1,\infty)
    """
    unequal = _UNEQUAL.fullmatch(text)
    if unequal:
        return unequal[1], _all_but(unequal[2] or unequal[3], unequal[1])
    parts = _ORDER.split(text)
    # One relation is open at the side of its variable.
    if len(parts) == 3 and _is_variable(parts[0]):
        parts = [r"-\infty", "<", *parts]
    elif len(parts) == 3:
        parts = [*parts, "<", r"\infty"]
    if len(parts) != 5:
        return None
    low, low_sign, name, high_sign, high = parts
    if not _is_variable(name) or not {low_sign, high_sign} <= {"<", r"\le "}:
        return None
    opening = "(" if low_sign == "<" else "["
    closing = ")" if high_sign == "<" else "]"
    return name, f"{opening}{low},{high}{closing}"


def _all_but(points: str, variable: str = "x") -> str:
    r"""Returns all real numbers but some: 1 -> (-\infty,1)\cup(1,\infty)."""
    values = split_list(JOIN.sub(",", points))
    # x\ne1 and x\ne2: the variable may be written again.
    again = re.compile(rf"^{re.escape(variable)}(?:=|\\ne )")
    values = [again.sub("", value) for value in values]
    if len(values) == 1 and r"\pm" not in points:
        return rf"(-\infty,{values[0]})\cup({values[0]},\infty)"
    return rf"{REALS}\setminus\{{{','.join(values)}\}}"


# Words and set builders

_BUILDER = re.compile(
    rf"\\\{{({_VARIABLE})(?:\\in ?\\mathbb\{{R\}})?[ ~]?[|:][ ~]?(.*)\\\}}"
)
# Letters that are no word: the variables of a condition.
_LETTERS = re.compile(r"(?<![A-Za-z\\])[a-z](?![A-Za-z])")
_SIGN = re.compile(r"[<>]|\\[lgn]e ")
_DOMAIN = re.compile(
    rf"[ ~]*(?:[,;]|\band\b)?[ ~]*{_VARIABLE}\\in ?(?:\\mathbb\{{R\}}|R)$"
    rf"|^{_VARIABLE}\\in ?(?:\\mathbb\{{R\}}|R)[ ~]*(?:[,;]|\band\b)[ ~]*"
)
_REALS = re.compile(
    rf"(?:{_VARIABLE}(?:\\in ?|=|[ ~]is[ ~]))?(?:the[ ~])?(?:set[ ~]of[ ~])?"
    r"(?:\\mathbb\{R\}|(?<=\\in )R|(?<=\\in)R|"
    r"(?:all|any|every)[ ~](?:real[ ~](?:numbers?|values?)|reals)"
    rf"(?:[ ~](?:of|for)?[ ~]?{_VARIABLE})?|全体实数|一切实数|任意实数|实数集?)"
    r"(?:[ ~]*(?:\\setminus|-|,?[ ~]?(?:except(?:[ ~]for)?|excluding|but|other[ ~]than))[ ~]*"
    r"(?:\\\{(.+)\\\}|(?<=[t~rgn ])(.+)))?",
    re.I,
)
_COMPARISONS = {
    "greater than or equal to": r"\ge ", "at least": r"\ge ", "greater than": ">",
    "less than or equal to": r"\le ", "at most": r"\le ", "less than": "<",
    "not equal to": r"\ne ",
}  # fmt: skip
_KINDS = {
    "positive": r"(0,\infty)", "negative": r"(-\infty,0)", "nonnegative": r"[0,\infty)",
    "nonpositive": r"(-\infty,0]", "nonzero": r"(-\infty,0)\cup(0,\infty)",
}  # fmt: skip
_COMPARED = re.compile(
    r"(?:all[ ~])?(?:(non-?(?:negative|positive|zero)|positive|negative)[ ~]real(?:[ ~]number)?s"
    rf"|(?:real[ ~]numbers|({_VARIABLE}))[ ~](?:is[ ~])?({'|'.join(_COMPARISONS)})[ ~]?(.+))",
    re.I,
)
_POSITIVE = re.compile(r"\\mathbb\{R\}(?:\^|_)\{?([+-])\}?")
_INTEGERS = re.compile(
    r"(?:the[ ~])?(?:set[ ~]of[ ~])?(?:all|any)[ ~]integers|全体整数", re.I
)


_COLON = re.compile(r"^(\\\{[^:|]{1,30}):[ ~]?")
# \sqrt{17} or about 4.12
_ABOUT = re.compile(
    r"(?:(?<![ ~,])[ ~,]*\bor)?[ ~]*(?<![\\A-Za-z])(?:about|approximately|approx|roughly)\b\.?"
    r"[ ~]*(?=[0-9(\\])"
    r"|大?约[ ~]*(?=[0-9\\])"
)
# A quick look: what has no sign of a relation, no word and no bracket is no set.
_MAY_BE_SET = re.compile(r"[<>&;,\[\]]|\\(?![fscdp])|[a-z]{2}|[^\x00-\x7f]")


def without_words(text: str) -> str:
    r"""Turns words and set builders into signs: all real numbers -> (-\infty,\infty)."""
    if not _MAY_BE_SET.search(text):
        return text
    text = _COLON.sub(r"\1|", _ABOUT.sub(r"\\approx ", text))
    builder = _BUILDER.fullmatch(text)
    if builder and _SIGN.search(builder[2]):
        condition = _DOMAIN.sub("", builder[2])
        # \{x|y>0\} is no set of values of y.
        if set(_LETTERS.findall(condition)) <= {builder[1]}:
            return condition
    if _INTEGERS.fullmatch(text):
        return r"\mathbb{Z}"
    positive = _POSITIVE.fullmatch(text)
    if positive:
        return r"(0,\infty)" if positive[1] == "+" else r"(-\infty,0)"
    compared = _COMPARED.fullmatch(text)
    if compared:
        kind, variable, words, value = compared.groups()
        if kind:
            return _KINDS[kind.lower().replace("-", "")]
        relation = f"{variable or 'x'}{_COMPARISONS[words.lower()]}{value}"
        return relation if variable else _single(relation).removeprefix("x=")
    reals = _REALS.fullmatch(text)
    if reals:
        points = reals[1] or reals[2]
        return _all_but(points) if points else REALS
    if _SIGN.search(text):
        text = _DOMAIN.sub("", text)
    return r"\emptyset" if text == r"\{\}" else text


# Joined relations

_FRENCH = re.compile(  # ]1,2] is (1,2]
    r"([\[\]])([^\[\](),;]+[,;][^\[\](),;]+)([\[\]])"
)


def as_sets(text: str) -> str:
    r"""Gives relations and sets one spelling, as above; 1 and 7 -> 1;7;  2>a+b -> a+b<2."""
    if not _MAY_BE_SET.search(text):
        return text
    # Cases and systems hold relations of their own.
    if r"\begin{" in text or "&" in text:
        return text
    text = re.sub(r"^[a-z]\\in ?(?=\\\{)", "", without_words(text))
    text = _FRENCH.sub(_unfrench, text)
    pieces = JOIN.split(text)
    if len(pieces) == 1:
        return _listed_relations(text) or _single(text)
    joints = {bool(_AND.search(joint[0])) for joint in JOIN.finditer(text)}
    # x\ne0 and 1: the second point has no relation of its own.
    if _UNEQUAL.fullmatch(pieces[0]) and not any(map(_interval, pieces[1:])):
        return _single(text)
    united = _united(pieces, r"\cap" if joints == {True} else r"\cup")
    if united and len(joints) == 1:
        return united
    is_formula = r"\vee" in text or r"\wedge" in text
    if is_formula and not all("=" in piece for piece in pieces):
        return text
    return ";".join(map(_ascending, pieces))  # 7 and 391 are not 7,391


def _single(text: str) -> str:
    interval = _interval(_ascending(text))
    return "=".join(interval) if interval else _ascending(text)


def _listed_relations(text: str) -> str:
    r"""x>0, x\ne1 has a comma for "and"; x>1, x<0 may mean either, and stays a list ("")."""
    if r"\ne " not in text or not re.search("[,;]", text):
        return ""
    pieces = split_list(text)
    return (
        _united(pieces, r"\cap")
        if all(_interval(_ascending(piece)) for piece in pieces)
        else ""
    )


def _united(pieces: list[str], sign: str) -> str:
    """Returns the sets of relations of one variable joined by a sign; "" for anything else."""
    intervals = [_interval(_ascending(piece)) for piece in pieces]
    # x=3 or x>5: a value beside relations is a point. x=1 or x=7 is a list.
    if any(intervals):
        points = [_EQUAL.fullmatch(piece) for piece in pieces]
        intervals = [
            interval or (point and (point[1], rf"\{{{point[2]}\}}"))
            for interval, point in zip(intervals, points, strict=True)
        ]
    if None in intervals or len({name for name, _ in intervals}) > 1:
        return ""
    sets = [spelled for _, spelled in intervals]
    if sign == r"\cap":
        sets = [f"({spelled})" if r"\cup" in spelled else spelled for spelled in sets]
    return f"{intervals[0][0]}={sign.join(sets)}"


def _unfrench(match: re.Match) -> str:
    first_bracket, parts, last_bracket = match.groups()
    opening = "(" if first_bracket == "]" else "["
    closing = ")" if last_bracket == "[" else "]"
    return opening + parts + closing
