"""Think-answer consistency: what is asked, what an answer is worth, and what the reward becomes."""

import dataclasses

import jax
import numpy as np
import pytest
from model_server_for_tests import completion, model_server, text_of
from rollout_cases import info, source

from r1v3_jax.losses.schedules import Line
from r1v3_jax.rewards import asking
from r1v3_jax.rewards.helpers import Consistent, Endpoint, Frozen
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout import helpers, scoring
from r1v3_jax.rollout.frozen import FrozenAnswers
from r1v3_jax.sampling.params import SamplingParams

TERM = Consistent(Frozen("dir"), max_tokens=6)


@pytest.fixture
def judged(groups):
    """Groups whose samples are right, wrong and undecided in turn; the answers are choices."""
    texts = ["the left one</think>\\boxed{B}", "</think>\\boxed{A}", "it</think>no"]
    verdicts = [Verdict.RIGHT, Verdict.WRONG, Verdict.ERROR]
    made = []
    for group in groups:
        scores = [
            dataclasses.replace(
                score,
                verdict=verdict,
                total=None if verdict is Verdict.ERROR else 0.5,
                parts={"correct": 0.5},
                weights={"correct": 1.0},
            )
            for score, verdict in zip(group.scores, verdicts, strict=True)
        ]
        example = dataclasses.replace(
            group.example,
            question="<image>\nWhich?",
            answer="B",
            verifier="choice",
        )
        made.append(
            dataclasses.replace(group, example=example, texts=texts, scores=scores)
        )
    return made


def asked(answer, **changes):
    default = {"term": TERM, "weight": 0.25, "verify": Verify(), "is_collective": True}
    return helpers.Asked(answer=answer, **(default | changes))


def test_what_a_helper_says_written_out(judged):
    """Four right samples: led to the answer, to another one, to none, and not answered."""
    answers = [("\\boxed{B}", ""), ("\\boxed{C}", ""), ("hm", ""), ("", "late")]
    seen = []

    def answer(rows):
        seen.extend(rows)
        return answers

    found = helpers.with_helpers(judged, (asked(answer),), info())
    assert [thoughts for _, thoughts in seen] == ["the left one"] * 4
    right = [group.scores[0] for group in found]
    assert [s.parts.get("consistent") for s in right] == [1.0, 0.0, 0.0, None]
    assert [s.total for s in right] == [0.75, 0.5, 0.5, None]
    assert (right[3].failed, right[3].problem) == ("consistent", "late")
    # Wrong answers are not asked about, and what has no reward stays without.
    for before, after in zip(judged, found, strict=True):
        assert before.scores[1:] == after.scores[1:]


def test_its_weight_moves_with_the_run(judged):
    answer = [("\\boxed{B}", "")] * 4
    moving = asked(lambda rows: answer, weight=Line(0.0, 0.4))
    found = helpers.with_helpers(judged, (moving,), info(progress=0.5))
    assert found[0].scores[0].weights == {"correct": 1.0, "consistent": 0.2}


@pytest.mark.parametrize("is_collective", [True, False])
def test_two_processes_say_what_one_says(judged, monkeypatch, is_collective):
    """Six of twelve samples each; a frozen model is asked by both about all, an endpoint once."""
    of_chain = {"a": "\\boxed{B}", "b": "\\boxed{C}", "c": "", "d": "\\boxed{B}"}
    judged = [
        dataclasses.replace(group, texts=[f"{name}</think>"] + group.texts[1:])
        for name, group in zip("abcd", judged, strict=True)
    ]
    seen = []

    def answer(rows):
        seen.append("".join(thoughts for _, thoughts in rows))
        return [(of_chain[t], "" if of_chain[t] else "late") for _, t in rows]

    # The answers of an endpoint are put into a box, unless they bring one.
    one = asked(answer, is_collective=is_collective)
    alone = helpers.say(judged, one, info())
    seen.clear()
    tables = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert scoring.own_block(12) == range(6 * process, 6 * process + 6)
        monkeypatch.setattr(
            helpers.multihost_utils,
            "process_allgather",
            lambda table, tiled: tables.append(table) or np.concatenate([table] * 2),
        )
        helpers.say(judged, one, info())
    assert seen == (["abcd", "abcd"] if is_collective else ["ab", "cd"])
    both = np.concatenate(tables).view(np.float64)
    np.testing.assert_array_equal(both, [number for number, _ in alone])
    np.testing.assert_array_equal(both[[0, 3, 6, 9]], [1, 0, np.inf, 1])


