"""Answers to knights and knaves: what can be read, what is right, and what each earns."""

import pytest

from r1v3_jax.rewards.answered import Sample
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.score import score_all
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.terms import Formed, Graded
from r1v3_jax.rewards.verifiers import knights
from r1v3_jax.rewards.verifiers.boxes import find_tagged
from r1v3_jax.rewards.verifiers.knights import WRONG, difference
from r1v3_jax.rewards.verifiers.verdict import UNREADABLE
from r1v3_jax.rewards.verify import check_gold
from r1v3_jax.types import Example

GOLD = "(1) Zoey is a knight\n(2) Ben is a knave\n(3) Ada is a knave"


@pytest.mark.parametrize(
    "answer",
    [
        GOLD,
        "(1) Zoey is a knight, (2) Ben is a knave, (3) Ada is a knave",
        "(1) Ada is a knave (2) Zoey is a knight (3) Ben is a knave",
        "(7) Zoey is a knight; 9. Ben is a knave and Ada is a knave.",
        "zoey IS a Knight\nben is  a KNAVE\nada is\na knave",
        "Clearly Zoey is a knight. Ben is a knave. Ada is a knave!",
    ],
)
def test_right_in_any_order_and_numbering(answer):
    assert difference(GOLD, answer) is None


@pytest.mark.parametrize(
    "answer",
    [
        "(1) Zoey is a knave\n(2) Ben is a knave\n(3) Ada is a knave",
        "(1) Zoey is a knave, (2) Ben is a knight, (3) Ada is a knight",
        "(1) Ben is a knight, (2) Zoey is a knave, (3) Ada is a knave",
    ],
)
def test_wrong_roles_can_be_read(answer):
    assert difference(GOLD, answer) == WRONG


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "(1) Zoey is a knight\n(2) Ben is a knave",
        # Everybody twice, or somebody in both roles: no way to be right by saying all.
        f"{GOLD}\n{GOLD}",
        "Zoey is a knight, Ben is a knave, Ada is a knave, Ada is a knight",
        "Zoey is a knight, Zoey is a knave, Ben is a knave",
        # Words without a name, names without a word, other names.
        "Zoey is a knight, Ben is a knave, Ada is a knave, so one knight",
        "knight, knave, knave",
        "Zoey is a knight, Ben and Ada are knaves",
        "Zoey is a knight, Benny is a knave, Ada is a knave",
        "Zoey is a knight, Ben is no knave, Ada is a knave",
        "Zoey is a knight, Ben is a knave, Ada is a knaves",
        "x" * 5000,
    ],
)
def test_what_cannot_be_read(answer):
    assert difference(GOLD, answer) == UNREADABLE


def test_what_can_be_no_reference():
    for answer in ("", "42", "Zoey is a knight, Zoey is a knave", "Ada is a pioneer"):
        with pytest.raises(ValueError, match="wanted everybody's role once"):
            difference(answer, GOLD)
        assert "everybody's role" in check_gold(answer, "knights")
    assert check_gold(GOLD, "knights") is None


def test_reading_agrees_with_logic_rl():
    """A second way to the same: Logic-RL's rule as recipes describe it, over all short answers."""

    def in_their_way(text: str) -> dict | None:
        words = text.lower().count("knight") + text.lower().count("knave")
        if words != 2:
            return None
        roles = {}
        for name in ("Zoey", "Ben"):
            stated = [
                role for role in ("knight", "knave") if f"{name} is a {role}" in text
            ]
            if not stated:
                return None
            # Of two, the first in the text.
            roles[name] = min(
                stated, key=lambda role: text.index(f"{name} is a {role}")
            )
        return roles

    parts = [
        "",
        "Zoey is a knight ",
        "Zoey is a knave ",
        "Ben is a knight ",
        "no knave ",
    ]
    texts = [a + b + c for a in parts for b in parts for c in parts]
    readings = [knights.read_roles(text, ["Zoey", "Ben"]) for text in texts]
    assert readings == [in_their_way(text) for text in texts]
    assert {"Zoey": "knave", "Ben": "knight"} in readings and None in readings


# What Logic-RL pays: 2, -1.5 or -2 for the answer, 1 or -1 for the form.
TAGGED = f"so\n</think>\n<answer>\n{GOLD}\n</answer>"
OTHER = TAGGED.replace("Ada is a knave", "Ada is a knight")


@pytest.mark.parametrize(
    ("text", "ended", "total"),
    [
        (TAGGED, True, 3.0),
        (OTHER, True, -0.5),
        (TAGGED.replace("(3) Ada is a knave", ""), True, -1.0),
        # A right answer in the wrong form: cut, without thoughts, without tags, twice.
        (TAGGED, False, -3.0),
        (TAGGED.removeprefix("so"), True, -3.0),
        (TAGGED.replace("<answer>", ""), True, -3.0),
        (TAGGED + TAGGED.removeprefix("so\n</think>"), True, -3.0),
        ("<think>" + TAGGED, True, -3.0),
        ("so", True, -3.0),
    ],
)
def test_the_reward_of_logic_rl(text, ended, total):
    reward = Reward(((1.0, Graded(2.0, -1.5, -2.0, needs_form=True)), (1.0, Formed())))
    example = Example("7", (), "Who?", GOLD, verifier="knights")
    sample = Sample(text, example, ended)
    (score,) = score_all([sample], reward=reward, verify=Verify(answer=find_tagged))
    assert score.total == total


def test_a_name_is_compared_whole():
    gold = "(1) Jean-Luc is a knight (2) O'Brien is a knave"
    assert knights.roles_of_reference(gold) == {
        "Jean-Luc": "knight",
        "O'Brien": "knave",
    }
    assert knights.difference(gold, gold) is None
    other = gold.replace("Jean-Luc", "Marc-Luc")
    assert knights.difference(gold, other) == UNREADABLE
