"""GRPO of InternVL3-8B on films, on four v5p chips: tpu_v5p_8 with 32 frames a question.

    python -m r1v3_jax.launch --config=tpu_v5p_8_video --workdir=DIR
    python -m r1v3_jax.launch --config=tpu_v5p_8_video --dry_run

A frame is one tile of 256 tokens. Wants checkpoints/InternVL3-8B, data/films.jsonl and
data/films_probe.jsonl, with rows as docs/own_data.md has them under "Films", and PyAV: pip install
-e .[video].
"""

import dataclasses

from r1v3_jax.config import Data, Video, load_config
from r1v3_jax.data import Rows

FRAMES = 32
PROMPT_TOKENS = (
    FRAMES * 256 + 1024
)  # "Frame1: " is three tokens; the rest is the question

images = load_config("tpu_v5p_8")
grpo = images.stages["grpo"]
config = dataclasses.replace(
    images,
    name="tpu_v5p_8_video",
    data=Data(video=Video(frames=FRAMES, max_frames=FRAMES), ahead=32),
    stages={
        "grpo": dataclasses.replace(
            grpo,
            train=Rows("data/films.jsonl"),
            max_prompt_tokens=PROMPT_TOKENS,
            tiles=grpo.prompts * FRAMES,
        )
    },
    evaluate=dataclasses.replace(
        images.evaluate,
        probe=Rows("data/films_probe.jsonl"),
        probe_questions=32,
        batch=16,
        tiles=16 * FRAMES,
        max_prompt_tokens=PROMPT_TOKENS,
    ),
)
