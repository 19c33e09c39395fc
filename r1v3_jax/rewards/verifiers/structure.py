r"""Takes lists, tuples, intervals, unions, matrices and cases apart into their parts."""

import itertools
import re

# How a text is put together. A pair of brackets such as "(]" is a tuple or an interval.
UNION = "cup"
INTERSECTION = "cap"
DIFFERENCE = "setminus"
SET = "{}"  # no order, and no brackets or braces
CASES = "cases"  # value&condition, in any order
CASE = "&"  # a value and its condition
MATRIX = "matrix"  # followed by its size: "matrix 2x3"; the parts are its entries, row by row
UNORDERED = (UNION, INTERSECTION, SET, CASES)

_STRUCTURE = re.compile(
    r"\\(?:begin|end)\{[A-Za-z]*\*?\}|\\[{}\\]|[()\[\]{},;&]|\\(?:cup|cap|setminus)(?![A-Za-z])"
)
# A union binds less than a comma: (1,2)\cup(3,4), 5 is a union.
_SEPARATORS = {
    CASE: ("&",),
    UNION: (r"\cup",),
    INTERSECTION: (r"\cap",),
    DIFFERENCE: (r"\setminus",),
    SET: (",", ";"),
}


def take_apart(text: str) -> tuple[str, list[str]]:
    r"""Returns how a text is put together, and its parts; "" for a text of one part.

    "(1,7]" -> "(]", [1, 7];    "1,7" and "\{1,7\}" -> SET, [1, 7];    "\pm1" -> SET, [+1, -1];
    "(1,7)\cup[8,9]" -> UNION, [(1,7), [8,9]];    "x", "(x)", "f(1,7)" -> "", [the text]
    """
    # 1. Cut at the separators outside all brackets.
    outermost = _outermost(text)
    for kind, separators in _SEPARATORS.items():
        cuts = [match.span() for match in outermost if match[0] in separators]
        if cuts:
            pieces = _pieces(text, cuts)
            return kind, [signed for piece in pieces for signed in _signs(piece)]

    # 2. A matrix or cases.
    if r"\begin" in text:
        kind, parts = _take_apart_rows(text)
        if kind:
            return kind, parts

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


def split_list(text: str) -> list[str]:
    """Returns the parts between the commas and semicolons outside all brackets."""
    return _cut(text, _SEPARATORS[SET])


def _outermost(text: str) -> list[re.Match]:
    r"""Returns the separators outside all brackets, and the outermost brackets.

    With the depth at which each is looked at: (0 ,1 (1 )1 )0 \cup0 [0 ,1 ]0 in "(1,(2))\cup[3,4]".
    """
    depth = 0
    outermost = []
    for match in _STRUCTURE.finditer(text):
        token = match[0]
        is_environment = token.startswith((r"\begin", r"\end"))
        is_closing = token.startswith(r"\end") if is_environment else token[-1] in ")]}"
        depth -= is_closing
        if depth == 0:
            outermost.append(match)
        depth += is_environment and not is_closing or token[-1] in "([{"
    return outermost


def _cut(text: str, separators: tuple[str, ...]) -> list[str]:
    cuts = [match.span() for match in _outermost(text) if match[0] in separators]
    return _pieces(text, cuts)


def _pieces(text: str, cuts: list[tuple[int, int]]) -> list[str]:
    """Returns the stripped pieces of a text around the spans that are cut out.

    "1, 7;8" without (1, 2) and (4, 5): edges 0 1 2 4 5 6, pieces [0:1] [2:4] [5:6], "1" "7" "8".
    """
    edges = [0, *itertools.chain.from_iterable(cuts), len(text)]
    starts = edges[::2]
    ends = edges[1::2]
    return [text[i:j].strip(" ~") for i, j in zip(starts, ends, strict=True)]


def _signs(text: str) -> list[str]:
    return [text.replace(r"\pm", sign) for sign in "+-"] if r"\pm" in text else [text]


def nesting(text: str) -> int:
    """Returns how many brackets of a text are open at most: 2 for "(1)[(2)]"."""
    steps = ((character in "([{") - (character in ")]}") for character in text)
    return max(itertools.accumulate(steps), default=0)


# Rows

_ENVIRONMENT = re.compile(
    r"(\(|\[|\\\{|\||\\\||)\\begin\{([A-Za-z]+)\*?\}(\{[lcr|@ ]*\})?(.*)\\end\{\2\*?\}"
    r"(\)|\]|\\\}|\||\\\||)",
    re.DOTALL,
)
_MATRICES = {
    "pmatrix": "()",
    "bmatrix": "()",
    "Bmatrix": "()",
    "vmatrix": "||",
    "Vmatrix": r"\|\|",
}
_MATRICES |= dict.fromkeys(["matrix", "smallmatrix", "array"], "")
_LINES = "aligned align split gathered gather alignedat eqnarray".split()
_CASES = "cases dcases rcases".split()
_SAID_BEFORE = re.compile(r"^~?(?:if|when|where|for|当|若)(?:[~ ]|(?=\\)|$)|,$")
_BRACKETED = re.compile(r"^\(([^()]*[<>=\\][^()]*)\)$")
_OTHERWISE = re.compile(r"~?(?:otherwise|else|elsewhere|其他|其它|否则)", re.I)


def _take_apart_rows(text: str) -> tuple[str, list[str]]:
    """Returns what `take_apart` does for a text that is one environment, or else "", []."""
    match = _ENVIRONMENT.fullmatch(text)
    if match is None or len(_outermost(text)) > 2:
        return "", []
    opening, name, _, body, closing = match.groups()
    rows = [
        _cut(re.sub(r"^\[[^\]]*\]", "", row), ("&",)) for row in _cut(body, (r"\\",))
    ]
    rows = [row for row in rows if row != [""]]
    if not rows:
        return "", []
    # \left\{\begin{array}{l}...\end{array}\right. are cases.
    if name in _CASES or name in _LINES or (opening, closing) == (r"\{", ""):
        return _cases(rows)
    if name not in _MATRICES or len({len(row) for row in rows}) > 1:
        return "", []
    # Round and square brackets are two ways to write one matrix; bars are a determinant.
    brackets = opening + closing or _MATRICES[name]
    if brackets not in ("", "()", "[]", r"\{\}", "||", r"\|\|"):
        return "", []
    kind = brackets if "|" in brackets else ""
    return f"{kind}{MATRIX} {len(rows)}x{len(rows[0])}", list(
        itertools.chain.from_iterable(rows)
    )


def _cases(rows: list[list[str]]) -> tuple[str, list[str]]:
    r"""Returns cases as pairs of a value and a condition, or a system as a list of equations.

    x^2,&if x>0\\0,&otherwise -> CASES, [x^2&x>0, 0&'otherwise'];    x&=1\\y&=2 -> SET, [x=1, y=2]
    """
    is_aligned = all(
        cell[:1] in ("=", "<", ">", "\\") for row in rows for cell in row[1:]
    )
    if is_aligned or all(len(row) == 1 for row in rows):
        lines = ["".join(row).rstrip(",;.") for row in rows]
        return (SET if len(lines) > 1 else ""), [
            sign for line in lines for sign in _signs(line)
        ]
    parts = []
    for value, *conditions in rows:
        condition = _SAID_BEFORE.sub("", "".join(conditions)).rstrip(",;.")
        condition = _BRACKETED.sub(r"\1", condition)
        # The quotes keep it from being read as a product of letters.
        condition = "'otherwise'" if _OTHERWISE.fullmatch(condition) else condition
        parts.append(f"{value.rstrip(',;~')}&{condition}")
    return CASES, parts