def test_an_endpoint_is_asked_in_words(judged):
    """It sees the question without its picture, and thoughts; it answers with a letter."""

    def reply(request, times):
        return 200, completion("B.")

    with model_server(reply) as server:
        settings = Endpoint(server.url, "m", prompt="Q {question} T {thoughts} {x}")
        term = Consistent(settings, max_tokens=6)
        answers = helpers.endpoint_answers(term, settings)
        one = asked(answers, term=term, is_collective=False)
        found = helpers.with_helpers(judged, (one,), info())
        (request,) = server.requests  # the same four times
    assert text_of(request) == "Q Which? T the left one {x}"
    assert [group.scores[0].total for group in found] == [0.75] * 4


def test_thoughts_that_were_cut_off_are_no_answer():
    """The problem is told, at once: asking again would not help."""

    def reply(request, times):
        return 200, completion("<think>\nOkay, the left")

    with model_server(reply) as server:
        asker = asking.Asker(Endpoint(server.url, "m", retries=3))
        ((answer, problem),) = asker.ask_all(["Q"], 4)
        assert len(server.requests) == 1
    assert answer == "" and "ends inside its thoughts" in problem
    assert "raise the term's max_tokens" in problem


def test_half_a_line_of_the_cache_costs_no_reply_behind_it(tmp_path):
    def reply(request, times):
        return 200, completion(f"to {text_of(request)}")

    cache = tmp_path / "replies.jsonl"
    with model_server(reply) as server:
        settings = Endpoint(server.url, "m", cache=str(cache))
        asking.Asker(settings).ask_all(["one", "two"], 4)
        whole = cache.read_text()
        # Killed in the middle of the second line.
        cache.write_text(whole[: len(whole) - 20])
        asking.Asker(settings).ask_all(["three", "four"], 4)
        server.requests.clear()
        again = asking.Asker(settings)
        replies = again.ask_all(["one", "two", "three", "four"], 4)
        asked_again = [text_of(request) for request in server.requests]
    assert [said for said, _ in replies] == ["to one", "to two", "to three", "to four"]
    # Of the first two, the one whose line was cut; they are sent side by side.
    assert len(asked_again) == 1 and asked_again[0] in ("one", "two")


def test_a_frozen_model_writes_what_the_likeliest_tokens_are(setup):
    """Another way to the same text: token by token, by whole passes over the text so far."""
    sampler, model = setup
    tokenizer = sampler.processor.tokenizer
    greedy = SamplingParams(6, temperature=0.0, banned=tokenizer.banned_token_ids)
    term = dataclasses.replace(TERM, cue="\n")
    frozen = FrozenAnswers(
        term,
        model,
        dataclasses.replace(sampler, sampling=greedy, tiles=0, group_size=1),
        batch=2,
    )
    rows = [(source(i), "w" * (i + 1)) for i in range(3)]
    rows.insert(1, (source(1), "w" * 200))  # no room
    rows.append((source(2), "what <|im_end|>?"))  # a control token as text
    answers = frozen(rows)
    assert answers[1][0] == "" and "the helper has room for 100" in answers[1][1]
    for i in (0, 2, 3):
        example, thoughts = rows[i]
        words = dataclasses.replace(example, images=())
        ids = sampler.processor.prompt(words).tokens.tolist()
        ids += tokenizer.encode_text(f"{thoughts}</think>\n")
        count = len(ids)
        while len(ids) < count + 6 and ids[-1] != tokenizer.end_token_id:
            tokens = np.asarray([ids], np.int32)
            places = np.arange(len(ids), dtype=np.int32)[None]
            hidden = model(tokens, places, np.ones_like(tokens))
            logits = np.array(model.logits(hidden)[0, -1])
            logits[list(tokenizer.banned_token_ids)] = -np.inf
            ids.append(int(logits.argmax()))
        text = tokenizer.decode(ids[count:], skip_special=True)
        assert answers[i] == ("\n" + text, "")


def test_its_programs_are_compiled_with_nothing_to_ask(setup):
    sampler, model = setup
    greedy = dataclasses.replace(
        sampler,
        sampling=SamplingParams(3, temperature=0.0),
        max_prompt_tokens=64,
        group_size=1,
    )
    frozen = FrozenAnswers(TERM, model, greedy, batch=2)
    from r1v3_jax.sampling.loop import decode

    before = decode._cache_size()
    assert frozen([]) == []
    programs = decode._cache_size()
    assert programs == before + 1
    frozen([(source(i), "what") for i in range(3)])
    assert decode._cache_size() == programs
