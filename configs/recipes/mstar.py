"""M-STAR (arXiv 2412.17451): sample, keep, learn, again; going on against restarting.

Two rounds: the last model answers questions, some right chains are kept, and supervised learning
follows. `continue`: from the last weights, with their optimizer and schedule. `restart`: each round
from the cold start, with a fresh optimizer. `top2`: as `continue`, with the two right chains of a
question whose steps a scorer likes best. `temperature`: as `top2`, and each round asks at the
temperature with the highest Reward-Pass@2. The claim: each is better than the one before.

    python -m tools.arms --config=recipes/mstar --workdir=runs/mstar

The scorer is exact, an oracle: whether every equation of a chain holds. What else differs from the
paper: a model of 0.6 M weights; 8 samples, not 16; two rounds of 300 questions and 100 steps; the
warm-up (chains with the answer given) is the cold start of `digits`; no GRPO behind the rounds.

What came out: docs/results/stages.md.
"""

from dataclasses import replace

from r1v3_jax.config import Chosen, Collect, Optimizer, Run, load_config
from r1v3_jax.data import Made
from r1v3_jax.distill.keeps import Best, Right
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import correct, equations_hold, well_formed
from r1v3_jax.tasks.digits import Digits

ROUNDS = (1, 2)
digits = load_config("digits")
start = {name: digits.stages[name] for name in ("base", "cold_start")}
QUESTIONS = digits.stages["grpo"].train
asked = Collect(
    QUESTIONS,
    Right(2),
    questions=300,
    samples=8,
    prompts=25,
    tiles=25,
    max_prompt_tokens=26,
    max_completion_tokens=62,
    reward=Reward(((0.8, correct), (0.2, well_formed), (0.0, equations_hold))),
)
sft = replace(
    start["cold_start"],
    steps=100,
    validation=None,
    validate_every=0,
    optimizer=Optimizer(lr=3e-4, weight_decay=0.05),  # constant, as the paper's
)


def rounds(asked: Collect, restart: bool = False) -> Run:
    stages = dict(start)
    for k in ROUNDS:
        carried = {} if k == 1 or restart else {"carry": f"sft{k - 1}"}
        begin = "cold_start" if restart else ""
        learning = replace(sft, train=Made(f"asked{k}", QUESTIONS), start=begin)
        stages |= {f"asked{k}": asked, f"sft{k}": replace(learning, **carried)}
    evaluate = replace(
        digits.evaluate,
        sets=digits.evaluate.sets[:3],
        after=("sft2",),
        questions=1000,
        without_images=False,
    )
    return replace(digits, name="mstar", stages=stages, evaluate=evaluate)


top2 = replace(asked, keep=Best(equations_hold, 2))
PROBE = Digits(split="held_out", seed=2).mix(easy=1, normal=1, hard=1)
adaptive = replace(top2, temperature=Chosen((0.4, 0.7, 1.0, 1.3), PROBE, 100))
config = rounds(asked)
arms = {
    "continue": config,
    "restart": rounds(asked, restart=True),
    "top2": rounds(top2),
    "temperature": rounds(adaptive),
}
