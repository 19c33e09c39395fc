"""Writes the logits of one prompt, to compare this program with another.

python tools/logits.py --hf=DIR --prompt="What is this?" --image=cat.png --out=logits.npz

The prompt is one user turn in the checkpoint's chat format, one <image> marker per image (in front
if the text has none). Each image may have all the tiles of the configuration, as in Skywork-R1V's
inference script, in transformers and in vLLM; in training the images of a prompt share them. The
file holds tokens int32[T], tiles float32[I, S, S, 3] and logits float32[T, V].
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from r1v3_jax import cli, hf
from r1v3_jax.config import Compute
from r1v3_jax.hf.checkpoint import Checkpoint
from r1v3_jax.processing import image_files, tiling
from r1v3_jax.processing.tokenizer import check_prompt_length, image_index, load
from r1v3_jax.sharding import TRAIN

HF = flags.DEFINE_string(
    "hf", None, "Hugging Face checkpoint directory.", required=True
)
PROMPT = flags.DEFINE_string("prompt", None, "The user's turn.", required=True)
IMAGE = flags.DEFINE_multi_string(
    "image", [], "Image file; may be given several times."
)
OUT = flags.DEFINE_string("out", None, "The .npz file to write.", required=True)
DTYPE = flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "Default: as stored.")
ROPE_IMPL = cli.define_rope_impl()
MESH = cli.define_mesh()


def main():
    # 1. Everything that can be wrong, before weights are loaded.
    path = Path(OUT.value)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path.parent}: no such directory to write {path.name} in"
        )
    source = Checkpoint.open(HF.value)
    config = source.config
    if config.vision is None and IMAGE.value:
        raise ValueError(
            f"{HF.value} is a language model without a vision tower; leave out --image"
        )
    images = [image_files.open_image(image) for image in IMAGE.value]
    tokenizer = load(HF.value, text_only=config.vision is None)
    tokenizer.check_model(config)
    row, tiles, counts = encode(config, tokenizer, images)

    # 2. The logits. One row and its few tiles go to every device; only the weights are split.
    index = image_index(row, config.image_token_id) if counts else None
    dtype = DTYPE.value or source.dtype()
    rules = dataclasses.replace(TRAIN, batch=None, tiles=None)
    compute = Compute(dtype=dtype, param_dtype=dtype, rules=rules)
    with cli.set_mesh(MESH):
        model = hf.load(source, compute=compute, rope_impl=ROPE_IMPL.value)
        logits = np.asarray(forward(model, row, index, tiles))
    # Rows of padding in the vocabulary are no tokens.
    logits = logits[0, :, : config.text.vocab_size]

    # 3. The file. Given a name, np.savez would add .npz to another suffix.
    with path.open("wb") as file:
        np.savez(file, tokens=row[0], tiles=tiles, logits=logits)
    print(
        f"{OUT.value}: {row.shape[1]} tokens, {sum(counts)} tiles, logits {list(logits.shape)}"
    )


def encode(config, tokenizer, images) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Encodes the user's turn as (int32[1, T], float32[I, S, S, 3], tiles of each image)."""
    # Each image may have all the tiles, as in the programs to compare with.
    size = config.vision.image_size if config.vision else 1
    tiles, counts = tiling.tile_images(
        images, tile_size=size, max_tiles=config.max_tiles, share=False
    )
    # InternVL3 has 256 tokens a tile: an image of 4 tiles and a thumbnail has 1280.
    image_tokens = [count * config.image_tokens_per_tile for count in counts]
    messages = [{"role": "user", "content": PROMPT.value}]
    prompt = tokenizer.encode_prompt(messages, image_tokens)
    check_prompt_length(len(prompt), config.text.max_positions)
    return np.asarray([prompt], np.int32), tiles, counts


@jax.jit
def forward(model, row, index, tiles):
    positions = jnp.arange(row.shape[1])[None]
    segment_ids = jnp.ones_like(row)
    image_embeddings = None if index is None else model.encode_images(tiles)
    return model.logits(model(row, positions, segment_ids, image_embeddings, index))


if __name__ == "__main__":
    cli.run(main)
