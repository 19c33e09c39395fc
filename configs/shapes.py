"""A small R1V3 is taught to measure and to place shapes with labelled sides.

    python -m r1v3_jax.launch --config=shapes

base        nothing learns to see shapes, and to answer all kinds of question in words (stands in
            for a pretrained model)
cold_start  chains of thought about pictures, of areas and places alone; four of ten jump to the
            answer, and three of ten begin with a caption
grpo        reinforcement learning over the same two kinds

The kinds `both`, `largest`, `farthest` and `larger` are never asked about a picture before the
evaluation. It shows the task and every stage; how much is learnt has not been measured. The recipe
`compabench` asks for two skills over digits instead, which are learnt in minutes.
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
from r1v3_jax.data import Mixture
from r1v3_jax.losses import Clipped, TokenMean
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import Tags, captioned, correct, facts
from r1v3_jax.rewards.verifiers.boxes import find_tagged
from r1v3_jax.tasks import shapes
from r1v3_jax.tasks.shapes import Shapes

VOCABULARY = shapes.vocabulary()

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
    # A place is 2 x 2 patches of 14 pixels: one token after the shuffle, 16 a picture.
    vision=VisionConfig(
        image_size=shapes.SIZE,
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

IN_WORDS = Shapes(form="words")
ASKED = ("area", "place", "both", "largest", "farthest", "larger")
SEEN = Shapes(seed=2, captions=0.3, jumps=0.4).mix(area=1, place=1)
HELD_OUT = Shapes(split="held_out", seed=1)
HELD_OUT_WORDS = Shapes(form="words", split="held_out", seed=1)

config = Run(
    name="shapes",
    model=MODEL,
    write_tokenizer=shapes.write_tokenizer,
    stages={
        "base": SFT(
            train=Mixture(
                (
                    (1, Shapes().mix(read=1)),
                    (1, IN_WORDS.mix(**dict.fromkeys(ASKED, 1))),
                )
            ),
            steps=2000,
            rows=8,
            row_tokens=160,
            tiles=16,
            optimizer=Optimizer(
                lr=3e-3, warmup_steps=50, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=500,
        ),
        "cold_start": SFT(
            train=SEEN,
            steps=300,
            rows=8,
            row_tokens=160,
            tiles=24,
            optimizer=Optimizer(
                lr=1e-3, warmup_steps=20, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=150,
        ),
        "grpo": GRPO(
            train=SEEN,
            steps=30,
            prompts=16,
            group_size=8,
            max_prompt_tokens=48,
            max_completion_tokens=48,
            tiles=16,
            # The last two weigh nothing and are logged: how much of what is seen is said.
            reward=Reward(
                ((0.9, correct), (0.1, Tags()), (0.0, captioned), (0.0, facts))
            ),
            aggregation=TokenMean(),
            loss=Clipped(high=0.28),
            optimizer=Optimizer(lr=2e-4, warmup_steps=3),
            checkpoint_every=15,
        ),
    },
    verify=Verify(answer=find_tagged),
    evaluate=Evaluate(
        sets=(
            *((kind, HELD_OUT.mix(**{kind: 1})) for kind in ASKED),
            *(
                (f"{kind}_in_words", HELD_OUT_WORDS.mix(**{kind: 1}))
                for kind in ("area", "place", "both")
            ),
        ),
        pooled=(
            ("trained", ("area", "place")),
            ("beyond", ("largest", "farthest", "larger")),
        ),
        after=("cold_start", "grpo"),
        questions=500,
        batch=250,
        tiles=250,
        max_prompt_tokens=48,
        max_tokens=48,
    ),
)
