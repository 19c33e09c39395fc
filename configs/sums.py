"""A small language model learns to add columns of numbers, in text alone.

    python -m r1v3_jax.launch --config=sums

cold_start  chains of thought from nothing; 15% of them end in a loop, 25% jump to the answer
grpo        reinforcement learning

A start for recipes about chains that loop or grow: `configs/recipes/miromind.py`.
"""

from r1v3_jax.config import (
    GRPO,
    SFT,
    Evaluate,
    ModelConfig,
    Optimizer,
    Run,
    TextConfig,
)
from r1v3_jax.losses import Clipped, TokenMean
from r1v3_jax.tasks import sums

VOCABULARY = sums.vocabulary()

MODEL = ModelConfig(
    text=TextConfig(
        vocab_size=len(VOCABULARY),
        vocab_multiple=128,
        embed=96,
        layers=3,
        heads=3,
        kv_heads=3,
        head_dim=32,
        mlp=256,
        rope_theta=1e4,
        max_positions=256,
    ),
    vision=None,
    image_token_id=None,
    end_token_id=VOCABULARY.index("<|im_end|>"),
    pad_token_id=VOCABULARY.index("<|endoftext|>"),
    architecture="SkyworkR1VChatModel",
)

TEACHER = sums.Sums(looping=0.15, jumping=0.25)
SEEN = sums.Sums(seed=1)
HELD_OUT = sums.Sums(split="held_out", seed=2)
# Not of the held-out split: what is tuned by the probe is not tuned on the questions that count.
PROBE = sums.Sums(seed=3)

config = Run(
    name="sums",
    model=MODEL,
    write_tokenizer=sums.write_tokenizer,
    stages={
        "cold_start": SFT(
            train=TEACHER.mix(short=3, long=1),
            steps=1200,
            rows=8,
            row_tokens=160,
            tiles=0,
            optimizer=Optimizer(
                lr=4e-3, warmup_steps=50, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=400,
        ),
        "grpo": GRPO(
            train=SEEN.mix(short=3, long=1),
            steps=40,
            prompts=12,
            group_size=8,
            max_prompt_tokens=32,
            max_completion_tokens=64,
            tiles=0,
            aggregation=TokenMean(),
            loss=Clipped(high=0.28),
            optimizer=Optimizer(lr=2e-4, warmup_steps=5),
            evaluate_every=5,
            checkpoint_every=20,
        ),
    },
    evaluate=Evaluate(
        sets=(
            ("short", HELD_OUT.mix(short=1)),
            ("long", HELD_OUT.mix(long=1)),
        ),
        pooled=(("sums", ("short", "long")),),
        questions=500,
        batch=250,
        tiles=0,
        max_prompt_tokens=32,
        max_tokens=64,
        probe=PROBE.mix(short=1, long=1),
        probe_questions=250,
        select_by="accuracy",
    ),
)
