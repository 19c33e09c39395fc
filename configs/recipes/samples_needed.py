"""Samples it takes to 75% at home: MPO (Skywork-R1V2, arXiv 2504.16656) and GRPO, from one start.

    python -m tools.arms --config=recipes/samples_needed --reach=home:0.75 --workdir=runs/needed

Each arm is a run that stops after some samples: `grpo_N` after N steps of 24 x 8 samples, `mpo_N`
after N questions with 8 samples each and MPO on the pairs among them. All MPO arms make the same 60
steps of 24 pairs, so few questions are learnt from many times.

What came out: docs/results/stages.md.
"""

from dataclasses import replace

from r1v3_jax.config import load_arms

cascade = load_arms("recipes/r1v2")["cascade"]
start = {name: cascade.stages[name] for name in ("base", "cold_start")}
# Ten questions at a time, so that none is drawn in excess.
asked = replace(cascade.stages["asked"], prompts=10, tiles=10)
mpo = cascade.stages["first"]
grpo = replace(cascade.stages["second"], evaluate_every=4, checkpoint_every=4)
config = replace(
    cascade,
    name="samples_needed",
    stages={**start, "learnt": grpo},
    evaluate=replace(cascade.evaluate, after=("learnt",)),
)
arms = {
    f"grpo_{steps}": replace(
        config, stages={**start, "learnt": replace(grpo, steps=steps)}
    )
    for steps in (4, 5, 6, 7, 8)
}
arms |= {
    f"mpo_{questions}": replace(
        config,
        stages={**start, "asked": replace(asked, questions=questions), "learnt": mpo},
    )
    for questions in (10, 20, 30, 40, 50)
}
