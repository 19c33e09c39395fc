"""A small language model learns to tell knights from knaves, in text, on a laptop.

    python -m r1v3_jax.launch --config=knights

base        nothing learns to read puzzles and to work them out (stands in for a language model)
cold_start  where the answer goes; seven of ten chains jump to it, as imperfect teachers do. Half of
            the rows are told the rules of a reward, drawn at random, and half of those obey them
grpo        reinforcement with the reward of Logic-RL (arXiv 2502.14768), on bare questions
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
)
from r1v3_jax.losses import TokenMean
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import Formed, Graded
from r1v3_jax.rewards.verifiers.boxes import find_tagged
from r1v3_jax.tasks import knights
from r1v3_jax.tasks.knights import Knights

VOCABULARY = knights.vocabulary()

MODEL = ModelConfig(
    text=TextConfig(
        vocab_size=len(VOCABULARY),
        vocab_multiple=192,
        embed=128,
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=32,
        mlp=384,
        rope_theta=1e4,
        max_positions=512,
    ),
    vision=None,
    image_token_id=None,
    end_token_id=VOCABULARY.index("<|im_end|>"),
    pad_token_id=VOCABULARY.index("<|endoftext|>"),
)

# Logic-RL: an answer in the wrong form counts as one that cannot be read.
ANSWER = Graded(right=2.0, wrong=-1.5, unreadable=-2.0, needs_form=True)
FORM = Formed(right=1.0, wrong=-1.0)

HELD_OUT = Knights(split="held_out", seed=1, brief=True)

config = Run(
    name="knights",
    model=MODEL,
    write_tokenizer=knights.write_tokenizer,
    stages={
        "base": SFT(
            train=Knights(brief=True),
            steps=600,
            rows=12,
            row_tokens=192,
            optimizer=Optimizer(
                lr=3e-3, warmup_steps=50, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=300,
        ),
        "cold_start": SFT(
            train=Knights(seed=2, brief=True, worked=0.3, with_rules=0.5),
            steps=300,
            rows=12,
            row_tokens=192,
            optimizer=Optimizer(
                lr=1e-3, warmup_steps=10, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=150,
        ),
        "grpo": GRPO(
            train=Knights(seed=3, brief=True),
            steps=40,
            prompts=8,
            group_size=8,
            max_prompt_tokens=80,
            max_completion_tokens=96,
            tiles=0,
            reward=Reward(((1.0, ANSWER), (1.0, FORM))),
            aggregation=TokenMean(),
            accumulate=2,
            optimizer=Optimizer(lr=2e-4, warmup_steps=5),
            evaluate_every=5,
            checkpoint_every=20,
        ),
    },
    verify=Verify(answer=find_tagged),
    evaluate=Evaluate(
        sets=(("knights", HELD_OUT),),
        after=("cold_start", "grpo"),
        questions=1000,
        batch=200,
        tiles=0,
        max_prompt_tokens=80,
        max_tokens=112,
        probe=Knights(split="validation", seed=1, brief=True),
        probe_questions=200,
        select_by="accuracy",
    ),
)
