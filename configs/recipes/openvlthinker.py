"""OpenVLThinker (arXiv 2503.17352): rounds of chains by the last model, SFT from the base, GRPO.

Each round asks the model of the round before, keeps the shortest right chain of each question, cuts
it at its first word of reflection, learns the chains from the base again, and reinforces on medium,
then on hard questions. The claim in small: each round is better than the last, and three rounds are
better than GRPO without rounds.

    python -m tools.arms --config=recipes/openvlthinker --workdir=runs/openvlthinker

The first round's teacher is the program that writes the cold start of `digits`. Controls, one run:
`grpo` after 60 steps of GRPO (as many as three rounds have) is its stage `first`, and after as many
samples as the rounds draw in all (60 x 192 + 2 x 1,000 x 4 = 19,520) its stage `second`.

What differs from the paper: a model of 0.6 M weights; levels of one task in place of sources by
difficulty; later rounds ask 1,000 questions, of GRPO's own mixture; no reward for a text before the
answer.

What came out: docs/results/stages.md.
"""

from dataclasses import replace

from r1v3_jax.config import Collect, Run, load_config
from r1v3_jax.data import Made
from r1v3_jax.distill.keeps import Shortest
from r1v3_jax.tasks.digit_chains import CRITICAL_WORDS

digits = load_config("digits")
start = {name: digits.stages[name] for name in ("base", "cold_start")}
grpo = replace(
    digits.stages["grpo"], steps=10, evaluate_every=0, checkpoint_every=10, slots=0
)
asked = Collect(
    grpo.train,
    Shortest(1, cut=CRITICAL_WORDS),
    questions=1000,
    samples=4,
    prompts=50,
    tiles=50,
    max_prompt_tokens=26,
    max_completion_tokens=62,
)
sft = replace(
    start["cold_start"], start="base", steps=300, validation=None, validate_every=0
)
rounds = dict(start)
for k in (1, 2, 3):
    if k > 1:  # the model that answers is that of the stage before, hard1 and hard2
        chains = Made(f"chains{k}", grpo.train)
        rounds |= {f"chains{k}": asked, f"sft{k}": replace(sft, train=chains)}
    easier = replace(grpo, train=digits.stages["cold_start"].train)
    rounds |= {f"medium{k}": easier, f"hard{k}": grpo}


def run(stages: dict, after: tuple[str, ...]) -> Run:
    evaluate = replace(
        digits.evaluate,
        sets=digits.evaluate.sets[:3],
        after=after,
        questions=1000,
        without_images=False,
        select_by="last",
    )
    return replace(digits, name="openvlthinker", stages=stages, evaluate=evaluate)


control = {"first": replace(grpo, steps=60), "second": replace(grpo, steps=42)}
config = run(rounds, ("hard1", "hard2", "sft3", "hard3"))
arms = {"grpo": run(start | control, ("first", "second")), "rounds": config}
