"""The stand-in judge: tiers by the facts named, and the program's own way to a judge through it."""

import json

import pytest
from judge_for_tests import judge, stand_in

from r1v3_jax.config import Verify, load_arms, load_config
from r1v3_jax.rewards.verifiers import judging
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import verify_all

REFERENCE = "four seven over three eight"
SHARES = {
    "four seven over three eight": 1.0,
    "Four Seven over three eight": 1.0,
    "four seven over three nine": 0.75,
    "four something over three something": 0.5,
    "something something over something eight": 0.25,
    "something something over something something": 0.0,
    # The same digits in other places.
    "seven four over eight three": 0.0,
    "three eight over four seven": 0.0,
    # Naming several digits is not naming one.
    "four one seven over three eight": 0.5,
    "four seven three eight": 0.0,
    "": 0.0,
}
TIERS = {1.0: "ALL", 0.75: "MOST", 0.5: "HALF", 0.25: "SOME", 0.0: "NONE"}


@pytest.mark.parametrize("answer", SHARES)
def test_the_share_of_facts_and_its_tier(answer):
    share = stand_in.share_of_facts(REFERENCE, answer)
    assert share == SHARES[answer]
    assert stand_in.tier([*TIERS.values()], share) == TIERS[share]
    binary = stand_in.tier(["CORRECT", "INCORRECT"], share)
    assert binary == ("CORRECT" if share == 1 else "INCORRECT")


def judged(url: str, reading: judging.Judging) -> list:
    return verify_all(
        [f"so\n</think>\n\\boxed{{{answer}}}" for answer in SHARES],
        [REFERENCE] * len(SHARES),
        verifiers=["model"] * len(SHARES),
        questions=["Describe the digits."] * len(SHARES),
        verify=Verify(model_url=url, model_name="x", model_retries=0, judging=reading),
    )


def test_the_arms_of_the_recipe_read_its_replies():
    """Proves: tiers are partial credit, the binary arm has none; both agree on what is right."""
    arms = load_arms("recipes/wethink")
    shares = list(SHARES.values())
    with judge() as url:
        by_tiers = judged(url, arms["all_types_tiers"].verify.judging)
        binary = judged(url, arms["all_types_binary"].verify.judging)
        plain = judged(url, judging.Judging())
    for checks in (by_tiers, binary, plain):
        right = [check.verdict is Verdict.RIGHT for check in checks]
        assert right == [share == 1 for share in shares]
    assert [check.credit or 0.0 for check in by_tiers] == [
        0.0 if share == 1 else share for share in shares
    ]
    assert all(check.credit is None for check in binary)


def test_what_it_says_unclearly_is_an_error():
    """Proves: such an answer is an error and not wrong; the same ones are, each time."""
    reading = load_config("digit_types").verify.judging
    with judge(unclear=0.5) as url:
        checks = judged(url, reading)
    with judge(unclear=0.5) as url:
        again = judged(url, reading)
    errors = [check.verdict is Verdict.ERROR for check in checks]
    assert 0 < sum(errors) < len(errors)
    assert checks == again


def test_a_prompt_that_it_cannot_read_is_refused():
    prompt = load_config("digit_types").verify.judging.prompt
    data = {
        "reference answer": "one over two",
        "student's final answer": "one over two",
    }
    assert stand_in.reply(prompt.replace("{data}", json.dumps(data))) == "ALL"
    in_words = json.dumps(data)
    for text in ("Is it right?", f"{in_words}\nSay yes or no.", "Reply YES or NO."):
        with pytest.raises(ValueError, match="a last line that offers words"):
            stand_in.reply(text)
    for text in ('{"a": 1}\nYES or NO', "{\nYES or NO"):
        with pytest.raises((ValueError, LookupError)):
            stand_in.reply(text)
