"""A small R1V3 learns easy-VQA, 38,575 real questions about coloured shapes, in minutes.

    pip install easy-vqa
    python -m r1v3_jax.launch --config=easy_vqa

cold_start  nothing learns to name colour and shape, and to answer
"""

from r1v3_jax.config import (
    SFT,
    Evaluate,
    ModelConfig,
    Optimizer,
    Run,
    TextConfig,
    VisionConfig,
)
from r1v3_jax.tasks import easy_vqa
from r1v3_jax.tasks.easy_vqa import EasyVQA

VOCABULARY = easy_vqa.vocabulary()

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
        max_positions=256,
    ),
    # 8 x 8 patches of 8 pixels: 16 tokens a picture after the shuffle.
    vision=VisionConfig(
        image_size=64,
        patch_size=8,
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

HELD_OUT = EasyVQA(split="held_out")

config = Run(
    name="easy_vqa",
    model=MODEL,
    write_tokenizer=easy_vqa.write_tokenizer,
    stages={
        "cold_start": SFT(
            train=EasyVQA(),
            steps=500,
            rows=8,
            row_tokens=200,
            tiles=40,
            optimizer=Optimizer(
                lr=3e-3, warmup_steps=40, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=250,
        ),
    },
    evaluate=Evaluate(
        sets=(("held_out", HELD_OUT),),
        after=("cold_start",),
        without_images=True,
        questions=500,
        batch=250,
        tiles=250,
        max_prompt_tokens=40,
        max_tokens=16,
    ),
)
