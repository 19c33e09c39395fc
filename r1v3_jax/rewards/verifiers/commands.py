r"""Gives LaTeX one spelling: a name for each command, no frames, braces around arguments.

\neq -> \ne   \left( -> (   \textcolor{red}{5} -> 5   \text{ cm} -> ~ cm   \frac12 -> \frac{1}{2}
"""

import re

# 1. Names

# Before the colon the name that is kept; it may be another text than a command.
_SAME = r"""
    \le : leq leqslant leqq; \ge : geq geqslant geqq; \ne : neq; <: lt; >: gt;
    \dots : ldots cdots dotsc dotsb dotsm dotso hdots;
    \approx : simeq fallingdotseq doteq thickapprox;
    \wedge : land; \vee : lor; \neg : lnot; \in : isin; \notin : nin; \emptyset : varnothing;
    \rightarrow : to longrightarrow; \leftarrow : gets longleftarrow; \perp : bot;
    \Rightarrow : implies Longrightarrow; \Leftarrow : impliedby Longleftarrow;
    \leftrightarrow : longleftrightarrow; \Leftrightarrow : iff Longleftrightarrow;
    |: vert lvert rvert mid; \|: Vert lVert rVert parallel shortparallel;
    \{: lbrace; \}: rbrace; [: lbrack; ]: rbrack; \setminus : backslash smallsetminus;
    \phi : varphi; \epsilon : varepsilon; \theta : vartheta; \rho : varrho; \sigma : varsigma;
    \frac: dfrac tfrac cfrac nicefrac sfrac; \binom: dbinom tbinom; \log_{10}: lg;
    \overline: bar closure; \vec: overrightarrow; ^\circ : degree; \cdot : centerdot;
    \arcsin : asin; \arccos : acos; \arctan : atan arctg; \tan : tg; \cot : ctg;
    \csc: cosec; :: colon; \mathbb{R}: R Reals reals; \mathbb{N}: N; \mathbb{Z}: Z; \mathbb{Q}: Q;
    \pmod: mod; \operatorname: DeclareMathOperator"""
# Size, face and layout: they say nothing about the value.
_SILENT = """left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm
    displaystyle textstyle scriptstyle scriptscriptstyle limits nolimits nonumber notag centering
    rm bf it sf tt sl cal tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge
    hline boldmath bfseries itshape rmfamily sffamily mathstrut strut"""
_NAMES = dict.fromkeys(_SILENT.split(), "")
for _line in _SAME.split(";"):
    _kept, _, _others = _line.strip().rpartition(":")
    _NAMES |= dict.fromkeys(_others.split(), _kept)
_NAMES |= dict.fromkeys(["quad", "qquad", "enspace", "thinspace"], " ")
_NAMES |= dict.fromkeys(",;:> ", " ")
# Delimiters of formulas, and characters that LaTeX wants escaped.
_NAMES |= dict.fromkeys("()[]!$/", "") | {"%": "%", "&": "&", "#": "#", "_": "_"}
# "\\" is a line break, so that the "n" of "\\neq" is no part of a command.
_CONTROL = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_NO_BRACKET = re.compile(r"\\(?:left|right) *\.")  # \left. stands for no bracket
_PRIMES = re.compile(r"\^ *(?:\{ *((?:\\prime *)+)\}|(\\prime(?![A-Za-z])))")
_NEGATED = re.compile(r"\\not *(=|\\in(?![A-Za-z]))")
# \mathbf x changes one letter; \mathbf{x} is a frame.
_FONT = re.compile(
    r"\\(?:math(?:bf|rm|it|sf|tt)|boldsymbol|bm|pmb)(?![A-Za-z]) *(?=[A-Za-z0-9\\])"
)
_ESCAPED_TWICE = re.compile(r"\\\\(?=[A-Za-z])")


def renamed(text: str) -> str:
    r"""Gives each command one name: \dfrac{1}{2} -> \frac{1}{2}, \left[ -> [, 5\% -> 5%."""
    if "\\" not in text:
        return text
    # Some data has every backslash twice. Where there are rows, "\\" ends one.
    if r"\begin" not in text:
        text = _ESCAPED_TWICE.sub(r"\\", text)
    text = _NO_BRACKET.sub("", text)
    text = _PRIMES.sub(lambda match: "'" * match[0].count("prime"), text)
    text = _CONTROL.sub(lambda match: _NAMES.get(match[1], match[0]), text)
    text = _NEGATED.sub(lambda match: r"\ne " if match[1] == "=" else r"\notin ", text)
    return _FONT.sub("", text)


# 2. Frames

_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


def brace_pairs(text: str) -> dict[int, int]:
    r"""Returns where each brace closes, by where it opens: "a{b}\{" -> {1: 3}."""
    pairs = {}
    opened = []
    for match in _BRACES.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            pairs[opened.pop()] = match.start()
    return pairs


# What was text keeps a tie before it: "5\text{ m}" -> "5~ m ", a length, while "5m" is a product.
_TEXT = """text textbf textit textrm textnormal textup textsf texttt textsc emph mathrm mathbf
    mathit mathsf mathtt mathnormal bm pmb boldsymbol mbox hbox boxed operatorname underline uline
    fbox framebox ensuremath mathop unit hl ce bbox circled ovalbox underbrace overbrace"""
