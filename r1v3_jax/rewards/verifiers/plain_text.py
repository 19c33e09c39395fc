r"""Turns formulas in plain text into LaTeX.

pi/2 -> \pi /2    sqrt(3) -> \sqrt{3}    x**2 <= 3 -> x^2 \le 3    abs(x) -> |x|

Words that are no formulas change too, always in the same way, so that they are still compared.
"""

import re

_OPERATORS = {
    "**": "^", "<=>": r"\Leftrightarrow ", "=>": r"\Rightarrow ", "->": r"\rightarrow ",
    "<=": r"\le ", "=<": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "=/=": r"\ne ",
    "...": r"\dots ", "+/-": r"\pm ",
}  # fmt: skip
_OPERATOR = re.compile(r"\*\*|<=>|=>|->|<=|=<|>=|(?<=\S)!=|(?<= )!=|=/=|\.\.\.|\+/-")

_WORDS = {
    word: rf"\{word} "
    for word in """alpha beta gamma delta epsilon theta lambda mu sigma omega phi rho tau pi
    sin cos tan log ln exp arcsin arccos arctan sinh cosh tanh sec csc cot""".split()
}
_WORDS |= {"infinity": r"\infty ", "inf": r"\infty ", "lg": r"\log_{10}"}
_WORDS |= {
    "asin": r"\arcsin ",
    "acos": r"\arccos ",
    "atan": r"\arctan ",
    "sqrt": r"\sqrt ",
}
# "5 sec" is a time, and "oo" is infinity where it is not in a word.
_NEEDS_BRACKET = "sec csc cot".split()
_WORD = re.compile(
    rf"(?<![\\A-Za-z])(?:({'|'.join(word for word in _WORDS if word not in _NEEDS_BRACKET)})"
    rf"(?![A-Za-z])|({'|'.join(_NEEDS_BRACKET)})(?= ?\()|(oo)(?![A-Za-z0-9]))",
    re.I,
)
_INVERSE = re.compile(r"\\(sin|cos|tan) *\^ *\{ *-1 *\}")
_SPACED_BRACKET = re.compile(r"(\\sqrt|[\^]) +(?=\()|(?<![A-Za-z\\])abs +(?=\()")
_BRACKET = re.compile(r"((?:\\sqrt|\^|(?<![A-Za-z\\])abs)?\()|[()\[\]]")


# A quick look: what has no word and no operator of two characters is as it should be.
_MAY_BE_PLAIN = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z]{2}|[*<>!(]|=[</>]|\.\.|\+/|\\sqrt|-1"
)


def as_latex(text: str) -> str:
    """Returns a text whose plain operators, names and functions are LaTeX's."""
    if not _MAY_BE_PLAIN.search(text):
        return text
    text = _OPERATOR.sub(lambda match: _OPERATORS[match[0]], text)
    text = _WORD.sub(_latex_word, text)
    text = _INVERSE.sub(r"\\arc\1 ", text)
    text = _SPACED_BRACKET.sub(lambda match: match[0].rstrip(" "), text)
    return _with_braces(text)


def _latex_word(match: re.Match) -> str:
    word = match[1] or match[2]
    return _WORDS[word.lower()] if word else r"\infty "


_REPLACED = {r"\sqrt(": (r"\sqrt{", "}"), "^(": ("^{", "}"), "abs(": ("|", "|")}


def _with_braces(text: str) -> str:
    r"""\sqrt(2(x+1)) -> \sqrt{2(x+1)},  2^(n-1) -> 2^{n-1},  abs(x) -> |x|."""
    if r"\sqrt(" not in text and "^(" not in text and "abs(" not in text:
        return text
    pieces = []
    closers = []  # of the brackets that are open, the innermost last
    openers = []  # which piece opened each of them
    position = 0
    for match in _BRACKET.finditer(text):
        token = match[0]
        pieces.append(text[position : match.start()])
        position = match.end()
        if token[-1] in "([":
            openers.append(len(pieces))
            closers.append(_REPLACED.get(token, (token, ""))[1])
            pieces.append(token)
        elif closers:
            opener = openers.pop()
            closer = closers.pop()
            # Only brackets that close are replaced: half a root is no root.
            if closer and token == ")":
                pieces[opener] = _REPLACED[pieces[opener]][0]
                token = closer
            pieces.append(token)
        else:
            pieces.append(token)
    return "".join([*pieces, text[position:]])
