"""GRPO of InternVL3-1B on one GPU with 80 GB or more.

    python -m r1v3_jax.launch --config=gpu_h200 --workdir=DIR

Wants checkpoints/InternVL3-1B, data/grpo.jsonl and data/probe.jsonl. Attention
computes whole rows here, so that rows are short and few at a time; --config.compute.attention=cudnn
does without. Not run: docs/gpu.md.
"""

from r1v3_jax.config import GRPO, INTERNVL3_1B, Compute, Evaluate, Optimizer, Run
from r1v3_jax.data import Rows
from r1v3_jax.losses import Clipped

config = Run(
    name="gpu_h200",
    model=INTERNVL3_1B,
    compute=Compute(dtype="bfloat16", remat="full"),
    init_from="checkpoints/InternVL3-1B",
    # InternVL3's own template does not open a thought.
    system="Reason step by step, close your reasoning with </think>, and put the final answer in "
    "\\boxed{}.",
    opening="<think>\n",
    stages={
        "grpo": GRPO(
            train=Rows("data/grpo.jsonl"),
            steps=200,
            prompts=16,
            group_size=8,
            max_prompt_tokens=3584,
            max_completion_tokens=1536,
            tiles=16 * 16,
            accumulate=16,  # 8 rows at a time
            prompt_parts=16,  # one prompt, and its tiles, at a time
            loss=Clipped(high=0.28),
            optimizer=Optimizer(lr=1e-6),
            evaluate_every=20,
            checkpoint_every=20,
        ),
    },
    evaluate=Evaluate(
        probe=Rows("data/probe.jsonl"),
        probe_questions=64,
        batch=16,
        tiles=16 * 16,
        max_prompt_tokens=3584,
        max_tokens=1536,
    ),
)
