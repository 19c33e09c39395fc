"""The text of a stream is the text of the whole, whatever the tokens and however they come."""

import time

import numpy as np
import pytest
import tokenizers_for_tests

from r1v3_jax.engine.text import HALF, Detokenizer, Pieces, StopStrings
from r1v3_jax.processing.tokenizer import load

SENTENCES = [
    "The cat sat on the mat. ",
    "你好，世界！数学题的答案是四十二。",
    "👩‍👩‍👧‍👦 and 🏳️‍🌈, é ü ñ \u0301",
    "Привет мир\n\n",
    "\\boxed{\\frac{1}{2}} </think>\n\n",
    "日本語 한국어 العربية",
    "\U0001f600\U0001f601",
]


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def pieces(request, tmp_path_factory):
    """Bytes as tokens, as in Qwen's vocabulary, and words with bytes for the rest."""
    directory = tmp_path_factory.mktemp("tokenizer")
    if request.param == "bytes":
        tokenizers_for_tests.write_tiny_tokenizer(directory)
    else:
        tokenizers_for_tests.write_sentencepiece_tokenizer(directory)
    return Pieces(load(directory))


def streamed(pieces, ids, rng) -> tuple[str, list[str]]:
    """The text of tokens that come 1 to 7 at a time, and its parts."""
    detokenizer = Detokenizer(pieces)
    parts = []
    while ids:
        count = int(rng.integers(1, 8))
        parts.append(detokenizer.add(ids[:count]))
        ids = ids[count:]
    parts.append(detokenizer.end())
    return "".join(parts), parts


def test_streamed_text_is_the_whole_text(pieces):
    """200 texts of many scripts, cut anywhere: no part has half a character."""
    rng = np.random.default_rng(0)
    tokenizer = pieces.tokenizer
    for _ in range(200):
        text = "".join(rng.choice(SENTENCES, size=int(rng.integers(1, 6))))
        ids = tokenizer.encode_text(text)
        whole = tokenizer.decode(ids, skip_special=True)
        joined, parts = streamed(pieces, ids, rng)
        assert joined == whole
        assert all(HALF not in part for part in parts)


def test_any_tokens_have_the_text_of_the_whole(pieces):
    """200 rows of random tokens, most of them broken characters, some special."""
    rng = np.random.default_rng(1)
    tokenizer = pieces.tokenizer
    for _ in range(200):
        ids = rng.integers(tokenizer.vocab_size, size=int(rng.integers(1, 60))).tolist()
        whole = tokenizer.decode(ids, skip_special=True)
        assert streamed(pieces, ids, rng)[0] == whole


def test_a_row_of_the_model_that_is_no_token_has_no_text(pieces):
    """Models have more rows than their tokenizers have tokens, and may sample any of them."""
    count = pieces.tokenizer.vocab_size
    ids = pieces.tokenizer.encode_text("a好b")
    detokenizer = Detokenizer(pieces)
    parts = [detokenizer.add([i, count, count + 100]) for i in ids]
    assert "".join([*parts, detokenizer.end()]) == "a好b"
    assert pieces.text(count) == pieces.text(count + 100) == ""


def test_an_answer_cut_inside_a_character_ends_as_the_whole_does(pieces):
    ids = pieces.tokenizer.encode_text("a好")[:-1]
    detokenizer = Detokenizer(pieces)
    assert HALF not in detokenizer.add(ids)
    whole = pieces.tokenizer.decode(ids, skip_special=True)
    assert whole.endswith(detokenizer.end())


def test_a_long_answer_costs_less_than_a_second(pieces):
    """16,384 tokens, one at a time: each is decoded once, not all before it again."""
    text = "".join(SENTENCES)
    ids = pieces.tokenizer.encode_text(text)
    ids = (ids * (16_384 // len(ids) + 1))[:16_384]
    detokenizer = Detokenizer(pieces)
    stops = StopStrings(("no such text", "\n\n\n\n\n"))
    start = time.process_time()
    parts = []
    for token in ids:
        part, is_stopped = stops.add(detokenizer.add([token]))
        parts.append(part)
        assert not is_stopped
    parts += [detokenizer.end(), stops.end()]
    seconds = time.process_time() - start
    assert "".join(parts) == pieces.tokenizer.decode(ids, skip_special=True)
    assert seconds < 1


def test_halves_of_characters_without_end_cost_no_more(pieces):
    """A model that repeats itself may repeat the first bytes of a character, 8,192 of them."""
    if pieces.bytes:
        pytest.skip("sentencepiece's byte tokens are held to the end of their run")
    rng = np.random.default_rng(3)
    halves = pieces.tokenizer.encode_text("好é\U0001f600")
    ids = rng.choice([halves[0], halves[1], halves[3], *halves[5:8]], 8192).tolist()
    detokenizer = Detokenizer(pieces)
    start = time.process_time()
    parts = [detokenizer.add([token]) for token in ids]
    parts.append(detokenizer.end())
    seconds = time.process_time() - start
    assert "".join(parts) == pieces.tokenizer.decode(ids, skip_special=True)
    # Each decoded with all before it takes 6 s.
    assert seconds < 2


@pytest.mark.parametrize(
    "stop, parts, expected",
    [
        (("END",), ["the E", "N", "D and more"], "the "),
        (("END",), ["the E", "ND"], "the "),
        (("END",), ["the E", "N."], "the EN."),
        (("END",), ["the EN"], "the EN"),
        (("ab", "abc"), ["xa", "bc"], "x"),
        (("b", "ab"), ["xa", "b"], "x"),
        (("aab",), ["aa", "aab"], "aa"),
        ((), ["a", "b"], "ab"),
        (("。",), ["好", "。好"], "好"),
    ],
)
def test_stop_strings(stop, parts, expected):
    """Held back is only what may begin one; the text ends before the first that comes."""
    stops = StopStrings(stop)
    text = ""
    for part in parts:
        new, is_stopped = stops.add(part)
        text += new
        if is_stopped:
            break
    text += stops.end()
    assert text == expected


def test_stop_strings_anywhere():
    """1,000 random texts in random parts: what str.find says of the whole."""
    rng = np.random.default_rng(2)
    for _ in range(1000):
        text = "".join(rng.choice(list("ab"), size=30))
        stop = tuple(
            "".join(rng.choice(list("ab"), size=int(rng.integers(2, 9))))
            for _ in range(2)
        )
        stops = StopStrings(stop)
        ours = ""
        place = 0
        is_stopped = False
        while place < len(text) and not is_stopped:
            # One character at a time: where several end together the first one counts.
            new, is_stopped = stops.add(text[place])
            ours += new
            place += 1
        ours += stops.end()
        ends = [text.find(s) + len(s) for s in stop if s in text]
        if not ends:
            assert ours == text
        else:
            first = min(ends)
            assert place == first
            begin = min(text[:first].find(s) for s in stop if s in text[:first])
            assert ours == text[:begin]
