"""ReVisual-R1 (arXiv 2506.04207): after a cold start pictures, then words.

Stages: GRPO on pictures, then GRPO on text alone, of the language model alone, with a small KL term
and an entropy bonus that fades; both with a reward for short chains. The claims in small: pictures
and then words are better on pictures than pictures alone or than the other order, and prioritized
advantages (PAD) use a step better than plain GRPO.

    python -m tools.arms --config=recipes/revisual --workdir=runs/revisual

Each arm has 30 steps of 24 x 8 samples behind the cold start: `pictures` and, with PAD, `pad` 30,
`pictures_words` and `words_pictures` 15 and 15.

What differs from the paper: a model of 0.6 M weights; the cold start has pictures and text, theirs
is text; the texts are sums of digits; the bonus is 0.005, as 0.02 takes so small a policy apart; of
the rewards the one for length alone; only `pad` has PAD; no arm with a random half of the samples.

What came out: docs/results/stages.md.
"""

from dataclasses import replace

from r1v3_jax.config import Optimizer, Run, load_config
from r1v3_jax.data import Mixture
from r1v3_jax.losses import Prioritized
from r1v3_jax.losses.schedules import Decay
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import Short, correct, well_formed
from r1v3_jax.tasks.digits import Digits

digits = load_config("digits")
start = {name: digits.stages[name] for name in ("base", "cold_start")}
TEXTS = Digits().mix(sums=1)
# The cold start of `digits` has no texts: without these steps no sum is ever answered.
start["texts"] = replace(
    start["cold_start"],
    train=Mixture(((1, start["cold_start"].train), (1, TEXTS))),
    steps=250,
    optimizer=Optimizer(lr=5e-4, warmup_steps=10, schedule="cosine"),
    validation=None,
    validate_every=0,
)
SHORT = Short(budget=62, slope=0.005, offset=0.5)
pictures = replace(
    digits.stages["grpo"],
    steps=15,
    reward=Reward(((0.8, correct), (0.15, well_formed), (0.05, SHORT))),
    evaluate_every=0,
    checkpoint_every=15,
)
words = replace(
    pictures,
    train=TEXTS,
    trainable="llm",
    max_prompt_tokens=64,
    max_completion_tokens=62,
    kl_coef=2e-3,
    entropy_coef=Decay(0.005, 0.985, after=0.2),
)


def run(**stages) -> Run:
    """The run with these stages behind the cold start."""
    evaluate = replace(
        digits.evaluate,
        sets=(*digits.evaluate.sets[:3], ("words", Digits(seed=7).mix(sums=1))),
        after=tuple(stages),
        questions=1000,
        without_images=False,
        max_prompt_tokens=64,
        select_by="last",
    )
    stages = {**start, **stages}
    return replace(digits, name="revisual", stages=stages, evaluate=evaluate)


config = run(pictures=pictures, words=words)
pad = replace(pictures, sample_weight=Prioritized())
arms = {
    "pictures": run(pictures=pictures, again=pictures),
    "pad": run(pictures=pad, again=pad),
    "pictures_words": config,
    "words_pictures": run(words=words, pictures=pictures),
}
