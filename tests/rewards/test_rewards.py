"""The format of a completion, and the reward that format and verdict make."""

import time

import pytest
from labelled_answers import boxed
from scored_texts import score_texts

from r1v3_jax.rewards import terms
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.score import score
from r1v3_jax.rewards.verifiers.verdict import Verdict

RIGHT, WRONG, ERROR = Verdict.RIGHT, Verdict.WRONG, Verdict.ERROR

GOOD = r"3 + 4 = 7</think>It is \boxed{7}."


@pytest.mark.parametrize(
    "completion, thinking, expected",
    [
        (GOOD, True, 1.0),
        (r"a</think>\boxed{8}", True, 1.0),  # the format knows no answers
        (r"a \boxed{1} b</think>\boxed{8}", True, 1.0),
        (r"</think>\boxed{7}", True, 0.0),  # no reasoning
        ("\n \n" + r"</think>\boxed{7}", True, 0.0),
        (r"a</think>b</think>\boxed{7}", True, 0.0),
        (r"<think>a</think>\boxed{7}", True, 0.0),  # the prompt has opened it
        (r"a</think>\boxed{7}<think>", True, 0.0),
        (r"a \boxed{7}", True, 0.0),
        ("a</think>", True, 0.0),
        ("a</think> \n", True, 0.0),
        ("a</think>It is 7.", True, 0.0),
        (r"a</think>\boxed{7} \boxed{7}", True, 0.0),
        (r"a</think>\boxed{7} \boxed{8", True, 0.0),
        (r"a</think>\boxed{7", True, 0.0),
        (r"a</think>\boxed{ }", True, 0.0),
        ("", True, 0.0),
        (r"It is \boxed{7}.", False, 1.0),
        (GOOD, False, 0.0),
        (r"<think>a \boxed{7}", False, 0.0),
        ("It is 7.", False, 0.0),
    ],
)
def test_format(completion, thinking, expected):
    whole = score(completion, "7", ended=True, thinking=thinking)
    cut = score(completion, "7", ended=False, thinking=thinking)
    assert (whole.format, cut.format) == (expected, 0.0)


@pytest.mark.parametrize(
    "completion, answer, ended, total, accuracy, form",
    [
        (GOOD, "7", True, 1.0, 1.0, 1.0),
        (GOOD, "7", False, 0.8, 1.0, 0.0),
        (GOOD, "8", True, 0.2, 0.0, 1.0),
        (r"</think>\boxed{7}", "7", True, 0.8, 1.0, 0.0),
        ("7", "7", True, 0.0, 0.0, 0.0),
        (r"a</think>\boxed{7} or \boxed{8}", "7", True, 0.0, 0.0, 0.0),
        (GOOD, r"\frac{1}{", True, None, None, 1.0),  # an error has no reward
    ],
)
def test_reward_is_the_weighted_sum(completion, answer, ended, total, accuracy, form):
    result = score(completion, answer, ended=ended)
    assert result.total == (None if total is None else pytest.approx(total, abs=1e-12))
    assert (result.accuracy, result.format) == (accuracy, form)
    if total is not None:
        halves = Reward(((0.5, terms.correct), (0.5, terms.well_formed)))
        half = score(completion, answer, ended=ended, reward=halves)
        assert half.total == pytest.approx(0.5 * accuracy + 0.5 * form, abs=1e-12)


def test_a_batch_keeps_its_order_and_survives_errors():
    completions = [GOOD, boxed("8"), GOOD, "nothing", GOOD]
    answers = ["7", "7", r"\frac{1}{", "7", "8"]
    scores = score_texts(completions, answers, [True, True, True, False, True])
    assert [s.verdict for s in scores] == [RIGHT, WRONG, ERROR, WRONG, WRONG]
    assert [s.total for s in scores] == pytest.approx([1.0, 0.2, None, 0.0, 0.2])
    assert scores[1] == score(boxed("8"), "7", ended=True)
    weighted = score_texts(
        completions, answers, [True] * 5, weights=[0.0, 0.25, 0.5, 0.75, 1.0]
    )
    assert [s.total for s in weighted] == pytest.approx([1.0, 0.75, None, 0.0, 0.0])
    plain = score_texts([r"\boxed{7}"], ["7"], [True], thinking=False)
    assert plain[0].total == 1.0
    with pytest.raises(ValueError):
        score_texts(completions, answers[:-1], [True] * 5)


def test_speed(capsys):
    def rate(gold, inside, count):
        completions = [f"{'wait ' * 2000}</think>It is \\boxed{{{inside}}}."] * count
        score_texts(completions[:1], [gold], [True])  # the parser's caches
        start = time.perf_counter()
        scores = score_texts(completions, [gold] * count, [True] * count)
        assert all(s.total == 1.0 for s in scores)
        return count / (time.perf_counter() - start)

    integers, roots = rate("1234", "1,234", 1000), rate(r"2\sqrt{3}", r"\sqrt{12}", 50)
    with capsys.disabled():
        print(
            f"\nrewards: {integers:,.0f} integers/s, {roots:,.0f} roots/s, 10 kB completions"
        )
    assert integers > 200  # some thousands on a free core
