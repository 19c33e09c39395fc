"""Insight-V (arXiv 2411.14432): one model reasons, another judges what it says and answers.

The reasoner learns a teacher's best chains and is then improved by three rounds of DPO, each on
pairs of its own answers. The judge learns from right and flawed chains: to confirm the one, and to
do the other anew. The claims in small: both together are better than the reasoner alone, and rounds
are better than one.

    python -m tools.arms --config=recipes/insightv --workdir=runs/insightv

Stage `reasonK` is the reasoner alone after round K, `saidK` the judge on what it says, measured
before and after the first and the third round; the table of stages says what each adds. Arms:
`sft_term`, DPO with a generation term, as the released script; `dpo`, without.

What differs from the paper: 0.6 M weights each; the teacher is the digits run's own GRPO; chains
are scored by their equations, an oracle, not by a model; a chain is written in one piece, not in
steps of JSON; 25 steps of 16 pairs a round.

What came out: docs/results/stages.md.
"""

from dataclasses import replace

from r1v3_jax.config import After, Optimizer, Preference, load_config
from r1v3_jax.data import Made, Reworded
from r1v3_jax.distill.keeps import Best, Pairs, Said
from r1v3_jax.losses import Mpo
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import correct, equations_hold, well_formed
from r1v3_jax.tasks.digits import Digits

teacher = load_config("recipes/cold_start_rl")
LEVELS = {"easy": 1, "normal": 1, "hard": 2}
ASKED = Digits(augment=True, styles=(0, 1, 0)).mix(**LEVELS)  # worked chains
HELD_OUT = Digits(split="held_out", seed=1).mix(easy=1, normal=1, hard=1)
scored = Reward(((0.8, correct), (0.2, well_formed), (0.0, equations_hold)))
paths = replace(
    teacher.stages["chains"],
    source=ASKED,
    keep=Best(equations_hold, 1),
    start="teacher",
    questions=1500,
    reward=scored,
)


def as_judge(example):
    """Shows what was said behind the question; confirms it, or works the answer out."""
    said = example.metadata["said"].replace("\n</think>\n\\boxed{", ":").rstrip("}")
    question = f"{example.question} {said.replace('</think>', '')}?"
    confirmed = f" ok\n</think>\n\\boxed{{{example.answer}}}"
    chain = confirmed if example.metadata["right"] else example.chain
    return replace(example, question=question, chain=chain, image_labels=())


sft = replace(teacher.stages["sft"], train=Made("paths", ASKED), steps=300)
flawed = Reworded(Made("flawed", ASKED), as_judge)
judge = replace(sft, train=flawed, steps=400, row_tokens=192)
said = replace(
    paths, source=HELD_OUT, keep=Said(1), questions=1000, samples=1, temperature=0.0
)
asked = replace(paths, keep=Pairs(1), questions=320, samples=6, prompts=40, tiles=40)
dpo = Preference(
    train=Made("asked", ASKED),
    loss=Mpo(1.0, 0.0, 1.0),
    steps=25,
    pairs=16,
    max_prompt_tokens=26,
    max_answer_tokens=62,
    tiles=16,
    optimizer=Optimizer(lr=3e-5, warmup_steps=3),
)
names = ("base", "cold_start", "teacher")
stages = {name: teacher.stages[name] for name in names}
stages |= {"paths": paths, "reason0": sft}
stages |= {"flawed": replace(paths, keep=Said(2), start="reason0"), "judge": judge}
stages |= {"said0": replace(said, start="reason0")}
for k in (1, 2, 3):
    stages[f"asked{k}"] = replace(asked, start=f"reason{k - 1}")
    stages[f"reason{k}"] = replace(dpo, train=Made(f"asked{k}", ASKED))
    if k != 2:
        stages[f"said{k}"] = replace(said, start=f"reason{k}")
after = [After("judge", sets=(("bare", HELD_OUT),))]
for k in (0, 1, 3):
    both = Reworded(Made(f"said{k}", HELD_OUT), as_judge)
    after += [f"reason{k}", After(f"said{k}", sets=(("home", both),), of="judge")]
evaluate = replace(
    teacher.evaluate,
    sets=(("home", HELD_OUT),),
    pooled=(),
    after=tuple(after),
    max_prompt_tokens=96,
)
config = replace(teacher, name="insightv", stages=stages, evaluate=evaluate)
without = {
    f"reason{k}": replace(stages[f"reason{k}"], loss=Mpo(1.0, 0.0, 0.0))
    for k in (1, 2, 3)
}
arms = {"sft_term": config, "dpo": config.with_stages(**without)}
