"""Embodied-R: a frozen model sees, a language model reasons, and its thoughts must bear its answer.

arXiv 2504.12680: a large frozen model describes a film's key frames; a small one reasons about the
words alone. A right answer earns more if its thoughts alone lead a frozen reference to it.

    python -m tools.arms --config=recipes/embodied --workdir=runs/embodied \\
        --metric=said:reward/consistent

consistent    0.2 of the reward for thoughts that lead the reference to the right answer
plain         without

A still camera shows three digits in three to nine frames. `perceiver` reads films aloud and is
frozen; `cold_start` knows words alone, and half of its chains say a wrong result before the right
answer; `reference` has learnt to answer what thoughts say, and is frozen. `said` are the tuned
model's answers to new films, drawn at temperature 1. It is also asked about films in the words of
all frames (*films*, behind `tuning`), of key frames (*films*, behind `said`), and in true words.

Other than in the paper: models of 0.6 M weights from nothing, so that the reference is taught what
an instructed model does by itself; constant weights, those of the released script; key frames by
the difference of pixels.

What came out: docs/results/films.md.
"""

from dataclasses import replace

from r1v3_jax.config import After, Collect, load_config
from r1v3_jax.data import Made, Reworded
from r1v3_jax.data.reworded import described
from r1v3_jax.distill.keeps import Said
from r1v3_jax.rewards.helpers import Consistent, Frozen
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import correct, well_formed
from r1v3_jax.tasks.digit_frames import Frames
from r1v3_jax.tasks.digits import Digits

BOTH = {"ends": 1, "next": 1}
SEEN = Frames(Digits(seed=4), stays=3)
ASKED = Frames(Digits(split="held_out", seed=5), stays=3)
WORDS = replace(SEEN, form="words")
KEY = replace(ASKED, key_frames=True)


def in_words(stage, films):
    """Returns the questions about films, with what a stage said of them in their place."""
    return Reworded(Made(stage, films.mix(**BOTH)), described(heading=""))


short = load_config("recipes/video_r1")
sft = replace(short.stages["cold_start"], steps=500, tiles=1)
slips = replace(WORDS, slipping=0.5).mix(**BOTH)
misled = replace(WORDS, misled=0.5).mix(**BOTH)
seen = Collect(
    SEEN.readings(**BOTH),
    Said(),
    start="perceiver",
    questions=500,
    samples=1,
    prompts=25,
    tiles=225,
    max_prompt_tokens=160,
    max_completion_tokens=32,
    temperature=0.0,
)
asked = replace(seen, source=ASKED.readings(**BOTH), questions=1000)
consistent = Consistent(Frozen(stage="reference"), max_tokens=8, cue="\n\\boxed{")
PLAIN = Reward(((0.7, correct), (0.1, well_formed), (0.0, consistent)))
in_text = {"max_prompt_tokens": 64, "tiles": 1}
tuning = replace(
    short.stages["tuning"],
    train=in_words("seen", SEEN),
    start="cold_start",
    reward=Reward(((0.7, correct), (0.1, well_formed), (0.2, consistent))),
    **in_text,
)
drawn = {"prompts": 125, "max_completion_tokens": 40, "temperature": 1.0}
said = replace(asked, source=in_words("asked", ASKED), start="tuning", reward=PLAIN)
stages = {
    "base": short.stages["base"],
    "perceiver": replace(sft, train=SEEN.readings(**BOTH), tiles=72),
    "seen": seen,
    "asked": asked,
    "key": replace(asked, source=KEY.readings(**BOTH)),
    "cold_start": replace(sft, train=slips, start="base"),
    "reference": replace(sft, train=misled, start="cold_start", steps=200),
    "tuning": tuning,
    "said": replace(said, **drawn, **in_text),
}
exact = replace(ASKED, form="words").mix(**BOTH)
by_key = After("said", sets=(("films", in_words("key", KEY)),), of="tuning")
evaluate = replace(
    short.evaluate,
    sets=(("films", in_words("asked", ASKED)), ("exact", exact)),
    after=(After("tuning"), by_key),
    batch=250,
    **in_text,
)
config = replace(short, name="embodied", stages=stages, evaluate=evaluate)
plain = config.with_stages(tuning=replace(tuning, reward=PLAIN))
arms = {"plain": plain, "consistent": config}
