"""Thoughts and answer, however the text is cut into pieces."""

import random

import pytest

from r1v3_jax.serve.thoughts import Splitter, ThoughtCounter

# (the answer begins inside the thoughts, text, thoughts, answer)
CASES = [
    (True, "Hm.\n</think>\n\nA cat.", "Hm.", "A cat."),
    (True, "Hm.</think>A cat.", "Hm.", "A cat."),
    (True, "Hm.\n</thin", "Hm.\n</thin", ""),  # cut off: it was no end
    (True, "a </b> < / \n\n</think>\n", "a </b> < / ", ""),
    (True, "one</think>two</think>three", "one", "two</think>three"),
    (True, "</think>", "", ""),
    (True, "", "", ""),
    (False, "A cat.", "", "A cat."),
    (False, "\n<think>\nHm.\n</think>\nA cat.", "\nHm.", "A cat."),
    (False, "<thi", "", "<thi"),
    (False, "Is <think> a word? </think>", "", "Is <think> a word? </think>"),
    (False, "\n\nA\n\n", "", "\n\nA\n\n"),
]


@pytest.mark.parametrize(("opens", "text", "thoughts", "answer"), CASES)
def test_the_cuts_do_not_matter(opens, text, thoughts, answer):
    rng = random.Random(text)
    for _ in range(200):
        splitter = Splitter(opens)
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(8)))
        ends = [0, *cuts, len(text)]
        pieces = [text[a:b] for a, b in zip(ends, ends[1:], strict=False)]
        got = [splitter.feed(piece) for piece in pieces] + [splitter.feed("", True)]
        assert "".join(part for part, _ in got) == thoughts
        assert "".join(part for _, part in got) == answer


def test_what_cannot_be_a_mark_is_told_at_once():
    splitter = Splitter(True)
    assert splitter.feed("a <") == ("a ", "")
    assert splitter.feed("b") == ("<b", "")
    assert splitter.feed("\n\n</thin") == ("", "")
    assert splitter.feed("g") == ("\n\n</thing", "")


@pytest.mark.parametrize(
    ("opens", "tokens", "count"),
    [
        (True, ["Hm", ".\n</", "think", ">\n\n", "A cat."], 4),
        (True, ["Hm", ".", "Hm"], 3),
        (False, ["A", " cat"], 0),
        (False, ["<th", "ink>", "Hm", "</think>", "A cat", "</think>"], 4),
        (True, [], 0),
    ],
)
def test_tokens_of_thoughts_are_counted(opens, tokens, count):
    counter = ThoughtCounter(opens)
    for token in tokens:
        counter.feed(token)
    assert counter.tokens == count
