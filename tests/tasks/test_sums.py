"""Column addition: chains written out, exact answers, loops that are cut, a split that holds."""

import re
from collections import Counter

import pytest

from r1v3_jax.config import load_config
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards.loops import looped_share
from r1v3_jax.rewards.verifiers.numerals import in_digits
from r1v3_jax.rewards.verify import verify
from r1v3_jax.tasks import sums
from r1v3_jax.tasks.sums import Sums, chain_pieces, is_held_out, looped_chain

PIECES = {
    (47, 38): ["7+8=15", ";1+4=5", "+3=8"],
    (40, 30): ["0+0=0", ";4+3=7"],
    (47, 38, 5): ["7+8=15", "+5=20", ";2+4=6", "+3=9", "+0=9"],
    (9, 9): ["9+9=18", ";1+0=1", "+0=1"],
}


def test_chains_are_written_out():
    """Proves: ones from left to right, then carry and tens."""
    assert {numbers: chain_pieces(list(numbers)) for numbers in PIECES} == PIECES
    chain = looped_chain(PIECES[47, 38, 5], 1)
    assert chain.startswith("7+8=15+5=20+5=20+5=20+5=20")
    assert len(chain) == sums.LOOP_CHARACTERS + len("\n</think>")


def numbers_of(question: str) -> list[int]:
    """Reads the numbers of a question again, by the verifier's reader of words."""
    listed = re.sub("^(Add|What is|Sum of) |[.?]$", "", question)
    return [int(in_digits(part)) for part in re.split(", | and ", listed)]


@pytest.mark.parametrize("level", sums.LEVELS)
def test_answers_and_steps_are_true(level):
    """Proves: every answer is the sum of what is asked, and every step is true."""
    for index in range(300):
        example = Sums().example(index, level)
        numbers = numbers_of(example.question)
        assert len(numbers) in sums.LEVELS[level]
        assert int(example.answer) == sum(numbers)
        assert verify(example.chain, example.answer).verdict.value == "right"
        # 7+8=15+5=20 holds 7+8=15 and 15+5=20.
        steps = re.findall(r"(?=(?<![0-9])([0-9]+)\+([0-9])=([0-9]+))", example.chain)
        assert steps and all(int(a) + int(b) == int(c) for a, b, c in steps)
        columns = example.chain.partition("\n")[0].split(";")
        ones, tens = (int(column.rpartition("=")[2]) for column in columns)
        assert 10 * tens + ones % 10 == sum(numbers)


def test_a_teacher_has_the_habits_it_is_given():
    """Proves: the shares of loops and jumps; a loop has no answer and is one, a jump no step."""
    habits = Counter()
    for index in range(2000):
        example = Sums(looping=0.15, jumping=0.35).mix(short=2, long=1)(index)
        thought, _, rest = example.chain.partition("\n</think>")
        if not rest:
            habits["loop"] += 1
            assert looped_share([ord(c) for c in thought]) > 0.4
        elif "=" not in thought:
            habits["jump"] += 1
            assert thought == example.answer
    assert habits["loop"] / 2000 == pytest.approx(0.15, abs=0.02)
    assert habits["jump"] / 2000 == pytest.approx(0.35, abs=0.03)


def test_no_question_is_in_both_splits():
    """Proves: numbers in their order belong to one split, whatever the wording and the seed."""
    assert is_held_out([47, 38, 5]) is False  # 47 + 76 + 15 = 138
    assert is_held_out([47, 38, 7]) is False  # 144
    assert is_held_out([47, 38, 8]) is True  # 147 = 21 * 7
    for split in sums.SPLITS:
        for index in range(200):
            example = Sums(split=split, seed=index % 3).example(index)
            assert is_held_out(numbers_of(example.question)) == (split == "held_out")


def test_examples_are_pure_and_differ_by_seed():
    """Proves: the same index is the same example; another seed asks other questions."""
    source = Sums(looping=0.15).mix(short=1, long=1)
    assert source(7) == source(7)
    assert source(7) != Sums(seed=1, looping=0.15).mix(short=1, long=1)(7)


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(split="test"), "choose from train, held_out"),
        (dict(looping=1.5), "must be a share, as 0.15"),
        (dict(looping=0.6, jumping=0.6), "at most 1, as 0.15 and 0.35"),
    ],
)
def test_impossible_teachers_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Sums(**fields)
    with pytest.raises(ValueError, match="short, long"):
        Sums().mix(medium=1)


def test_questions_and_chains_fit_the_config(tmp_path):
    """Proves: no text falls into letters or unknown tokens, and none is longer than its room."""
    config = load_config("sums")
    assert sums.write_tokenizer(tmp_path) == config.model.text.vocab_size <= 128
    processor = Processor(config.model, load(tmp_path))
    cold_start = config.stages["cold_start"]
    grpo = config.stages["grpo"]
    for index in range(500):
        example = cold_start.train(index)
        prompt = processor.prompt(example)
        row = processor.supervised(example)
        assert len(prompt.tokens) <= grpo.max_prompt_tokens
        assert len(row.tokens) <= cold_start.row_tokens
        completion = len(row.tokens) - len(prompt.tokens)
        if "boxed" in example.chain:
            assert completion <= grpo.max_completion_tokens
        else:  # a loop goes on beyond the limit, where it is cut
            assert completion > grpo.max_completion_tokens
