"""What each thinking mode makes of template, prompt and sampling; runs and benchmarks share it."""

import types
import typing

import pytest
import tokenizers_for_tests

from r1v3_jax.config import Evaluate
from r1v3_jax.evaluate import thinking
from r1v3_jax.evaluate.thinking import Thinking, asking
from r1v3_jax.processing.tokenizer import load


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizers_for_tests.write_tiny_tokenizer(directory)
    return load(directory)


@pytest.mark.parametrize(
    ("mode", "opening", "prefill", "thinks_first"),
    [
        ("slow", "<think>\n", "", True),
        ("no_think", "", "", False),
        ("prefilled", "<think>\n", "\n</think>\n\n", False),
        ("no_wait", "<think>\n", "", True),
    ],
)
def test_template_and_prefill(tokenizer, mode, opening, prefill, thinks_first):
    asked = asking(tokenizer, mode, ("Wait",))
    assert asked.tokenizer.chat.opening == opening
    assert (asked.prefill, asked.thinks_first) == (prefill, thinks_first)
    if mode != "no_wait":
        assert asked.banned == tokenizer.banned_token_ids
        assert asked.banned_sequences == ()


def test_no_wait_bans_words_of_one_token_and_of_several():
    ids = {"Wait": [5], " Wait": [6], "wait": [7], " wait": [8, 9], "\nWait": [1, 5]}
    chat = types.SimpleNamespace(opening="<think>")
    tokenizer = types.SimpleNamespace(
        encode_text=lambda text: ids.get(text, [1, 2]), banned_token_ids=(3,), chat=chat
    )
    asked = asking(tokenizer, "no_wait", ("Wait",))
    assert asked.banned == (3, 5, 6, 7)
    assert asked.banned_sequences == ((1, 2), (1, 5), (8, 9))


def test_a_run_knows_the_modes_of_benchmarks():
    """Two lists of names, since a config imports no evaluation."""
    of_run = typing.get_type_hints(Evaluate)["thinking"]
    assert typing.get_args(of_run) == typing.get_args(Thinking)
    assert all(mode in thinking.__doc__ for mode in typing.get_args(Thinking))
