"""A small R1V3 learns easy-VQA, 38,575 real questions about coloured shapes, in minutes.

    pip install easy-vqa
    python -m r1v3_jax.launch --config=easy_vqa

cold_start  nothing learns to name colour and shape, and to answer
"""

from dataclasses import replace

from r1v3_jax.config import SFT, Evaluate, Optimizer, Run, load_config
from r1v3_jax.tasks import easy_vqa
from r1v3_jax.tasks.easy_vqa import EasyVQA

VOCABULARY = easy_vqa.vocabulary()

# The model of the digits run, with other words and other patches.
digits = load_config("digits").model
MODEL = replace(
    digits,
    text=replace(digits.text, vocab_size=len(VOCABULARY), max_positions=256),
    # 8 x 8 patches of 8 pixels: 16 tokens a picture after the shuffle.
    vision=replace(digits.vision, image_size=64, patch_size=8),
    image_token_id=VOCABULARY.index("<IMG_CONTEXT>"),
    end_token_id=VOCABULARY.index("<|im_end|>"),
    pad_token_id=VOCABULARY.index("<|endoftext|>"),
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
