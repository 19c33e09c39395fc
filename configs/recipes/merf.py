"""MeRF: the rules of the reward stand in the training prompt, and nowhere else.

A Simple "Motivation" Can Enhance Reinforcement Finetuning of Large Reasoning Models (version 3),
arXiv 2506.18485. The paper appends a section on the scoring to the system prompt of Knights and
Knaves (its wording is not published; the line here is our own), keeps Logic-RL's reward as it is,
and tests without the section. Its arms: no rules, the true ones, those of the answer alone, and all
numbers with the other sign.

    python -m tools.arms --config=recipes/merf --first=40 --metric=eval/accuracy --workdir=runs/merf

Differs from the paper: a model of 0.6 M weights that knew nothing, in place of 1.5 B to 14 B;
puzzles of 2 and 3 people, not 3 to 7; 40 steps of 8 questions, without KL. Above all, the model
cannot read English: what a line of rules calls for is taught by the cold start, whose rows are told
rules drawn at random and obey half of them (`tasks.knights.Knights`). Logic-RL's numbers are never
among those. So a difference shows that the machinery works, not that a model understands its
reward.

What came out: docs/results/recipes.md.
"""

import dataclasses

from r1v3_jax.config import Run, load_config
from r1v3_jax.data import Reworded
from r1v3_jax.data.reworded import told
from r1v3_jax.tasks.knight_chains import Rules

config = dataclasses.replace(load_config("knights"), name="merf")
grpo = config.stages["grpo"]

# The rules that are told are those in force.
(_, answer), (_, form) = grpo.reward.terms
RULES = Rules(
    right=answer.right,
    wrong=answer.wrong,
    unreadable=answer.unreadable,
    form=form.right,
    no_form=form.wrong,
)


def with_rules(rules: Rules) -> Run:
    """Returns the run whose training questions come with a line of rules."""
    train = Reworded(grpo.train, told(str(rules)))
    return config.with_stages(grpo=dataclasses.replace(grpo, train=train))


arms = {
    "none": config,
    "true": with_rules(RULES),
    "partial": with_rules(RULES.without_form()),
    "inverted": with_rules(RULES.negated()),
}
