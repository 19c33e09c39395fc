"""Two skills and both at once: answers from the labels by another way, chains, facts, forms."""

import dataclasses

import numpy as np
import pytest

from r1v3_jax.config import load_config
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import verify
from r1v3_jax.tasks import digits
from r1v3_jax.tasks.digit_skills import KINDS, Skills, answer_text, facts, steps
from r1v3_jax.tasks.digits import Digits

PICTURES = Skills(Digits(seed=5))
WORDS = Skills(Digits(seed=5), form="words")


def test_work_is_written_out():
    """4 7 over 3 8: the largest digit, 8, stands at D, in the second row."""
    grid = (4, 7, 3, 8)
    assert steps("sum", grid, 0) == ["4+7=11"]
    assert steps("place", grid, 0) == ["B7", "B7", "D8"]
    assert steps("both", grid, 1) == ["B7", "B7", "D8", "3+8=11"]
    assert [answer_text(kind, grid, 1) for kind in KINDS] == ["11", "D", "11"]
    assert facts("place", grid, 1) == ["A4", "B7", "C3", "D8"]
    assert facts("both", grid, 1) == ["A4", "B7", "C3", "D8", "3+8=11"]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_picture(kind):
    for index in range(60):
        example = PICTURES.example(index, kind)
        table = np.array([int(label) for label in example.image_labels]).reshape(2, 2)
        assert (table == table.max()).sum() == 1
        match kind:
            case "sum":
                row = int(example.question.split()[-1].rstrip(".")) - 1
                wanted = f"{table[row].sum()}"
            case "place":
                wanted = "ABCD"[table.argmax()]
            case "both":
                wanted = f"{table[table.max(axis=1).argmax()].sum()}"
        assert example.answer == wanted
        checked = verify(example.chain, example.answer, verifier=example.verifier)
        assert checked.verdict is Verdict.RIGHT
        thoughts = example.chain.partition("</think>")[0]
        assert all(fact in thoughts for fact in example.metadata["facts"])


def test_words_hold_what_a_chain_reads():
    """In words there is no image, and the chain begins with what the question says."""
    for index in range(30):
        example = WORDS.example(index, "both")
        assert not example.images
        described, _, question = example.question.partition(". ")
        assert question == "Add the row of the largest digit."
        assert example.chain.startswith(f"{described} stepwise:")


def test_shares_change_chains_alone():
    lazy = dataclasses.replace(PICTURES, reading=0.3, jumping=0.4)
    thoughts = []
    for index in range(300):
        ours = PICTURES.example(index, "sum")
        theirs = lazy.example(index, "sum")
        assert (ours.question, ours.answer) == (theirs.question, theirs.answer)
        assert ours.images[0].tobytes() == theirs.images[0].tobytes()
        thoughts.append(theirs.chain.partition("\n</think>")[0])
    jumps = sum(not thought for thought in thoughts)
    worked = sum("stepwise" in thought for thought in thoughts)
    # 0.4 and 0.3 of 300, four standard deviations around.
    assert 86 < jumps < 154
    assert 58 < worked < 122


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="reading \\+ Skills.jumping is 1.2"):
        Skills(Digits(), reading=0.6, jumping=0.6)
    with pytest.raises(ValueError, match="kind is 'area'"):
        PICTURES.mix(area=1)
    with pytest.raises(ValueError, match="weight of sum is 0"):
        PICTURES.mix(sum=0)


def test_prompts_and_chains_fit_the_recipe(tmp_path):
    """Every prompt and chain of the recipe has room, in the vocabulary of `digits`."""
    digits.write_tokenizer(tmp_path)
    config = load_config("recipes/compabench")
    processor = Processor(config.model, load(tmp_path))
    tuning = config.stages["tuning"]
    for kind in KINDS:
        for source in (PICTURES, WORDS):
            example = source.example(1, kind)
            whole = processor.supervised(example)
            prompt = processor.prompt(example)
            assert len(prompt.tokens) <= tuning.max_prompt_tokens
            assert (
                len(whole.tokens) - len(prompt.tokens) <= tuning.max_completion_tokens
            )
