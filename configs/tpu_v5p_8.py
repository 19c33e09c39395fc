"""GRPO of InternVL3-8B on four v5p chips, one host: what to try before a pod.

    python -m r1v3_jax.launch --config=tpu_v5p_8 --workdir=DIR
    python -m r1v3_jax.launch --config=tpu_v5p_8 --dry_run

Wants checkpoints/InternVL3-8B, data/grpo.jsonl and data/probe.jsonl. Memory and
time: see the README's table.
"""

from r1v3_jax.config import GRPO, Compute, Evaluate, Optimizer, Run
from r1v3_jax.presets import INTERNVL3_8B
from r1v3_jax.sources import Jsonl

config = Run(
    name="tpu_v5p_8",
    model=INTERNVL3_8B,
    compute=Compute(dtype="bfloat16", remat="dots", attention="splash"),
    mesh=(1, 4, 1),
    topology="v5p:2x2x1",
    init_from="checkpoints/InternVL3-8B",
    pipeline=("grpo",),
    grpo=GRPO(
        train=Jsonl("data/grpo.jsonl"),
        steps=200,
        prompts=16,
        group_size=8,
        max_prompt_tokens=4096,
        max_completion_tokens=2048,
        tiles=16 * 16,
        accumulate=16,  # 8 rows at a time, two a chip
        update_tiles=16 * 16,
        clip_high=0.28,
        optimizer=Optimizer(lr=1e-6),
        evaluate_every=20,
        checkpoint_every=20,
    ),
    evaluate=Evaluate(
        probe=Jsonl("data/probe.jsonl"),
        probe_questions=64,
        batch=64,
        tiles=64 * 16,
        max_prompt_tokens=4096,
        max_tokens=2048,
    ),
)
