r"""Halves that were pretrained apart learn to reason about pictures: DINOv2-S and SmolLM2-135M.

    bash launch/local/real_halves.sh --out=halves
    pip install easy-vqa vega_datasets
    python tools/assemble.py --vision=halves/dinov2-s --language=halves/smollm2-135m \
        --image_size=112 --out=halves/joined
    python -m r1v3_jax.launch --config=transfer

warm_up     only the connector learns, to be understood: what is in the picture, without work
cold_start  language model and connector learn chains of thought
grpo        reinforcement learning, on the questions that take several steps
connector   only the connector learns, on digits by other writers

The pictures: easy-VQA's shapes (published questions), grids of handwritten digits, and bar charts
of real tables. With two seeds, and beside more of the cold start in place of reinforcement:

    python -m tools.arms --config=transfer --workdir=runs/transfer --seeds=2

Up to GRPO, with both seeds, it took an hour of one core that others used too, and what came out is
in docs/results/transfer.md. Numbers are bfloat16, for a CPU with bfloat16 units (AMX); on another,
--config.compute.dtype=float32.
"""

import dataclasses
from statistics import mean

import numpy as np
from PIL import Image

from r1v3_jax.config import (
    GRPO,
    SFT,
    After,
    Compute,
    Evaluate,
    ModelConfig,
    Optimizer,
    Run,
    TextConfig,
    VisionConfig,
)
from r1v3_jax.losses import Clipped, TokenMean
from r1v3_jax.tasks import charts, digits
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
DIGITS = digits.Digits(augment=True, styles=STEPWISE)
OTHERS = digits.Digits(domain="second", augment=True, styles=STEPWISE)
CHARTS = charts.Charts()
SHAPES = EasyVQA()
MOST_FREQUENT_SHAPES_ANSWER = 3611 / 9673  # "yes"


def alternate(*sources):
    """index -> example, from each source in turn."""
    return unlabelled(lambda index: sources[index % len(sources)](index))


def unlabelled(source):
    """index -> example without the names of its digits: a digit is four image tokens here."""
    return lambda index: dataclasses.replace(source(index), image_labels=())


def as_noise(source):
    """index -> the same question about noise: what is right without seeing anything."""

    def noisy(index):
        example = source(index)
        pixels = np.random.default_rng(index).integers(0, 256, (112, 112, 3), np.uint8)
        return dataclasses.replace(example, images=(Image.fromarray(pixels),))

    return noisy


SEEN = (
    ("shapes", EasyVQA(split="held_out")),
    (
        "digits",
        unlabelled(digits.Digits(split="held_out", seed=1).mix(easy=1, normal=1)),
    ),
    ("charts", charts.Charts(split="held_out", seed=1).mix(easy=1, normal=1, hard=1)),
)
# Every third of these questions, about noise.
NOISE = ("noise", as_noise(alternate(*(source for _, source in SEEN))))
SECOND = digits.Digits(domain="second", split="held_out", seed=1).mix(easy=1)
WITH_SECOND = (*SEEN, ("second", unlabelled(SECOND)), NOISE)


def constant_answer(module, *levels) -> float:
    """Returns the accuracy of the best constant answer to each kind of question."""
    return mean(mean(module.answer_prior(level).values()) for level in levels)


warm_up = SFT(
    train=alternate(SHAPES, DIGITS.mix(read=1), CHARTS.mix(read=1)),
    steps=36,
    rows=9,
    row_tokens=224,
    tiles=36,
    trainable="connector",
    optimizer=Optimizer(lr=2e-3, warmup_steps=4, schedule="cosine"),
    checkpoint_every=20,
)
cold_start = dataclasses.replace(
    warm_up,
    train=alternate(
        SHAPES,
        DIGITS.mix(read=1, easy=2, normal=1),
        CHARTS.mix(easy=1, normal=1, hard=1),
    ),
    steps=44,
    trainable="llm+connector",
    optimizer=Optimizer(lr=2e-4, warmup_steps=5, schedule="cosine"),
    checkpoint_every=50,
)
grpo = GRPO(
    train=alternate(DIGITS.mix(easy=1, normal=1), CHARTS.mix(normal=1, hard=1), SHAPES),
    steps=5,
    prompts=6,
    group_size=6,
    max_prompt_tokens=56,
    max_completion_tokens=48,
    tiles=6,
    trainable="llm+connector",
    aggregation=TokenMean(),
    loss=Clipped(high=0.28),
    optimizer=Optimizer(lr=5e-5, warmup_steps=1),
    checkpoint_every=10,
)
connector = dataclasses.replace(
    warm_up,
    train=alternate(
        OTHERS.mix(easy=1), DIGITS.mix(easy=1), CHARTS.mix(normal=1), SHAPES
    ),
    steps=8,
    optimizer=Optimizer(lr=3e-4, warmup_steps=3, schedule="cosine"),
)

config = Run(
    name="transfer",
    model=MODEL,
    # Rows are few: what a layer needs for its backward pass is computed again.
    compute=Compute(dtype="bfloat16", products="wide", remat="full"),
    init_from="halves/joined",
    system="You are a helpful assistant.",
    opening="<think>\n",
    stages={
        "warm_up": warm_up,
        "cold_start": cold_start,
        "grpo": grpo,
        "connector": connector,
    },
    evaluate=Evaluate(
        sets=(*SEEN, NOISE),
        after=(
            "warm_up",
            "cold_start",
            "grpo",
            After("connector", sets=WITH_SECOND),
        ),
        without_images=False,
        answer_prior=(
            ("shapes", MOST_FREQUENT_SHAPES_ANSWER),
            ("digits", constant_answer(digits, "easy", "normal")),
            ("charts", constant_answer(charts, "easy", "normal", "hard")),
            ("second", constant_answer(digits, "easy")),
        ),
        questions=90,
        batch=90,
        tiles=90,
        max_prompt_tokens=56,
        max_tokens=48,
        select_by="last",
    ),
)

# Instead of reinforcement: more of the cold start, at the learning rate of reinforcement.
more_sft = dataclasses.replace(cold_start, steps=7, optimizer=grpo.optimizer)
arms = {
    "grpo": config,
    "more_sft": config.with_stages(grpo=more_sft),
}
