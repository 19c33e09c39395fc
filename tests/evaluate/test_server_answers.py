"""A server is asked each question as often as it takes, and what it says is kept whole."""

import base64
import random

import pytest
from benchmark_files import png
from model_server_for_tests import completion, model_server, text_of

from r1v3_jax.benchmarks.prompts import place
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.evaluate import server_answers
from r1v3_jax.evaluate.samples import Item
from r1v3_jax.evaluate.server_answers import ServerModel, read_reply
from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.rewards.verifiers.chat_endpoint import Unavailable


def items(count: int) -> list[Item]:
    image = StoredImage(png())
    return [
        Item(
            Question(str(i), f"Question {i} <image 1>?", "A", images=(image,)),
            place(f"Question {i} <image 1>?", 1, "interleaved"),
        )
        for i in range(count)
    ]


def model(url: str, **changes) -> ServerModel:
    settings = {
        "temperature": 1.0,
        "max_tokens": 64,
        "seed": 0,
        "requests": 4,
        "timeout_s": 5.0,
    }
    return ServerModel(url, "r1v3", **(settings | changes))


def ask(
    server: ServerModel, asked: list[Item], runs: int, done=lambda run, index: False
):
    samples = [s for some in server.ask(asked, runs, done) for s in some]
    return {(s.run, s.index): s for s in samples}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(server_answers, "BACKOFF_S", 0.001)


def test_a_request_holds_the_stored_bytes_in_their_place_and_a_seed_of_its_own():
    with model_server(lambda request, _: (200, completion("A"))) as server:
        ask(model(server.url), items(2), 3)
    assert len({request["seed"] for request in server.requests}) == 6
    for request in server.requests:
        first, image, last = request["messages"][0]["content"]
        assert first["text"].startswith("Question ")
        assert last["text"] == "?"
        head, _, data = image["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == png()


def test_a_server_that_fails_three_times_in_ten_loses_no_answer():
    rng = random.Random(0)
    bad = [(500, "no"), (429, "busy"), (200, "{]"), (200, {"choices": []}), (503, "")]

    def answer(request, times):
        if rng.random() < 0.3:
            return rng.choice(bad)
        return 200, completion(f"{text_of(request)}/{request['seed']}")

    with model_server(answer) as server:
        samples = ask(model(server.url, retries=20), items(50), 2)
        again = ask(model(server.url, retries=20), items(50), 2)
    assert len(samples) == 100
    assert not any(sample.problem for sample in samples.values())
    assert {k: s.text for k, s in samples.items()} == {
        k: s.text for k, s in again.items()
    }


def test_what_is_there_is_not_asked_again():
    with model_server(lambda request, _: (200, completion("A"))) as server:
        samples = ask(model(server.url), items(3), 2, lambda run, index: index == "1")
    assert sorted(samples) == [(0, "0"), (0, "2"), (1, "0"), (1, "2")]
    assert len(server.requests) == 4


def test_a_question_that_is_refused_is_a_sample_with_a_problem():
    def answer(request, _):
        too_long = "Question 1" in text_of(request)
        return (400, "too long") if too_long else (200, completion("A"))

    with model_server(answer) as server:
        samples = ask(model(server.url), items(3), 1)
        assert len(server.requests) == 3  # a refusal is final
    assert [bool(samples[0, str(i)].problem) for i in range(3)] == [False, True, False]
    assert "400" in samples[0, "1"].problem


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_of_all_questions_ends_the_run(status):
    with model_server(lambda *_: (status, "no such model")) as server:
        with pytest.raises(ValueError, match=f"status {status}"):
            ask(model(server.url), items(3), 1)


def test_a_server_that_is_gone_is_said_and_nothing_counts_as_wrong():
    with model_server(lambda *_: (503, "")) as server:
        with pytest.raises(ValueError, match="no answer to .* asks for them again"):
            ask(model(server.url, retries=1), items(100), 1)
        # Not all hundred are tried twice: the server is gone.
        assert len(server.requests) < 60


@pytest.mark.parametrize(
    ("body", "text", "ended"),
    [
        (completion("thoughts</think>A"), "thoughts</think>A", True),
        (completion("A", reasoning="thoughts"), "thoughts</think>A", True),
        (completion("A", reasoning_content="thoughts"), "thoughts</think>A", True),
        (completion(None, reasoning="so far", finish_reason="length"), "so far", False),
        (completion(""), "", True),
    ],
)
def test_thoughts_and_answer_are_one_text(body, text, ended):
    import json

    reply = read_reply(json.dumps(body).encode())
    assert (reply["text"], reply["ended"]) == (text, ended)


@pytest.mark.parametrize(
    "reply", [b"", b"[]", b'{"choices": [{"message": {"content": null}}]}']
)
def test_what_is_no_completion_is_asked_again(reply):
    with pytest.raises(Unavailable):
        read_reply(reply)
