r"""Turns Unicode into ASCII and LaTeX.

x² -> x^{2}    1½ -> 1\frac{1}{2}    θ -> \theta    ≧ -> \ge    − -> -    ５ -> 5    ℝ -> \mathbb{R}

What has no other spelling, such as 三角形, stays.
"""

import re
import unicodedata

# 1. Signs with another spelling; several signs of one meaning share a line.
_SIGNS_OF_A_MEANING = r"""
    - −–—‐‑‒―﹣➖; . 。．; , 、; : ∶; ' ′’‘ʹ; '' ″; ''' ‴; / ⁄∕; | ∣; \| ‖; \parallel ∥;
    * ∗﹡; \% ٪; ~ ∼;
    \times ×✕✖; \cdot ·⋅∙•・; \div ÷; \sqrt √; \sqrt[3] ∛; \sqrt[4] ∜; \pm ±; \mp ∓; \infty ∞;
    \le ≤≦⩽≲; \ge ≥≧⩾≳; \ne ≠; \approx ≈≒≃; \sim ∽; \cong ≅; \equiv ≡; \cup ∪; \cap ∩;
    \setminus ∖; \emptyset ∅; \in ∈; \notin ∉; \subset ⊂; \subseteq ⊆; \supset ⊃; \supseteq ⊇;
    \angle ∠; \triangle △; \odot ⊙; \perp ⊥; \rightarrow →⟶; \leftarrow ←; \leftrightarrow ↔;
    \Rightarrow ⇒⟹; \Leftrightarrow ⇔⟺; \wedge ∧; \vee ∨; \neg ¬; \forall ∀; \exists ∃; \dots …⋯;
    \sum ∑; \prod ∏; \int ∫; \partial ∂; \nabla ∇; \langle ⟨〈; \rangle ⟩〉; ^\circ °º˚; \circ ∘"""
_SIGNS = {}
for _line in _SIGNS_OF_A_MEANING.split(";"):
    _spelling, _alike = _line.split()
    for _character in _alike:
        # The space ends the name of a command: \pi r.
        _SIGNS[_character] = _spelling + " " if _spelling[-1].isalpha() else _spelling
# No width: they show nothing and mean nothing.
_SIGNS |= dict.fromkeys("\u200b\u2060\ufeff", "")

_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?([A-Z]+)")
_GREEK_SYMBOL = re.compile(r"GREEK (?:LUNATE )?([A-Z]+) SYMBOL")
# The Greek capitals that look like Latin ones have no command of their own.
_CAPITALS = "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
# Other forms of a character. The rest, such as the number in a circle of ①, is kept as it is.
_FORMS = ("<font>", "<wide>", "<narrow>", "<compat>", "<square>", "<noBreak>")


class _Spellings(dict):
    """The spelling of each character by its code, found when it is first needed."""

    def __missing__(self, code: int) -> str:
        self[code] = _spelling_of(chr(code))
        return self[code]


def _spelling_of(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    name = unicodedata.name(character, "")
    greek = _GREEK.fullmatch(name) or _GREEK_SYMBOL.fullmatch(name)
    if greek:
        return _greek_letter(greek[greek.lastindex], name)
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    form, _, parts = unicodedata.decomposition(character).partition(" ")
    if form == "<fraction>":
        # ½ is 0031 2044 0032: 1, the slash of fractions, 2.
        digits = "".join(chr(int(code, 16)) for code in parts.split())
        top, _, bottom = digits.partition("\u2044")
        return rf"\frac{{{top}}}{{{bottom}}}" if bottom else f"{top}/"
    plain = unicodedata.normalize("NFKC", character)
    if "DOUBLE-STRUCK CAPITAL" in name:
        return rf"\mathbb{{{plain}}}"
    # Also a second sign of the same character, as that of ohm is of the letter omega.
    if plain != character and (form in _FORMS or len(parts) == 0):
        return "".join(_SPELLINGS[ord(part)] for part in plain)
    return character


def _greek_letter(letter: str, name: str) -> str:
    if "CAPITAL" not in name:
        return (
            "o"
            if letter == "OMICRON"
            else rf"\{letter.lower().replace('lamda', 'lambda')} "
        )
    capital = letter.capitalize().replace("Lamda", "Lambda")
    return rf"\{capital} " if capital in _CAPITALS else _LATIN.get(letter, letter[0])


_LATIN = {
    "ETA": "H",
    "RHO": "P",
    "CHI": "X",
}  # by what they look like; else the first letter
_SPELLINGS = _Spellings()


def _characters_of(form: str) -> str:
    """Returns the raised or lowered characters for formulas; º and ª are none, ™ is none."""
    return "".join(
        character
        for character in map(chr, range(0xA0, 0x2100))
        if unicodedata.decomposition(character).startswith(form)
        and character not in "ªº"
    )


_RAISED = re.compile(f"[{_characters_of('<super>')}]+")
_LOWERED = re.compile(f"[{_characters_of('<sub>')}]+")
_RAISED_OVER_LOWERED = re.compile(
    f"(?<!{_RAISED.pattern[:-1]})({_RAISED.pattern})[/\u2044]({_LOWERED.pattern})"
)
_ROOT = re.compile(r"(√|∛|∜) ?([0-9]+(?:\.[0-9]+)?)")


def as_latex(text: str) -> str:
    r"""Gives characters that mean the same one spelling: 3×10⁸ -> 3\times 10^{8}."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    # A root sign reaches over the number behind it: √12x is \sqrt{12}x.
    text = _ROOT.sub(r"\1{\2}", text)
    text = _RAISED_OVER_LOWERED.sub(_fraction, text)
    text = _RAISED.sub(
        lambda run: f"^{{{unicodedata.normalize('NFKC', run[0])}}}", text
    )
    text = _LOWERED.sub(
        lambda run: f"_{{{unicodedata.normalize('NFKC', run[0])}}}", text
    )
    return text.translate(_SPELLINGS)


def _fraction(match: re.Match) -> str:
    r"""¹⁄₂ -> \frac{1}{2}."""
    top = unicodedata.normalize("NFKC", match[1])
    bottom = unicodedata.normalize("NFKC", match[2])
    return rf"\frac{{{top}}}{{{bottom}}}"
