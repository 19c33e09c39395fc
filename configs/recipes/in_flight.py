"""Prompts in flight through several steps, against a rollout that ends in its step.

PipelineRL (arXiv 2509.19128) and AReaL (arXiv 2505.24298) let samples go on while the weights
change, and find that as many samples teach as much. Truncated importance sampling corrects each
token for the weights that drew it.

    python -m tools.arms --config=recipes/in_flight --workdir=runs/in_flight --metric=slots/busy

Arms: `in_step`, every sample is drawn by the weights that learn from it; `carried`, three steps'
prompts are under way; `fast`, the same with ten times the learning rate, which the effective sample
size should warn of (--arms=carried,fast). All see the same questions and learn from equally many
samples.

What differs from the papers: one program samples and learns in turn, a step learns from the oldest
prompts and not from the first that end, and the model has 0.6 M weights.

What came out: docs/results/in_flight.md.
"""

from dataclasses import replace

from r1v3_jax.config import load_config
from r1v3_jax.losses import Truncated

digits = load_config("digits")
learnt = replace(
    digits.stages["grpo"],
    steps=40,
    max_completion_tokens=62,
    correction=Truncated(2.0),
    evaluate_every=0,
    checkpoint_every=40,
)
carried = replace(learnt, in_flight=3 * learnt.prompts)
start = {name: digits.stages[name] for name in ("base", "cold_start")}
config = replace(
    digits,
    name="in_flight",
    stages={**start, "grpo": learnt},
    evaluate=replace(
        digits.evaluate,
        sets=digits.evaluate.sets[:3],
        after=("grpo",),
        questions=1000,
        without_images=False,
        select_by="last",
    ),
)
fast = replace(carried.optimizer, lr=10 * carried.optimizer.lr)
arms = {
    "in_step": config,
    "carried": config.with_stages(grpo=carried),
    "fast": config.with_stages(grpo=replace(carried, optimizer=fast)),
}
