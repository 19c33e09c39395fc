"""RL with Cold Start (arXiv 2505.22334): a teacher's chains, supervised learning, then GRPO.

A teacher is asked; its shortest right chains are learnt (rejection sampling), and GRPO with a
reward for the answer alone goes on from there, all in one run. The claim in small: both stages
together are better than either alone at the same compute.

    python -m tools.arms --config=recipes/cold_start_rl --workdir=runs/cold_start_rl

Arms: `both`, 400 supervised steps and 20 of GRPO; `sft`, 520 supervised steps; `rl`, 60 steps of
GRPO with KL 0.01 from the base, which has never written a chain about such a question. They take
about the same processor time, which the results name.

What differs from the paper: the teacher is this program's own digits run (its GRPO has seen the
questions that it is asked), where theirs is Qwen2.5-VL-32B; 8 samples a question, not 10; a model
of 0.6 M weights.

What came out: docs/results/stages.md.
"""

from dataclasses import replace

from r1v3_jax.config import Collect, Run, load_config
from r1v3_jax.data import Made
from r1v3_jax.distill.keeps import Shortest
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import correct

digits = load_config("digits")
teacher = replace(digits.stages["grpo"], steps=60)
QUESTIONS = teacher.train
chains = Collect(
    QUESTIONS,
    Shortest(1),
    questions=2000,
    samples=2,
    prompts=100,
    tiles=100,
    max_prompt_tokens=26,
    max_completion_tokens=62,
)
sft = replace(
    digits.stages["cold_start"],
    train=Made("chains", QUESTIONS),
    start="base",
    steps=400,
    validation=None,
    validate_every=0,
)
rl = replace(
    teacher,
    start="sft",
    steps=20,
    reward=Reward(((1.0, correct),)),
    kl_coef=0.01,
    evaluate_every=0,
)
given = {name: digits.stages[name] for name in ("base", "cold_start")}
given |= {"teacher": teacher, "chains": chains}


def run(**stages) -> Run:
    """The run that goes on with these stages once there are chains."""
    evaluate = replace(
        digits.evaluate,
        sets=digits.evaluate.sets[:3],
        after=("teacher", *stages),
        questions=1000,
        without_images=False,
        select_by="last",
    )
    stages = {**given, **stages}
    return replace(digits, name="cold_start_rl", stages=stages, evaluate=evaluate)


config = run(sft=sft, rl=rl)
arms = {
    "both": config,
    "sft": run(sft=replace(sft, steps=520)),
    "rl": run(rl=replace(rl, start="base", steps=60)),
}
