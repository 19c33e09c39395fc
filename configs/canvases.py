"""A small R1V3 detects, counts and adds real handwritten digits on a canvas, in minutes.

    python -m r1v3_jax.launch --config=canvases

base        nothing learns to see digits, to box them and to add (stands in for a pretrained model)
cold_start  chains of thought; some skip the work, and most boxes are loose
grpo        reinforcement learning over all three kinds of question, as V-Triune's
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
from r1v3_jax.losses.schedules import Steps
from r1v3_jax.rewards import terms
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.verifiers.boxes import find_tagged
from r1v3_jax.tasks import canvases

VOCABULARY = canvases.vocabulary()

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
    # Patches of 14 pixels, as in InternViT: a digit is 2 x 2 of them, and a canvas 16 tokens.
    vision=VisionConfig(
        image_size=canvases.CANVAS,
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

EXACT = canvases.Canvases()
SEEN = canvases.Canvases(jumps=0.4, loose=0.7)
# All boxes with their labels, each on one of the reference's with half of its area.
HELD_OUT = canvases.Canvases(split="held_out", seed=1, verifier="overlap iou=0.5")

# V-Triune's weights are 1 and 0.1. Its shares of boxes found are logged, and weigh nothing.
REWARD = Reward(
    (
        (1 / 1.1, terms.correct),
        (0.1 / 1.1, terms.Tags()),
        *((0.0, terms.IoU(threshold)) for threshold in (0.5, 0.75, 0.95, 0.99)),
    )
)

config = Run(
    name="canvases",
    model=MODEL,
    write_tokenizer=canvases.write_tokenizer,
    stages={
        "base": SFT(
            train=EXACT.mix(detection=3, counting=1, mathematics=1),
            steps=1200,
            rows=8,
            row_tokens=192,
            tiles=32,
            optimizer=Optimizer(
                lr=3e-3, warmup_steps=50, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=400,
        ),
        "cold_start": SFT(
            train=SEEN.mix(),
            steps=100,
            rows=8,
            row_tokens=192,
            tiles=32,
            optimizer=Optimizer(
                lr=1e-3, warmup_steps=20, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=100,
        ),
        "grpo": GRPO(
            train=SEEN.mix(detection=2, counting=1, mathematics=1),
            steps=30,
            prompts=16,
            group_size=8,
            max_prompt_tokens=40,
            max_completion_tokens=48,
            tiles=16,
            reward=REWARD,
            aggregation=TokenMean(),
            loss=Clipped(high=0.28),
            optimizer=Optimizer(lr=3e-4, warmup_steps=3),
            checkpoint_every=15,
        ),
    },
    # V-Triune goes from 0.85 over 0.95 to 0.99, which boxes on so coarse a grid hardly reach.
    verify=Verify(
        answer=find_tagged, iou=Steps(((0.0, 0.5), (0.1, 0.65), (0.25, 0.8)))
    ),
    evaluate=Evaluate(
        sets=tuple((kind, HELD_OUT.mix(**{kind: 1})) for kind in canvases.KINDS),
        pooled=(("all", canvases.KINDS),),
        after=("cold_start", "grpo"),
        questions=500,
        batch=250,
        tiles=250,
        max_prompt_tokens=40,
        max_tokens=48,
    ),
)
