r"""Halves that were pretrained apart learn to reason about pictures: DINOv2-S and SmolLM2-135M.

    bash launch/local/real_halves.sh --out=halves
    pip install easy-vqa
    python tools/assemble.py --vision=halves/dinov2-s --language=halves/smollm2-135m \
        --image_size=112 --out=halves/joined
    python -m r1v3_jax.launch --config=transfer

warm_up     only the connector learns, to be understood: what is in the picture, without a chain
cold_start  language model and connector learn chains of thought
grpo        reinforcement learning; its hard sums were in no stage before it
connector   only the connector learns, on digits by other writers

Sized for two cores in a few hours (estimated from the arithmetic of its tokens, not run).
"""

import dataclasses
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
from r1v3_jax.tasks.easy_vqa import EasyVQA

MODEL = ModelConfig(
    # SmolLM2-135M-Instruct, with InternVL's nine tokens behind its 49,152.
    text=TextConfig(
        vocab_size=49161,
        embed=576,
        layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        mlp=1536,
        norm_eps=1e-5,
        qkv_bias=False,
        tie_embeddings=True,
        rope_theta=1e5,
        max_positions=8192,
    ),
    # DINOv2-S: 8 x 8 patches of 14 pixels, 16 tokens a picture after the shuffle.
    vision=VisionConfig(
        image_size=112, patch_size=14, embed=384, layers=12, heads=6, mlp=1536
    ),
    image_token_id=49154,
    end_token_id=2,
    pad_token_id=2,
    max_tiles=1,
)

# Chains show their work; `direct` ones and slips are a matter of the digits run.
STEPWISE = (0, 1, 0)
SEEN = digits.Digits(augment=True, styles=STEPWISE)
HELD_OUT = digits.Digits(split="held_out", seed=1, styles=STEPWISE)
OTHERS = digits.Digits(domain="second", augment=True, styles=STEPWISE)
OTHERS_HELD_OUT = digits.Digits(
    domain="second", split="held_out", seed=1, styles=STEPWISE
)
SHAPES = EasyVQA()
SHAPES_HELD_OUT = EasyVQA(split="held_out")
MOST_FREQUENT_SHAPES_ANSWER = 3611 / 9673  # "yes"


def alternate(*sources):
    """index -> example, from each source in turn; one named twice comes twice as often."""
    return unlabelled(lambda index: sources[index % len(sources)](index))


def unlabelled(source):
    """index -> example without the names of its digits: a digit is four image tokens here."""
    return lambda index: dataclasses.replace(source(index), image_labels=())


warm_up = SFT(
    train=alternate(SEEN.mix(read=1), SHAPES),
    steps=200,
    rows=8,
    row_tokens=256,
    tiles=32,
    trainable="connector",
    optimizer=Optimizer(lr=2e-3, warmup_steps=20, schedule="cosine"),
    checkpoint_every=50,
)
config = Run(
    name="transfer",
    model=MODEL,
    init_from="halves/joined",
    system="You are a helpful assistant.",
    opening="<think>\n",
    stages={
        "warm_up": warm_up,
        "cold_start": dataclasses.replace(
            warm_up,
            train=alternate(SEEN.mix(easy=1, normal=2), SHAPES),
            trainable="llm+connector",
            optimizer=Optimizer(lr=2e-4, warmup_steps=20, schedule="cosine"),
        ),
        "grpo": GRPO(
            train=alternate(SEEN.mix(normal=1, hard=2), SHAPES),
            steps=40,
            prompts=8,
            group_size=8,
            max_prompt_tokens=64,
            max_completion_tokens=56,
            tiles=8,
            trainable="llm+connector",
            aggregation=TokenMean(),
            loss=Clipped(high=0.28),
            optimizer=Optimizer(lr=1e-5, warmup_steps=5),
            evaluate_every=20,
            checkpoint_every=10,
        ),
        "connector": dataclasses.replace(
            warm_up,
            train=alternate(OTHERS.mix(easy=1, normal=2), SEEN.mix(normal=1), SHAPES),
            steps=80,
            optimizer=Optimizer(lr=3e-4, warmup_steps=5, schedule="cosine"),
            checkpoint_every=40,
        ),
    },
    evaluate=Evaluate(
        sets=(
            ("shapes", SHAPES_HELD_OUT),
            ("normal", unlabelled(HELD_OUT.mix(normal=1))),
            ("hard", unlabelled(HELD_OUT.mix(hard=1))),
            ("second", unlabelled(OTHERS_HELD_OUT.mix(easy=1, normal=1))),
        ),
        after=("warm_up", "cold_start", "grpo", "connector"),
        answer_prior=(
            ("shapes", MOST_FREQUENT_SHAPES_ANSWER),
            ("normal", mean(digits.answer_prior("normal").values())),
            ("hard", mean(digits.answer_prior("hard").values())),
        ),
        questions=200,
        batch=100,
        tiles=100,
        max_prompt_tokens=64,
        max_tokens=64,
        probe=unlabelled(HELD_OUT.mix(normal=1, hard=1)),
        probe_questions=50,
        select_by="accuracy",
    ),
)
