"""Reads lists and dictionaries as JSON or as Python writes them, without running anything.

"{'A': 5, 'rows': [[1, None], [2, 3]]}"   ->   {"A": 5, "rows": [[1, None], [2, 3]]}
"""

import json
import re

from r1v3_jax.rewards.verifiers.boxes import find_boxes

MAX_TEXT = 20_000  # characters
MAX_DEPTH = 8  # brackets in brackets

# Possessive quantifiers: the time is linear, whether a text matches or not.
_TOKEN = re.compile(
    r"""\s*+(?:(?P<text>'[^'\\\n]*+'|"[^"\\\n]*+")"""
    r"""|(?P<number>-?\d++(?:\.\d++)?)(?![\w.])|(?P<word>[A-Za-z]\w*+)|(?P<mark>[][(){},:=]))\s*+"""
)
_WORDS = {"None": "null", "null": "null", "True": "true", "true": "true"}
_WORDS |= {"False": "false", "false": "false"}
# A tuple is a list, and {A = 1} is {"A": 1}.
_MARKS = {"(": "[", ")": "]", "=": ":"}
_BRACKET = re.compile(r"[][{}]")


def parse(text: str):
    """Returns the value that a text writes; None if it writes none, or one that is too large.

    Words without quotes are texts: [A, C] -> ["A", "C"]. Keys are texts: {1: "A"} -> {"1": "A"}.
    """
    if len(text) > MAX_TEXT:
        return None
    tokens = []
    end = 0
    depth = 0
    while end < len(text):
        match = _TOKEN.match(text, end)
        if match is None:
            return None
        end = match.end()
        token = _as_json(match)
        depth += (token in "[{") - (token in "]}")
        if depth > MAX_DEPTH:
            return None
        # JSON has no comma before a closing bracket.
        if token in "]}" and tokens[-1:] == [","]:
            tokens.pop()
        # JSON has no key without quotes.
        if token == ":" and tokens and not tokens[-1].startswith('"'):
            tokens[-1] = json.dumps(tokens[-1])
        tokens.append(token)
    try:
        return json.loads(" ".join(tokens))
    except ValueError:  # also a number of 5000 digits
        return None


def _as_json(match: re.Match) -> str:
    if match["text"]:
        return json.dumps(match["text"][1:-1])
    if match["word"]:
        return _WORDS.get(match["word"], json.dumps(match["word"]))
    if match["mark"]:
        return _MARKS.get(match["mark"], match["mark"])
    # JSON has no number that begins with 0.
    return re.sub(r"^(-?)0+(?=\d)", r"\1", match["number"])


def find_last(text: str) -> list | dict | None:
    r"""Returns the list or dictionary of an answer: of its last \boxed{}, or the last in brackets.

    \boxed{A=5, B=1} -> {"A": 5, "B": 1};   "so [[1, 2], [2, 1]]." -> [[1, 2], [2, 1]]
    """
    boxes = [box.replace("\\", "") for box in find_boxes(text)[0][-1:]]
    for candidate in (*boxes, *(f"{{{box}}}" for box in boxes), _last_bracketed(text)):
        value = parse(candidate)
        if isinstance(value, list | dict):
            return value
    return None


def _last_bracketed(text: str) -> str:
    """Returns the last outermost pair of brackets with what is inside, or ""."""
    depth = 0
    start = 0
    last = ""
    for bracket in _BRACKET.finditer(text[-MAX_TEXT:]):
        if bracket[0] in "[{":
            if depth == 0:
                start = bracket.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                last = text[-MAX_TEXT:][start : bracket.end()]
    return last
