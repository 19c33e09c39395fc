"""A small R1V3 learns to reason about real handwritten digits, through every stage, on a laptop.

    python -m r1v3_jax.launch --config=digits

base        nothing learns to see digits and to add (stands in for InternVL3)
cold_start  chains of thought; four of ten jump to the answer, as imperfect teachers do
grpo        reinforcement learning; its hard questions were never in the stages before it
connector   only the connector learns, on digits by other writers
"""

from statistics import mean

from r1v3_jax.config import (
    GRPO,
    SFT,
    Evaluate,
    ModelConfig,
    Optimizer,
    Run,
    TextConfig,
    VisionConfig,
)
from r1v3_jax.losses import Clipped, TokenMean
from r1v3_jax.tasks import digits

VOCABULARY = digits.vocabulary()

MODEL = ModelConfig(
    text=TextConfig(
        vocab_size=len(VOCABULARY),
        vocab_multiple=128,
        embed=128,
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=32,
        mlp=384,
        rope_theta=1e4,
        max_positions=512,
    ),
    # Patches of 14 pixels, as in InternViT: a digit is 2 x 2 of them, one token after the shuffle.
    vision=VisionConfig(
        image_size=56,
        patch_size=14,
        embed=96,
        layers=2,
        heads=4,
        mlp=384,
        norm="rms_norm",
        qkv_bias=False,
        qk_norm=True,
    ),
    image_token_id=VOCABULARY.index("<IMG_CONTEXT>"),
    end_token_id=VOCABULARY.index("<|im_end|>"),
    pad_token_id=VOCABULARY.index("<|endoftext|>"),
    architecture="SkyworkR1VChatModel",
)

SEEN = digits.Digits(augment=True, styles=(0.4, 0.35, 0.25))
HELD_OUT = digits.Digits(split="held_out", seed=1, styles=(0.4, 0.35, 0.25))
# What the connector learns from, in the style that reinforcement has settled on; two thirds of it
# are the questions of the reinforcement, so that little is lost at home.
OTHERS = digits.Digits(domain="second", augment=True, styles=(0, 1, 0))
OTHERS_HELD_OUT = digits.Digits(
    domain="second", split="held_out", seed=1, styles=(0, 1, 0)
)
HOME = digits.Digits(augment=True, styles=(0, 1, 0)).mix(easy=1, normal=1, hard=2)
HOME_HELD_OUT = digits.Digits(split="held_out", seed=1, styles=(0, 1, 0)).mix(
    easy=1, normal=1, hard=2
)


def alternate(*sources):
    """index -> example, from each source in turn; one named twice comes twice as often."""
    return lambda index: sources[index % len(sources)](index)


# Kinds of a level come equally often, and so do the levels of a set.
PRIOR = {
    level: mean(digits.answer_prior(level).values())
    for level in ("easy", "normal", "hard")
}
POOLED_PRIOR = mean(PRIOR.values())

config = Run(
    name="digits",
    model=MODEL,
    write_tokenizer=digits.write_tokenizer,
    stages={
        "base": SFT(
            train=SEEN.mix(read=2, sums=1),
            steps=600,
            rows=12,
            row_tokens=144,
            tiles=48,
            optimizer=Optimizer(
                lr=3e-3, warmup_steps=50, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=300,
        ),
        "cold_start": SFT(
            train=SEEN.mix(easy=1, normal=2),
            validation=HELD_OUT.mix(easy=1, normal=2),
            steps=1000,
            rows=8,
            row_tokens=160,
            tiles=40,
            optimizer=Optimizer(
                lr=2e-3, warmup_steps=30, schedule="cosine", weight_decay=0.05
            ),
            validate_every=250,
            checkpoint_every=250,
        ),
        "grpo": GRPO(
            train=SEEN.mix(easy=1, normal=1, hard=2),
            steps=90,
            prompts=24,
            group_size=8,
            max_prompt_tokens=26,
            max_completion_tokens=52,  # most chains of the cold start; evaluation allows all
            tiles=24,
            aggregation=TokenMean(),
            loss=Clipped(high=0.28),
            optimizer=Optimizer(lr=2e-4, warmup_steps=5),
            evaluate_every=30,
            checkpoint_every=30,
        ),
        "connector": SFT(
            train=alternate(OTHERS.mix(easy=1, normal=2), HOME, HOME),
            validation=alternate(
                OTHERS_HELD_OUT.mix(easy=1, normal=2), HOME_HELD_OUT, HOME_HELD_OUT
            ),
            steps=300,
            rows=8,
            row_tokens=160,
            tiles=40,
            trainable="connector",
            optimizer=Optimizer(lr=3e-4, warmup_steps=5, schedule="cosine"),
            validate_every=50,
            patience=2,
            checkpoint_every=100,
        ),
    },
    evaluate=Evaluate(
        sets=(
            ("easy", HELD_OUT.mix(easy=1)),
            ("normal", HELD_OUT.mix(normal=1)),
            ("hard", HELD_OUT.mix(hard=1)),
            ("second", OTHERS_HELD_OUT.mix(easy=1, normal=1, hard=1)),
        ),
        answer_prior=(
            *PRIOR.items(),
            *((name, POOLED_PRIOR) for name in ("home", "second")),
        ),
        pooled=(("home", ("easy", "normal", "hard")),),
        questions=500,
        batch=250,
        tiles=250,
        max_prompt_tokens=26,
        max_tokens=62,
        probe=HELD_OUT.mix(normal=1, hard=1),
        probe_questions=250,
        select_by="accuracy",
    ),
)
