"""Exact speculation: GRPO with guesses, two and four tokens a pass, and without, from one start.

    python -m tools.arms --config=recipes/drafts --workdir=runs/drafts

A guess is kept where it is the token that the policy draws with the key that it always has
(arXiv 2408.07978): the arms sample the same tokens, learn the same and end with the same weights.
What differs is the number of passes through the model. `drafts/tokens_a_pass` says how many
tokens a pass has yielded. pays_from is 1 so that every step is guessed in.
"""

from dataclasses import replace

from r1v3_jax.config import Draft, Optimizer, load_config

digits = load_config("digits")
stages = {name: digits.stages[name] for name in ("base", "cold_start")}
stages["grpo"] = replace(
    digits.stages["grpo"], steps=60, evaluate_every=0, checkpoint_every=60
)
config = replace(
    digits,
    name="drafts",
    stages=stages,
    evaluate=replace(
        digits.evaluate,
        sets=digits.evaluate.sets[:3],
        questions=1000,
        without_images=False,
        select_by="last",
    ),
)


def guessed(tokens: int):
    """Returns the run with guesses in every step, and a learning rate for a head of width 128."""
    draft = Draft(tokens, pays_from=1.0, optimizer=Optimizer(lr=3e-3, warmup_steps=5))
    return config.with_stages(grpo=replace(stages["grpo"], draft=draft))


arms = {"plain": config, "two": guessed(2), "four": guessed(4)}
