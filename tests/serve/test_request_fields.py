"""Fields of a request: read, refused by name, or ignored and counted."""

import json
import re
from pathlib import Path

import pytest

from r1v3_jax.engine.requests import RequestSettings
from r1v3_jax.serve import fields, json_body
from r1v3_jax.serve.fields import Limits
from r1v3_jax.serve.problems import Problem

LIMITS = Limits(max_tokens=100, slots=4, queue=64, vocab_size=300)
MESSAGES = [{"role": "user", "content": "Hi."}]


def read(limits=LIMITS, **given):
    body = json_body.parse(json.dumps({"messages": MESSAGES, **given}).encode())
    return fields.read_request(body, limits)


def test_what_is_not_said_has_the_usual_meaning():
    asked = read()
    assert asked.request.settings == RequestSettings(max_tokens=100)
    assert asked.request.thinking
    assert not (asked.stream or asked.logprobs or asked.split or asked.unknown)
    # Null is a field that is not there, in every field.
    nulls = dict.fromkeys([*fields.READ - {"messages"}, *fields.REFUSED])
    assert read(**nulls) == asked


def test_every_field_reaches_the_engine():
    asked = read(
        max_completion_tokens=50,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        repetition_penalty=1.1,
        thinking_token_budget=20,
        seed=-5,
        n=3,
        stop=["a", "b"],
        stop_token_ids=[1, 299],
        bad_words=["Wait"],
        logprobs=True,
        top_logprobs=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert asked.request.settings == RequestSettings(
        max_tokens=50,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        repetition_penalty=1.1,
        thinking_tokens=20,
        seed=-5,
        n=3,
        stop=("a", "b"),
        stop_token_ids=(1, 299),
        bad_words=("Wait",),
        top_logprobs=20,
    )
    assert asked.stream and asked.include_usage and asked.logprobs


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        (
            {"max_tokens": 32768},
            "max_tokens",
            100,
        ),  # VLMEvalKit asks every model for it
        ({"max_tokens": 5.0}, "max_tokens", 5),
        ({"stop": "END"}, "stop", ("END",)),
        ({"top_k": -1}, "top_k", 0),
        ({"top_k": 10**9}, "top_k", 300),
        ({"thinking_token_budget": 10**6}, "thinking_tokens", 100),
        ({"temperature": 0}, "temperature", 0.0),
        ({"max_tokens": 7, "max_completion_tokens": 7}, "max_tokens", 7),
    ],
)
def test_what_is_said_in_another_way_is_understood(given, name, value):
    assert getattr(read(**given).request.settings, name) == value


def test_thinking_is_left_out_where_the_request_says_so():
    for key in ("enable_thinking", "thinking"):
        asked = read(chat_template_kwargs={key: False}, thinking_token_budget=5)
        assert not asked.request.thinking
        assert asked.request.settings.thinking_tokens == 0
    never = Limits(max_tokens=100, slots=4, queue=64, vocab_size=300, thinking=False)
    assert not read(never).request.thinking
    assert read(never, chat_template_kwargs={"enable_thinking": True}).request.thinking


# include_reasoning is vLLM's, separate_reasoning SGLang's; (split, thoughts are sent).
@pytest.mark.parametrize(
    ("given", "by_default", "split"),
    [
        ({}, (False, True), (True, True)),
        ({"separate_reasoning": True}, (True, True), (True, True)),
        ({"separate_reasoning": False}, (False, True), (False, True)),
        ({"include_reasoning": True}, (True, True), (True, True)),
        ({"include_reasoning": False}, (True, False), (True, False)),
        (
            {"include_reasoning": False, "separate_reasoning": True},
            (True, False),
            (True, False),
        ),
    ],
)
def test_thoughts_are_parted_where_it_is_asked_for(given, by_default, split):
    splitting = Limits(
        max_tokens=100, slots=4, queue=64, vocab_size=300, split_thinking=True
    )
    for limits, wanted in ((LIMITS, by_default), (splitting, split)):
        asked = read(limits, **given)
        assert (asked.split, asked.show_thoughts) == wanted


