"""GRPO of InternVL3-2B on eight v6e chips, one host: tpu_v5e_8 with a larger model.

    python -m r1v3_jax.launch --config=tpu_v6e_8 --workdir=DIR
    python -m r1v3_jax.launch --config=tpu_v6e_8 --dry_run

Wants checkpoints/InternVL3-2B, data/grpo.jsonl and data/probe.jsonl. Memory and time:
docs/results/pod.md.
"""

import dataclasses

from r1v3_jax.config import INTERNVL3_2B, load_config

small = load_config("tpu_v5e_8")
config = dataclasses.replace(
    small,
    name="tpu_v6e_8",
    model=INTERNVL3_2B,
    init_from="checkpoints/InternVL3-2B",
    topology="v6e:2x4",
    # Decoding splits the weights over pairs of chips: 4.1 s a step, with (8, 1, 1) 5.9 s.
    mesh=(4, 1, 2),
)
