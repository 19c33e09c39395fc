"""Reworded sources: what each wording says, and that everything else of a source stays."""

import dataclasses
import subprocess
import sys

import pytest
from PIL import Image

from r1v3_jax.config import GRPO, TINY, Run
from r1v3_jax.data import Curriculum, Mixture, Phase, Reworded, Rows
from r1v3_jax.data.reworded import (
    CAPTION_REQUEST,
    caption_first,
    given_answer,
    hinted,
    pooled,
    told,
)
from r1v3_jax.fields import flatten_fields
from r1v3_jax.files import write_jsonl
from r1v3_jax.types import DroppedRow, Example

QUESTION = Example("7", (), "How many?", "3", source="counts")
SYSTEM = ("system", "Be brief.")
EARLIER = (("user", "Hello."), ("assistant", "Hi.\n</think>\n"))
RULES = "Scores: right 2, wrong -1.5."


def endless(index: int) -> Example:
    return dataclasses.replace(QUESTION, id=f"{index}")


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "counts.jsonl"
    good = [
        {"id": f"{n}", "question": f"What is {n} + 1?", "answer": f"{n + 1}"}
        for n in range(8)
    ]
    write_jsonl(path, [*good, {"id": "bad", "answer": "1"}])
    return Rows(str(path))


# 1. What each wording says


@pytest.mark.parametrize(
    ("before", "system", "wanted"),
    [
        ((), "", (("system", RULES),)),
        ((), "Be brief.", (("system", f"Be brief.\n\n{RULES}"),)),
        ((SYSTEM,), "", (("system", f"Be brief.\n\n{RULES}"),)),
        # The row's own turn counts, as it does without the rules.
        ((SYSTEM,), "Be long.", (("system", f"Be brief.\n\n{RULES}"),)),
        (EARLIER, "", (("system", RULES), *EARLIER)),
        ((SYSTEM, *EARLIER), "", (("system", f"Be brief.\n\n{RULES}"), *EARLIER)),
    ],
)
def test_rules_stand_behind_the_system_turn(before, system, wanted):
    example = dataclasses.replace(QUESTION, before=before)
    reworded = told(RULES, system)(example)
    assert reworded == dataclasses.replace(example, before=wanted)


def test_a_sentence_of_each_pool_behind_the_question():
    how = pooled(("Think.", "Go step by step."), ("Box it.", "Use a box."), seed=3)
    wordings = {how(endless(index)).question for index in range(40)}
    assert wordings == {
        "How many?\n\nThink. Box it.",
        "How many?\n\nThink. Use a box.",
        "How many?\n\nGo step by step. Box it.",
        "How many?\n\nGo step by step. Use a box.",
    }
    other = pooled(("Think.", "Go step by step."), ("Box it.", "Use a box."), seed=4)
    assert any(how(endless(i)) != other(endless(i)) for i in range(40))


def test_a_pool_draws_the_same_in_every_process():
    """The draw is of the seed and the id: not of `hash`, which each process salts anew."""
    program = (
        "from r1v3_jax.data.reworded import pooled\n"
        "from r1v3_jax.types import Example\n"
        "how = pooled(tuple('abcdefgh'), tuple('ijklmnop'), 1)\n"
        "print([how(Example(f'{i}', (), 'q', 'a')).question[-3:] for i in range(20)])"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("a i") < 5


def test_empty_pools_are_refused():
    with pytest.raises(ValueError, match="got 1 first and 0 second sentences"):
        pooled(("Think.",), ())


def test_a_caption_is_asked_for_where_there_is_an_image():
    picture = Image.new("RGB", (4, 4))
    pictured = dataclasses.replace(QUESTION, images=(picture,))
    assert caption_first(pictured).question == f"How many?\n\n{CAPTION_REQUEST}"
    assert caption_first(QUESTION) == QUESTION


def test_an_answer_that_is_given():
    question = given_answer(QUESTION).question
    assert question == (
        "How many?\n\nThe answer is 3. Write down the reasoning that leads to it, and then the "
        "answer."
    )
    with pytest.raises(DroppedRow, match="no_answer"):
        given_answer(dataclasses.replace(QUESTION, answer=""))


def test_hints_go_to_the_rows_they_are_for():
    how = hinted({"7": "Count the corners.", "9": ""})
    assert how(QUESTION).question == "How many?\n\nHint: Count the corners."
    for id in ("8", "9"):
        example = dataclasses.replace(QUESTION, id=id)
        assert how(example) == example


# 2. What stays


def test_length_order_names_and_drops_are_the_sources(rows):
    reworded = Reworded(rows, told(RULES))
    reworded.check()
    assert len(reworded) == len(rows) == 9
    for index in range(18):
        try:
            wanted = rows(index)
        except DroppedRow as error:
            with pytest.raises(DroppedRow) as caught:
                reworded(index)
            assert caught.value.args == error.args
            continue
        example = reworded(index)
        assert example.before == (("system", RULES),)
        assert dataclasses.replace(example, before=()) == wanted


def test_a_source_without_an_end_stays_without_one():
    reworded = Reworded(endless, told(RULES))
    assert not hasattr(reworded, "__len__")
    assert reworded  # Python asks an object with a length for it here
    with pytest.raises(ValueError, match="which has no end"):
        Curriculum(reworded, (Phase(0),)).check()
    assert reworded.fingerprint() == ""


def test_checks_reach_the_source():
    with pytest.raises(FileNotFoundError):
        Reworded(Mixture(((1, Rows("no/such.jsonl")),)), given_answer).check()


def test_a_run_goes_on_with_the_same_words_and_rows_only(rows):
    """The identity of a stage has the words, the settings of the source and what its files hold."""

    def identity(how):
        stage = GRPO(
            train=Reworded(rows, how),
            max_prompt_tokens=100,
            max_completion_tokens=100,
        )
        run = Run("r", TINY, {"grpo": stage}, init_from="x")
        return run.identity("grpo")

    same = identity(told(RULES))
    assert same == identity(told(RULES))
    assert same["grpo.train.rows"] == rows.fingerprint()
    assert RULES in same["grpo.train.how"]
    assert same["grpo.train.source.path"] == repr(rows.path)
    for how in (told(RULES + " "), told(RULES, "Be brief."), caption_first):
        assert identity(how) != same
    pools = flatten_fields(Reworded(rows, pooled(("a",), ("b",), 1)))
    assert pools != flatten_fields(Reworded(rows, pooled(("a",), ("b",), 2)))
