"""A small R1V3 is taught to answer questions about films of real handwritten digits.

    python -m r1v3_jax.launch --config=films

base        nothing learns to see digits, to follow a window and to count up, down and by doubling
            (stands in for a pretrained model)
cold_start  chains of thought; four of ten jump to the answer, and films only count up
grpo        reinforcement learning over the same films

A film is 4 or 5 images of one tile each. L1, L2 and L3 are the levels of SEED-Bench-R1: other
digits, other writers, other writers and other rules than upwards.

It shows the task and every stage. A short try of a model from nothing was at chance
(docs/results/films.md): what is learnt in minutes is `r1v3_jax.tasks.digit_frames`, in the recipes
`video_r1` and `seedbench`.
"""

from r1v3_jax.config import (
    GRPO,
    SFT,
    Evaluate,
    ModelConfig,
    Optimizer,
    Run,
    TextConfig,
    Verify,
    VisionConfig,
)
from r1v3_jax.losses import Clipped, TokenMean
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import Tags, correct
from r1v3_jax.rewards.verifiers.boxes import find_tagged
from r1v3_jax.tasks import films
from r1v3_jax.tasks.film_questions import RULES

VOCABULARY = films.vocabulary()

MODEL = ModelConfig(
    text=TextConfig(
        vocab_size=len(VOCABULARY),
        vocab_multiple=32,
        embed=128,
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=32,
        mlp=384,
        rope_theta=1e4,
        max_positions=512,
    ),
    # A frame is 2 x 2 cells of 2 x 2 patches of 14 pixels: one token a cell after the shuffle.
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

EXACT = films.Films(rules=RULES)
SEEN = films.Films(seed=2, jumps=0.4)
HELD_OUT = films.LEVELS["L1"]
WALKS = ("order", "direction", "where")

config = Run(
    name="films",
    model=MODEL,
    write_tokenizer=films.write_tokenizer,
    stages={
        "base": SFT(
            train=EXACT.mix(),
            steps=2000,
            rows=8,
            row_tokens=192,
            tiles=72,
            optimizer=Optimizer(
                lr=3e-3, warmup_steps=50, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=500,
        ),
        "cold_start": SFT(
            train=SEEN.mix(),
            steps=300,
            rows=8,
            row_tokens=192,
            tiles=72,
            optimizer=Optimizer(
                lr=1e-3, warmup_steps=20, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=150,
        ),
        "grpo": GRPO(
            train=SEEN.mix(),
            steps=30,
            prompts=16,
            group_size=8,
            max_prompt_tokens=96,
            max_completion_tokens=88,
            tiles=80,
            reward=Reward(((0.9, correct), (0.1, Tags()))),
            aggregation=TokenMean(),
            loss=Clipped(high=0.28),
            optimizer=Optimizer(lr=2e-4, warmup_steps=3),
            checkpoint_every=15,
        ),
    },
    verify=Verify(answer=find_tagged),
    evaluate=Evaluate(
        sets=(
            *((kind, HELD_OUT.mix(**{kind: 1})) for kind in WALKS),
            *((level, source.mix(next=1)) for level, source in films.LEVELS.items()),
        ),
        pooled=(("walks", WALKS),),
        after=("cold_start", "grpo"),
        questions=500,
        batch=125,
        tiles=625,
        max_prompt_tokens=96,
        max_tokens=88,
    ),
)
