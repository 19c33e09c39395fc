"""Skywork-R1V2 (arXiv 2504.16656): preferences first (MPO), then GRPO.

R1V2, the teacher of R1V3, has no supervised stage: MPO on pairs of right and wrong answers, then
GRPO. The claim in small: offline first and online then is better than GRPO alone with as many
samples.

    python -m tools.arms --config=recipes/r1v2 --workdir=runs/r1v2

Both arms have two stages behind the cold start. `grpo`: 33 and 30 steps of 24 x 8 samples.
`cascade`: MPO on pairs among 800 x 8 samples of the cold start, then the same 30 steps of GRPO.
So they have 6,336 and 6,400 samples behind the first stage, 12,096 and 12,160 behind the second.

What differs from the paper: a model of 0.6 M weights with a cold start (nothing right can be
sampled before it), whose every part learns, not the connector alone; no reward model, so pairs are
by the answer alone.

What came out: docs/results/stages.md.
"""

from dataclasses import replace

from r1v3_jax.config import Collect, Optimizer, Preference, load_config
from r1v3_jax.data import Made
from r1v3_jax.distill.keeps import Pairs
from r1v3_jax.tasks.digits import Digits

digits = load_config("digits")
start = {name: digits.stages[name] for name in ("base", "cold_start")}
grpo = replace(
    digits.stages["grpo"], steps=30, evaluate_every=3, checkpoint_every=10, slots=0
)
asked = Collect(
    grpo.train,
    Pairs(1),
    questions=800,
    samples=8,
    prompts=40,
    tiles=40,
    max_prompt_tokens=26,
    max_completion_tokens=62,
)
mpo = Preference(
    train=Made("asked", grpo.train),
    steps=60,
    pairs=24,
    max_prompt_tokens=26,
    max_answer_tokens=62,
    tiles=24,
    optimizer=Optimizer(lr=3e-5, warmup_steps=3),
)
config = replace(
    digits,
    name="r1v2",
    stages={**start, "asked": asked, "first": mpo, "second": grpo},
    evaluate=replace(
        digits.evaluate,
        sets=digits.evaluate.sets[:3],
        after=("first", "second"),
        questions=1000,
        without_images=False,
        probe=Digits(split="held_out", seed=2).mix(easy=1, normal=1, hard=1),
        probe_questions=300,
        select_by="last",
    ),
)
online = {**start, "first": replace(grpo, steps=33), "second": grpo}
arms = {"grpo": replace(config, stages=online), "cascade": config}
