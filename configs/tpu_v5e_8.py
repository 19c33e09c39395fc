"""GRPO of InternVL3-1B on eight v5e chips, one host: what to try before a pod.

    python -m r1v3_jax.launch --config=tpu_v5e_8 --workdir=DIR
    python -m r1v3_jax.launch --config=tpu_v5e_8 --dry_run

Wants checkpoints/InternVL3-1B, data/grpo.jsonl and data/probe.jsonl. Memory and
time: docs/results/pod.md.
"""

from r1v3_jax.config import GRPO, INTERNVL3_1B, Compute, Evaluate, Optimizer, Run
from r1v3_jax.data import Rows
from r1v3_jax.losses import Clipped

config = Run(
    name="tpu_v5e_8",
    model=INTERNVL3_1B,
    compute=Compute(dtype="bfloat16", remat="attention", attention="splash"),
    # Decoding splits the weights over pairs of chips: 2.9 s a step, with (8, 1, 1) 4.1 s.
    mesh=(4, 2, 1),
    topology="v5e:2x4",
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
            max_prompt_tokens=4096,
            max_completion_tokens=2048,
            tiles=16 * 16,
            accumulate=16,  # 8 rows at a time, one a chip
            prompt_parts=16,  # a prompt of each chip, and two of its tiles, at a time
            loss=Clipped(high=0.28),
            optimizer=Optimizer(lr=1e-6),
            evaluate_every=20,
            checkpoint_every=20,
        ),
    },
    evaluate=Evaluate(
        probe=Rows("data/probe.jsonl"),
        probe_questions=64,
        batch=64,
        tiles=64 * 16,
        max_prompt_tokens=4096,
        max_tokens=2048,
    ),
)