REFUSED = [
    ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", "5"), ("max_tokens", 1.5),
    ("max_tokens", True), ("max_completion_tokens", 0),
    ("temperature", -1), ("temperature", 2.1), ("temperature", "1"), ("temperature", True),
    ("top_p", 0), ("top_p", 1.1), ("top_k", -2), ("top_k", 0.5),
    ("repetition_penalty", 0), ("repetition_penalty", -1),
    ("seed", 2**63), ("seed", "1"), ("seed", 0.5),
    ("n", 0), ("n", 5), ("n", True),
    ("stop", ["a"] * 5), ("stop", [""]), ("stop", ["x" * 257]), ("stop", [1]), ("stop", 1),
    ("stop_token_ids", [300]), ("stop_token_ids", [-1]), ("stop_token_ids", [True]),
    ("stop_token_ids", "1"), ("bad_words", "Wait"), ("bad_words", ["x"] * 65),
    ("thinking_token_budget", 0), ("thinking_token_budget", -5),
    ("stream", 1), ("stream_options", True), ("logprobs", 5), ("top_logprobs", 5),
    ("chat_template_kwargs", []), ("include_reasoning", "yes"), ("separate_reasoning", 1),
    ("tools", [{}]), ("tool_choice", "required"), ("tool_choice", {}),
    ("response_format", {"type": "json_object"}), ("audio", {}), ("modalities", ["audio"]),
    ("frequency_penalty", 0.5), ("presence_penalty", -1), ("logit_bias", {"5": 1}),
    ("min_p", 0.1), ("ignore_eos", True), ("guided_json", {}), ("best_of", 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_its_name(name, value):
    with pytest.raises(Problem) as caught:
        read(**{name: value})
    assert caught.value.status == 400
    assert caught.value.param == name
    assert caught.value.message.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 6}, "give one"),
        ({"logprobs": True, "top_logprobs": 21}, "wanted a whole number, 0 to 20"),
        ({"stream_options": {"include_usage": True}}, "given without stream"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
        ),
        ({"chat_template_kwargs": {"enable_thinking": "no"}}, "wanted true or false"),
        ({"separate_reasoning": False, "include_reasoning": True}, "give one of them"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(given, said):
    with pytest.raises(Problem, match=said):
        read(**given)


def test_unknown_fields_are_counted_and_neutral_ones_are_not():
    neutral = {
        "tools": [],
        "response_format": {"type": "text"},
        "presence_penalty": 0.0,
    }
    asked = read(user="me", foo={"bar": 1}, **neutral)
    assert asked.unknown == ("user", "foo")
    misspelt = {"enable_thinkng": False, "thinking": True}
    asked = read(chat_template_kwargs=misspelt, stream=True, stream_options={"x": 1})
    assert asked.unknown == ("chat_template_kwargs.enable_thinkng", "stream_options.x")


def test_a_model_of_another_name_is_not_found():
    names = ("r1v3", "gpt-4o-mini")
    for model in (*names, None):
        fields.check_model({"model": model}, names)
    with pytest.raises(Problem) as caught:
        fields.check_model({"model": "gpt-5"}, names)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert "there is r1v3, gpt-4o-mini" in caught.value.message


def test_the_page_has_every_field():
    """docs/serving.md names what is read, and what is refused except for what guides decoding."""
    page = Path(__file__).parents[2] / "docs" / "serving.md"
    named = set(re.findall(r"`(\w+)`", page.read_text(encoding="utf-8")))
    assert fields.READ <= named
    main = {
        "tools",
        "functions",
        "response_format",
        "audio",
        "logit_bias",
        "min_p",
        "best_of",
    }
    assert main <= named & fields.REFUSED.keys()
