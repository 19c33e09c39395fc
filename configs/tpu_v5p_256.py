"""GRPO as Skywork-R1V3 ran it (arXiv 2507.06167, section 3.3), the 38B on 128 chips.

    python -m r1v3_jax.launch --config=tpu_v5p_256 --workdir=DIR          on every host
    python -m r1v3_jax.launch --config=tpu_v5p_256 --dry_run              anywhere

Wants data/grpo.jsonl and data/probe.jsonl, on a file system that all hosts share, and weights that
have learnt to think: --config.init_from=DIR/cold_start/done, of the run of tpu_v5p_256_sft in DIR.
(checkpoints/InternVL3-38B, the default, is where that one begins.) Memory and time:
docs/results/pod.md.
"""

from r1v3_jax.config import GRPO, R1V3_38B, Compute, Evaluate, Optimizer, Run
from r1v3_jax.data import Rows
from r1v3_jax.losses.schedules import Steps

COMPUTE = Compute(dtype="bfloat16", remat="dots", attention="splash")

config = Run(
    name="tpu_v5p_256",
    model=R1V3_38B,
    compute=COMPUTE,
    # Training: weights in 64 shards, pairs of chips share each layer's work. Decoding: 16 groups of
    # 8 chips, which hold the weights once.
    mesh=(16, 4, 2),
    topology="v5p:4x4x8",
    init_from="checkpoints/InternVL3-38B",
    system="You are a helpful assistant.",  # report, section 6.2
    opening="<think>\n",
    stages={
        "grpo": GRPO(
            train=Rows("data/grpo.jsonl"),
            steps=469,  # one pass through 15,000 questions
            prompts=32,
            group_size=32,
            max_prompt_tokens=4096,  # up to 15 tiles of 256 tokens, and the question
            max_completion_tokens=8192,
            # The report gives the two limits, not when it went from one to the other.
            length_limit=Steps(((0, 4096), (235 / 469, 8192))),
            tiles=512,
            accumulate=16,  # 64 rows at a time, one for each shard
            prompt_parts=4,  # one tile of each chip at a time
            optimizer=Optimizer(lr=1e-5),
            evaluate_every=20,
            checkpoint_every=20,
        ),
    },
    evaluate=Evaluate(
        probe=Rows("data/probe.jsonl"),
        probe_questions=256,
        batch=256,
        tiles=32 * 128,
        max_prompt_tokens=4096,
        max_tokens=8192,
    ),
)
