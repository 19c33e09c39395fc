"""Which option an answer chooses, as two versions of VLMEvalKit's `can_infer` read it.

They differ by several points on the same answers, so a result names its version.
"""

from collections.abc import Callable

# (text, options by letter) -> the letter, "Z" for none of them, "" if it is not clear
Finder = Callable[[str, dict[str, str]], str]

_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def find_letter(text: str, options: dict[str, str]) -> str:
    r"""Reads as VLMEvalKit 0.2 does (ms-vlmeval 0.0.20).

    One letter alone stands among the words, and among the last four: "so it is \boxed{B}". If not,
    the text of one option alone is in a short answer.
    """
    words = text.translate(_MARKS).split()
    present = [letter for letter in options if letter in words]
    # The first place of the letter counts: "A dog is it, so A" has it too far in front.
    if len(present) == 1 and words.index(present[0]) > len(words) - 5:
        return present[0]
    if not present and "Z" in words:
        return "Z"
    if len(text.lower()) > 2 * sum(map(len, options.values())):
        return ""
    return _option_in(text, options)


def find_letter_anywhere(text: str, options: dict[str, str]) -> str:
    """Reads as the older copy does with which Skywork-R1V3 was evaluated.

    The one letter may stand anywhere, and the text of the one option in an answer of any length.
    """
    words = text.translate(_MARKS).split()
    present = [letter for letter in options if letter in words]
    if len(present) == 1:
        return present[0]
    if not present and "Z" in words:
        return "Z"
    return _option_in(text, options)


def _option_in(text: str, options: dict[str, str]) -> str:
    """Returns the letter of the one option whose text is in an answer, or ""."""
    lowered = text.lower()
    inside = [letter for letter, option in options.items() if option.lower() in lowered]
    return inside[0] if len(inside) == 1 else ""


# By the names that --rules takes and a protocol shows.
BY_VERSION: dict[str, Finder] = {
    "vlmeval-0.2": find_letter,
    "skywork-r1v3": find_letter_anywhere,
}
