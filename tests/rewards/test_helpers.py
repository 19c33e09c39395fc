"""Terms that ask another model: what a helper is, how an endpoint is asked, what is refused."""

import dataclasses

import pytest
from model_server_for_tests import completion, model_server, text_of

from r1v3_jax.rewards import asking
from r1v3_jax.rewards.helpers import (
    Consistent,
    Endpoint,
    Frozen,
    asking_terms,
    frozen_models,
    identity,
)
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.score import score
from r1v3_jax.rewards.terms import correct


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Frozen(), "Frozen.checkpoint is '' and stage ''; wanted one of them"),
        (lambda: Frozen("a", stage="b"), "is 'a' and stage 'b'; wanted one of them"),
        (lambda: Endpoint("host:8000", "m"), "'host:8000' is no address; give one as"),
        (lambda: Endpoint("http://h/v1", ""), "Endpoint.model is empty; give the name"),
        (
            lambda: Endpoint("http://h/v1", "m", prompt="{question}?"),
            r"Endpoint.prompt has no \{thoughts\}; got '\{question\}\?'",
        ),
        (lambda: Consistent("RUN/done"), "Consistent.helper is 'RUN/done'; wanted"),
        (lambda: Consistent(Frozen("a"), max_tokens=0), "it must be at least 1"),
    ],
)
def test_mistakes_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_term_that_asks_is_silent_until_its_helper_is_asked():
    term = Consistent(Frozen("a"))
    reward = Reward(((0.8, correct), (0.2, term)))
    scored = score("7</think>\\boxed{7}", "7", ended=True, reward=reward)
    assert scored.parts == {"correct": 1.0} and scored.total == 0.8
    assert reward.names == ("correct", "consistent")
    assert asking_terms(reward) == [(0.2, term)]


def test_two_helpers_of_one_kind_have_two_names():
    first, second = (Consistent(Frozen(name)) for name in "ab")
    # A function that called it would say nothing.
    words = r"called 'consistent'.* class Second\(Consistent\): name = \"second\""
    with pytest.raises(ValueError, match=words):
        Reward(((1.0, correct), (0.1, first), (0.1, second)))

    class Second(Consistent):
        name = "second"

    reward = Reward(((1.0, correct), (0.1, first), (0.1, Second(Frozen("b")))))
    assert [*frozen_models(reward).values()] == [Frozen("a"), Frozen("b")]
    assert [*frozen_models(reward)] == ["consistent", "second"]


def test_other_weights_are_another_helper(tmp_path):
    """Of a checkpoint without checksums each file counts, with its name and its size."""
    reward = Reward(((1.0, correct), (0.2, Consistent(Frozen(str(tmp_path / "c"))))))
    assert identity("grpo", reward) == {"grpo.helper.consistent": ""}  # not there yet
    seen = []
    for name, content in (("a", b"12"), ("a", b"13"), ("b", b"13")):
        (tmp_path / "c").mkdir(exist_ok=True)
        for path in (tmp_path / "c").iterdir():
            path.unlink()
        (tmp_path / "c" / name).write_bytes(content)
        seen.append(identity("grpo", reward)["grpo.helper.consistent"])
    assert len({*seen}) == 3 and "" not in seen
    (tmp_path / "c/SHA256SUMS").write_text("0  b\n")
    of_sums = identity("grpo", reward)["grpo.helper.consistent"]
    (tmp_path / "c/b").write_bytes(b"14")  # the sums say what the files should hold
    assert identity("grpo", reward)["grpo.helper.consistent"] == of_sums != seen[2]


def test_an_endpoint_that_fails_is_asked_again_and_then_says_why(monkeypatch, tmp_path):
    """Busy once, gone for good, and without a reply: no answer is made up."""
    monkeypatch.setattr(asking, "BACKOFF_S", 0.0)

    def reply(request, times):
        text = text_of(request)
        if text == "busy" and times == 1:
            return 503, "later"
        if text == "gone":
            return 404, "no such model"
        return 200, completion("" if text == "mute" else f"<think>B</think> {text}!")

    with model_server(reply) as server:
        settings = Endpoint(server.url, "m", retries=1, cache=str(tmp_path / "replies"))
        asker = asking.Asker(settings)
        prompts = ["yes", "busy", "gone", "mute", "yes"]
        answers = asker.ask_all(prompts, max_tokens=9)
        assert answers[0] == answers[4] == ("yes!", "") and answers[1] == ("busy!", "")
        assert answers[2][0] == "" and "status 404" in answers[2][1]
        assert answers[3][0] == "" and "an empty reply" in answers[3][1]
        sent = [text_of(request) for request in server.requests]
        assert sorted(sent) == ["busy", "busy", "gone", "mute", "mute", "yes"]
        assert {r["temperature"] for r in server.requests} == {0.0}
        assert {r["max_tokens"] for r in server.requests} == {9}

        # What was answered is kept in the file; what failed is asked again.
        again = asking.Asker(dataclasses.replace(settings, retries=0))
        assert again.ask_all(["yes", "busy"], max_tokens=9) == answers[:2]
        assert len(server.requests) == 6
