"""Who decides that an answer is right: the rule, its box, a judge, or nobody."""

import pytest
from judge_for_tests import judge
from model_server_for_tests import completion, model_server

from r1v3_jax.benchmarks import table
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.scoring import Answer, Score, score_all
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers.model import Judge

ROW = {row.name: row for row in table.TABLE}
PETS = Question("0", "Which?", "B", options={"A": "cat", "B": "dog"})
VERIFY = Verify(processes=1)


def scored(name, question, text, *, ended=True, reading="box", thinking=True, by=None):
    answer = Answer(text, ended)
    (score,) = score_all(
        ROW[name],
        [question],
        [answer],
        reading=reading,
        thinking=thinking,
        verify=VERIFY,
        judge=by,
    )
    return score.right, score.by


@pytest.mark.parametrize(
    ("text", "right", "by"),
    [
        (r"A? B?</think>It is \boxed{B}", True, "rule"),
        (r"</think>\boxed{A}", False, "rule"),
        (r"</think>A or B or so; \boxed{dog} of A and B", True, "box"),
        (r"</think>B, A, or rather \boxed{A} of A and B", False, "box"),
        ("</think>I cannot tell", None, "nobody"),
        (r"It is \boxed{B}", True, "rule"),  # a server took the thoughts away
    ],
)
def test_letters_are_read_by_rule_then_by_box(text, right, by):
    assert scored("MMStar", PETS, text) == (right, by)


def test_a_chain_that_was_cut_has_no_answer():
    assert scored("MMStar", PETS, "so far it is B", ended=False) == (False, "cut")
    assert scored("MMStar", PETS, "it is B", ended=False, thinking=False) == (
        True,
        "rule",
    )


def test_the_rule_alone_leaves_mathematics_open():
    question = Question("0", "How long?", r"\frac{1}{2}")
    text = r"</think>\boxed{0.5}"
    assert scored("MMK12", question, text, reading="rule") == (None, "nobody")
    assert scored("MMK12", question, text) == (True, "box")


def test_a_wrong_number_is_wrong_and_other_words_are_open():
    assert scored("MMK12", Question("0", "", "12"), r"</think>\boxed{13}") == (
        False,
        "box",
    )
    words = Question("0", "", "a red house")
    assert scored("MMK12", words, r"</think>\boxed{the house in red}") == (
        None,
        "nobody",
    )


def test_the_older_rules_read_a_letter_that_is_far_in_front():
    """Both are VLMEvalKit's: today's wants it among the last words."""
    answer = Answer("</think>B is what I would say of this picture")
    scores = {
        version: score_all(
            ROW["MMStar"],
            [PETS],
            [answer],
            reading="rule",
            thinking=True,
            version=version,
        )[0]
        for version in ("vlmeval-0.2", "skywork-r1v3")
    }
    assert scores["vlmeval-0.2"].by == "nobody"
    assert scores["skywork-r1v3"] == Score(True, "rule", "B")


def test_a_row_that_was_not_asked_counts_as_wrong():
    answer = Answer("", problem="too long")
    (score,) = score_all(ROW["MMStar"], [PETS], [answer], reading="box", thinking=True)
    assert (score.right, score.by) == (False, "not asked")


def test_mathvistas_choices_are_letters_or_their_text():
    fields = {
        "question_type": "multi_choice",
        "choices": "['3/11', '8/11']",
        "answer_option": "B",
    }
    question = Question("0", "", "8/11", fields=fields)
    mention = "</think>Both A and B were tried, then "
    assert scored("MathVista_MINI", question, mention + r"\boxed{8/11}, not 3/11") == (
        True,
        "box",
    )
    assert scored("MathVista_MINI", question, mention + r"\boxed{B} of them all") == (
        True,
        "box",
    )


def test_logicvistas_letters_are_a_set():
    question = Question("0", "", "A, C")
    assert scored("LogicVista", question, r"</think>\boxed{C, A}") == (True, "box")
    assert scored("LogicVista", question, r"</think>\boxed{A}") == (False, "box")


def test_what_is_open_goes_to_the_judge_once(tmp_path):
    """The stand-in counts words in their places: two of two are CORRECT."""
    question = Question("0", "Name it.", "four seven")
    with judge() as url:
        model = Judge(
            url,
            "stand-in",
            timeout_s=10,
            retries=0,
            requests=2,
            cache=str(tmp_path / "kept"),
        )
        assert scored("MMK12", question, "</think>four seven", by=model) == (
            True,
            "judge",
        )
        assert scored("MMK12", question, "</think>four eight", by=model) == (
            False,
            "judge",
        )
    # The server is gone: what was judged is remembered, and nothing else is called wrong.
    again = Judge(
        url,
        "stand-in",
        timeout_s=1,
        retries=0,
        requests=2,
        cache=str(tmp_path / "kept"),
    )
    assert scored("MMK12", question, "</think>four seven", by=again) == (True, "judge")
    assert scored("MMK12", question, "</think>six", by=again) == (None, "nobody")


def test_a_puzzle_without_a_reference_is_checked_and_never_judged():
    """Any solution is right, so a judge would have nothing to compare with."""
    given = "{'init_cards': [1, 8, 9, 13]}"
    fields = {"function_id": "judge_24points_function", "special_info": given}
    question = Question("0", "Make 24.", "", fields=fields)
    with model_server(lambda *_: (200, completion("CORRECT"))) as server:
        model = Judge(server.url, "j", timeout_s=10, retries=0, requests=1, cache="")
        text = r"</think>\boxed{(13-9-1)*8}"
        right = scored("MME-Reasoning", question, text, by=model)
        unread = scored("MME-Reasoning", question, "</think>I give up", by=model)
        assert server.requests == []
    assert right == (True, "rule")
    assert unread == (None, "nobody")


def test_the_table_has_the_reports_sixteen_rows():
    """Scores as in table 1 of the report, from the top to the bottom of its column."""
    column = "76.0 40.3 55.4 78.5 70.6 85.7 61.3 77.1 59.6 52.6 56.5 28.5 59.7 42.8 52.8 31.5"
    assert [row.paper for row in table.TABLE] == [float(x) for x in column.split()]
    assert len(set(table.NAMES)) == 16
