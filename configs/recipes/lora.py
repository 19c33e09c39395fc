"""LoRA (arXiv 2106.09685): low-rank adapters against whole matrices in GRPO, from one cold start.

    python -m tools.arms --config=recipes/lora --workdir=runs/lora

The adapters are of rank 16, on matrices of width 128: they have 0.19 of the weights that learn
otherwise. alpha is such that the first step moves a matrix about as far as it does with the same
learning rate on whole matrices: scale x sqrt(rank) x the size of A is 4 x 4 x 0.05 = 0.8.

What came out: greedy answers as good, samples less sharp, docs/results/lora.md.
"""

from dataclasses import replace

from r1v3_jax.config import LoRA, load_config
from r1v3_jax.tasks.digits import Digits

digits = load_config("digits")
stages = {name: digits.stages[name] for name in ("base", "cold_start")}
stages["grpo"] = replace(
    digits.stages["grpo"],
    steps=40,
    trainable="llm",
    evaluate_every=20,
    checkpoint_every=20,
)
config = replace(
    digits,
    name="lora",
    stages=stages,
    evaluate=replace(
        digits.evaluate,
        sets=digits.evaluate.sets[:3],
        questions=1000,
        without_images=False,
        # Of another seed than the sets.
        probe=Digits(split="held_out", seed=2).mix(normal=1, hard=1),
        select_by="last",
    ),
)
arms = {
    "whole": config,
    "adapters": config.with_stages(
        grpo=replace(stages["grpo"], lora=LoRA(rank=16, alpha=64.0))
    ),
}