_FRAMES = (
    dict.fromkeys(_TEXT.split(), 1)  # how many arguments there are: the last one stays
    | {"textcolor": 2, "mathcolor": 2, "colorbox": 2, "fcolorbox": 3}
    | {"scalebox": 2, "enclose": 2, "resizebox": 3}
    | dict.fromkeys(["color", "hspace", "vspace", "tag", "label", "phantom"], -1)
)
_FRAME = re.compile(
    rf"\\({'|'.join(_FRAMES)})(?![A-Za-z])\*? *(?:\[[^\[\]]*\])?(?=\{{)"
)


def unframed(text: str) -> str:
    r"""Takes off what only changes the look: \textcolor{red}{5} -> ~5 , \text{cm} -> ~cm ."""
    if "\\" not in text:
        return text
    pairs = brace_pairs(text)
    edits = []  # start, end, what comes there
    for match in _FRAME.finditer(text):
        opening = match.end()
        for _ in range(abs(_FRAMES[match[1]]) - 1):
            opening = pairs.get(opening, -2) + 1
        if opening not in pairs:
            continue
        if _FRAMES[match[1]] < 0:
            edits.append((match.start(), pairs[opening] + 1, ""))
        else:
            edits.append((match.start(), opening + 1, "~"))
            edits.append((pairs[opening], pairs[opening] + 1, " "))
    return _edited(text, edits)


def _edited(text: str, edits: list[tuple[int, int, str]]) -> str:
    pieces = []
    position = 0
    for start, end, replacement in sorted(edits):
        # An edit within a part that was taken off.
        if start < position:
            continue
        pieces += text[position:start], replacement
        position = end
    return "".join([*pieces, text[position:]])


# 3. Arguments

_ARGUMENTS = {
    "\\frac": 2,
    "\\binom": 2,
    "\\sqrt": 1,
    "\\vec": 1,
    "\\overline": 1,
    "\\hat": 1,
}
_ARGUMENTS |= {"\\mathbb": 1, "\\dot": 1, "\\widehat": 1, "\\tilde": 1}
_TOKENS = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_OVER = re.compile(r"\\over(?![A-Za-z])")
_GROUP = -1
_OPTION = -2


def braced(text: str) -> str:
    r"""Puts braces around arguments: \frac12 -> \frac{1}{2}, \sqrt x -> \sqrt{x}.

    \frac3{4} -> \frac{3}{4},  \frac\pi2 -> \frac{\pi}{2},  {3 \over 4} -> \frac{3}{4}
    """
    if "\\" not in text:
        return text
    for _ in range(4):
        match = _OVER.search(text)
        if match is None:
            break
        text = _over_as_frac(text, match)
    return _Bracer().read(text)


def _over_as_frac(text: str, over: re.Match) -> str:
    r"""{3 \over 4} -> \frac{3}{4}; without braces around it, the whole text is the fraction."""
    around = [
        (opening, closing)
        for opening, closing in brace_pairs(text).items()
        if opening < over.start() < closing
    ]
    opening, closing = max(around, default=(-1, len(text)))
    top = text[opening + 1 : over.start()].strip()
    bottom = text[over.end() : closing].strip()
    return rf"{text[: max(opening, 0)]}\frac{{{top}}}{{{bottom}}}{text[closing + 1 :]}"


class _Bracer:
    """Reads a text token by token, and knows what the commands before still wait for."""

    def __init__(self):
        self.pieces: list[str] = []
        # What is open, the innermost last: _GROUP or _OPTION, or how many arguments a command
        # waits for. And whether a brace closes with it, because it is an argument itself.
        self.open: list[list] = []

    def read(self, text: str) -> str:
        for token in _TOKENS.findall(text):
            self._take(token)
        self._give_up()
        return "".join(self.pieces)

    def _waits(self) -> bool:
        return bool(self.open) and self.open[-1][0] > 0

    def _take(self, token: str) -> None:
        waits = self._waits()
        if waits and token == " ":
            return
        if token == "{" or (token == "[" and waits and self.pieces[-1] == r"\sqrt"):
            self.open.append([_GROUP if token == "{" else _OPTION, False])
            self.pieces.append(token)
        elif token == "]" and self.open and self.open[-1][0] == _OPTION:
            self.open.pop()
            self.pieces.append(token)
        elif token == "}":
            self._close_group()
        elif token in _ARGUMENTS:
            self.pieces.append("{" + token if waits else token)
            self.open.append([_ARGUMENTS[token], waits])
        elif waits and (token.isalnum() or token[1:].isalpha()):
            self.pieces.append("{" + token + "}")
            self._finish_argument()
        else:
            self._give_up()
            self.pieces.append(token)

    def _close_group(self) -> None:
        self._give_up()
        while self.open and self.open[-1][0] == _OPTION:
            self.open.pop()
        self.pieces.append("}")
        if self.open:
            self.open.pop()
            self._finish_argument()

    def _finish_argument(self) -> None:
        """Counts an argument of the command that waits; the last one may finish another one."""
        while self._waits():
            self.open[-1][0] -= 1
            if self.open[-1][0]:
                return
            _, is_argument = self.open.pop()
            if not is_argument:
                return
            self.pieces.append("}")

    def _give_up(self) -> None:
        """Closes what waits for arguments that do not come, as in \\frac{1}+2."""
        while self._waits():
            _, is_argument = self.open.pop()
            if is_argument:
                self.pieces.append("}")
