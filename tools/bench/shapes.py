"""What `python tools/bench` runs on: shapes by name, prompts made up, weights that end samples unevenly.

The first two shapes are those of two peers' baseline scripts, so that each can be compared at its
own.
"""

import dataclasses
import types

import jax
import numpy as np
from flax import nnx
from PIL import Image

from r1v3_jax.config import INTERNVL3_1B, Compute, ModelConfig, TextConfig, VisionConfig
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import Encoded, Processor
from r1v3_jax.types import Example

FIRST_ID = 16  # ids below are special in the models made here


@dataclasses.dataclass(frozen=True)
class Shape:
    """P prompts of `prompt_tokens`, one tile each where the model sees; G samples of each.

    new_tokens: of every sample; with `shortest` the lengths of the samples lie between the two.
    """

    model: ModelConfig
    prompts: int = 4
    group_size: int = 8
    prompt_tokens: int = 64
    new_tokens: int = 128
    shortest: int = 0
    compute: Compute = Compute()
    accumulate: int = 1

    @property
    def tiles(self) -> int:
        return 0 if self.model.vision is None else self.prompts

    def with_vocabulary(self, size: int) -> "Shape":
        text = dataclasses.replace(self.model.text, vocab_size=size)
        return dataclasses.replace(
            self, model=dataclasses.replace(self.model, text=text)
        )


_TEXT = TextConfig(
    vocab_size=4096, embed=256, layers=4, heads=8, kv_heads=4, head_dim=32, mlp=1024
)
_VISION = VisionConfig(
    image_size=224, embed=128, layers=2, heads=4, mlp=512,
    norm="rms_norm", qkv_bias=False, qk_norm=True,
)  # fmt: skip
_LANGUAGE_ONLY = ModelConfig(
    text=_TEXT, vision=None, image_token_id=None, end_token_id=2, pad_token_id=0
)
_WITH_IMAGES = ModelConfig(
    text=dataclasses.replace(_TEXT, kv_heads=2, mlp=704),
    vision=_VISION, image_token_id=5, end_token_id=2, pad_token_id=0, max_tiles=1,
)  # fmt: skip
# The first two are those of the peers' baseline scripts. Remat: what memory asks for.
SHAPES = {
    "tunix": Shape(_LANGUAGE_ONLY),
    "trl": Shape(_WITH_IMAGES, prompt_tokens=150),
    "long_prompt": Shape(
        _LANGUAGE_ONLY, prompts=1, group_size=32, prompt_tokens=1000, compute=Compute(remat="full")
    ),
    # As many samples as a step of R1V3 has.
    "ragged": Shape(
        _LANGUAGE_ONLY, prompts=32, group_size=32, new_tokens=512, shortest=8, accumulate=32
    ),
    "internvl3_1b": Shape(
        INTERNVL3_1B, prompts=32, prompt_tokens=320, new_tokens=512, accumulate=8,
        compute=Compute(dtype="bfloat16", remat="full", logprob_chunk=128),
    ),
}  # fmt: skip


class Processor(Processor):
    """Random ids where a run has text; pictures are cut into tiles as ever."""

    def __init__(self, shape: Shape):
        config = shape.model
        banned = [config.image_token_id] * (config.vision is not None)
        if not shape.shortest:  # every sample runs to its limit, as the peers' do
            banned.append(config.end_token_id)
        tokenizer = types.SimpleNamespace(
            pad_token_id=config.pad_token_id,
            banned_token_ids=tuple(banned),
            decode_all=lambda rows, *, skip_special: [
                " ".join(map(str, ids)) for ids in rows
            ],
        )
        super().__init__(config, tokenizer)
        self.shape = shape

    def prompt(self, example: Example) -> Encoded:
        vocabulary, tiles = self.config.text.vocab_size, self.tiles(example)
        rng = np.random.default_rng(int(example.id))
        ids = rng.integers(
            FIRST_ID, vocabulary // 2, self.shape.prompt_tokens, dtype=np.int32
        )
        if tiles.counts:
            ids[1 : 1 + sum(self._image_tokens(tiles.counts))] = (
                self.config.image_token_id
            )
        ids[-1] = vocabulary - 1  # see `count_down`
        return Encoded(ids, ids, np.zeros(len(ids), bool), tiles)


def example(index: int, shape: Shape) -> Example:
    """Question number `index`: for the shapes of a model that sees, with a picture of noise."""
    if shape.model.vision is None:
        return Example(str(index), (), "", "")
    side = shape.model.vision.image_size
    pixels = np.random.default_rng(index).integers(
        0, 256, (side, side, 3), dtype=np.uint8
    )
    return Example(str(index), (Image.fromarray(pixels),), "", "")


def count_down(model: R1V3, shortest: int, longest: int) -> R1V3:
    """The model with weights by which it samples lengths from `shortest` to `longest`, log-uniform.

    The prompt's last token leads to token n - 1 with a probability of about 1 / n, token r to
    r - 1, and token 1 to the end: n tokens in all, whatever the order in which rows are decoded.
    Layers add nothing to their input, at the price of any layer.
    """
    text, rng = model.config.text, np.random.default_rng(0)
    embedding, head = np.zeros((2, text.padded_vocab, text.embed), np.float32)
    codes = rng.normal(
        size=(longest, text.embed)
    )  # of the tokens that count; almost orthogonal
    codes[:, 0] = 0  # the direction of the prompt's last token
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    counting, lengths = FIRST_ID + np.arange(longest), np.arange(shortest, longest + 1)
    embedding[counting], embedding[text.vocab_size - 1, 0] = codes, 1
    # What the head sees is as long as the square root of its width. After the prompt:
    head[:, 0] = -30
    head[FIRST_ID + lengths - 1, 0] = -np.log(lengths) / text.embed**0.5
    head[counting[1:-1]] += 8 * codes[2:]
    head[model.config.end_token_id] += 8 * codes[1]
    new = {
        ("language", "embedding"): embedding,
        ("language", "head"): head,
        ("language", "blocks", "out"): 0,
        ("language", "blocks", "down"): 0,
    }

    def fill(path, variable):
        if path not in new:
            return variable
        value = variable.get_value()
        array = np.broadcast_to(np.asarray(new[path], value.dtype), value.shape)
        return variable.replace(jax.device_put(array, value.sharding))

    graph, state = nnx.split(model)
    return nnx.merge(graph, nnx.map_state(fill, state))
