"""The knights config and its recipe MeRF: what is told, to whom, and that everything fits."""

import dataclasses

import pytest

from r1v3_jax.config import load_arms
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards.answered import Sample
from r1v3_jax.rewards.score import score_all

TOLD = {
    "none": "",
    "true": "Scores: right 2, wrong -1.5, unreadable -2; form 1, else -1.",
    "partial": "Scores: right 2, wrong -1.5, unreadable -2.",
    "inverted": "Scores: right -2, wrong 1.5, unreadable 2; form -1, else 1.",
}


@pytest.fixture(scope="module")
def arms():
    return load_arms("recipes/merf")


@pytest.fixture(scope="module")
def processor(arms, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    run = arms["none"]
    run.write_tokenizer(directory)
    return Processor(run.model, load(directory))


def test_each_arm_is_told_its_rules_in_training_and_nothing_in_evaluation(arms):
    assert list(arms) == list(TOLD)
    for name, line in TOLD.items():
        example = arms[name].stages["grpo"].train(3)
        assert example.before == ((("system", line),) if line else ())
        bare = arms["none"].stages["grpo"].train(3)
        assert dataclasses.replace(example, before=()) == bare
        evaluate = arms[name].evaluate
        for source in (evaluate.probe, *dict(evaluate.sets).values()):
            assert source(3).before == ()


def test_the_rules_that_are_told_are_in_force(arms):
    """Right and well formed 2 + 1; wrong -1.5 + 1; right but cut -2 - 1."""
    run = arms["true"]
    example = run.evaluate.probe(0)
    turned = example.answer.replace("knight", "x").replace("knave", "knight")
    texts = [
        f"so\n</think>\n<answer>\n{answer}\n</answer>"
        for answer in (example.answer, turned.replace("x", "knave"))
    ]
    samples = [Sample(text, example, ended=True) for text in texts]
    samples.append(Sample(texts[0], example, ended=False))
    scores = score_all(samples, reward=run.stages["grpo"].reward, verify=run.verify)
    assert [score.total for score in scores] == [3.0, -0.5, -3.0]


def test_no_row_of_the_cold_start_is_told_the_rules_of_an_arm(arms):
    """The numbers of the recipe are not learnt by heart: they are met in reinforcement first."""
    stage = arms["none"].stages["cold_start"]
    # A part of them: a packed row has several.
    rows = [stage.train(index) for index in range(stage.steps * stage.rows)]
    told = {row.before[0][1] for row in rows if row.before}
    assert len(told) > 1000
    assert not told & set(TOLD.values())


def test_every_row_fits(arms, processor):
    """Nothing is dropped: prompts with the longest rules, and whole chains."""
    stages = arms["true"].stages
    for index in range(300):
        prompt = processor.prompt(arms["true"].stages["grpo"].train(index))
        assert len(prompt.tokens) <= stages["grpo"].max_prompt_tokens
        for name in ("base", "cold_start"):
            encoded = processor.supervised(stages[name].train(index))
            assert len(encoded.tokens) <= stages[name].row_tokens
    evaluate = arms["true"].evaluate
    for _, source in evaluate.sets:
        for index in range(300):
            chain = source(index).chain
            assert len(processor.tokenizer.encode_text(chain)) < evaluate.max_tokens
