"""Three types of question: answers against the digits, chains written out, what they omit."""

import re
from collections import Counter

import numpy as np
import pytest

from r1v3_jax.config import load_config
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards.answered import Answered
from r1v3_jax.rewards.terms import facts
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import verify
from r1v3_jax.tasks import digit_types
from r1v3_jax.tasks.digit_types import Descriptions, Letters, Numbers, letter_chain
from r1v3_jax.tasks.digits import Digits

PICTURES = Digits(seed=5)


def test_chains_are_written_out():
    """Proves: the best option so far, the first of equal ones; a jump compares nothing."""
    assert letter_chain("largest", (4, 7, 3, 8), jumps=False) == (
        "A4 B7 C3 D8 stepwise:B7;B7;D8\n</think>\n\\boxed{D}"
    )
    assert letter_chain("largest", (7, 7, 3, 1), jumps=False) == (
        "A7 B7 C3 D1 stepwise:A7;A7;A7\n</think>\n\\boxed{A}"
    )
    assert letter_chain("smallest", (4, 7, 3, 3), jumps=True) == (
        "A4 B7 C3 D3\n</think>\n\\boxed{C}"
    )


def test_letters_name_the_right_place():
    """Proves: the answer of each question by another way; letters occur about equally often."""
    counts = Counter()
    for index in range(400):
        example = Letters(PICTURES, jumping=0.5)(index)
        digits = np.array([int(label) for label in example.image_labels])
        extreme = digits.argmax() if "largest" in example.question else digits.argmin()
        assert example.answer == "ABCD"[extreme]
        assert example.question.count("\n(") == 4
        assert (
            verify(example.chain, example.answer, verifier="choice").verdict
            is Verdict.RIGHT
        )
        counts[example.answer] += 1
        counts["worked"] += "stepwise" in example.chain
    # A is the first of equal ones: a little more often than a quarter.
    assert all(60 < counts[letter] < 150 for letter in "ABCD")
    assert 150 < counts["worked"] < 250


def test_numbers_are_those_of_the_digits_task():
    example = Numbers(PICTURES)(3)
    wanted = PICTURES.example(3, "normal")
    assert (example.question, example.answer) == (wanted.question, wanted.answer)
    assert (example.source, example.verifier) == ("number", "number")
    assert (
        verify(example.chain, example.answer, verifier="number").verdict
        is Verdict.RIGHT
    )


def test_descriptions_name_the_digits_in_their_places():
    """Proves: answer and facts are the picture's; a chain leaves some out, none wrong."""
    named = Counter()
    for index in range(400):
        example = Descriptions(PICTURES, naming=0.35)(index)
        words = [digit_types.NAMES[int(label)] for label in example.image_labels]
        a, b, c, d = words
        assert example.answer == f"{a} {b} over {c} {d}"
        assert example.metadata["facts"] == re.findall(r"\d\d", example.chain)
        answered = Answered(example.chain, example, ended=True)
        assert facts(answered) == 1.0
        told = (
            re.search(r"\\boxed\{(.*)\}", example.chain)[1].replace(" over", "").split()
        )
        assert all(x in (y, "something") for x, y in zip(told, words, strict=True))
        named[sum(word != "something" for word in told)] += 1
    # Four times 0.35 of 400, and the fourth power: 560 digits and 6 whole descriptions.
    assert 500 < sum(count * times for count, times in named.items()) < 620
    assert 0 < named[4] < 20


def test_an_example_is_a_function_of_its_index():
    for source in (Numbers(PICTURES), Letters(PICTURES), Descriptions(PICTURES)):
        first = source(7)
        again = source(7)
        assert (first.question, first.answer, first.chain) == (
            again.question,
            again.answer,
            again.chain,
        )
        assert first.images[0].tobytes() == again.images[0].tobytes()
        assert len({source(index).id for index in range(50)}) == 50


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="naming is .*; it must be a share, as 0.35"):
        Descriptions(PICTURES, naming=share)
    with pytest.raises(ValueError, match="jumping"):
        Letters(PICTURES, jumping=share)


def test_the_tokenizer_has_every_word(tmp_path):
    """Proves: no text falls into letters, chains fit the length limits of the config."""
    digit_types.write_tokenizer(tmp_path)
    config = load_config("digit_types")
    processor = Processor(config.model, load(tmp_path))
    grpo = config.stages["grpo"]
    # four, seven, over, three, eight.
    answer = "four seven over three eight"
    assert len(processor.tokenizer.encode_text(answer)) == 5
    assert len(processor.tokenizer.encode_text("".join(digit_types.OPTIONS))) == 4
    for index in range(90):
        example = grpo.train(index)
        ids = processor.tokenizer.encode_text(example.chain)
        assert len(ids) < grpo.max_completion_tokens  # and the end of the turn
        assert (
            processor.tokenizer.decode_all([ids], skip_special=True)[0] == example.chain
        )
        question = processor.tokenizer.encode_text(example.question)
        assert len(question) <= 12
