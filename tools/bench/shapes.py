"""What `python tools/bench` runs on: shapes by name, made-up prompts, weights of uneven samples.

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
from r1v3_jax.processing.processor import Encoded, EncodedPair, Processor
from r1v3_jax.types import Example

FIRST_ID = 16  # ids below are special in the models made here


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model, and the sizes of a step."""

    model: ModelConfig
    prompts: int = 4  # P; with one tile each if the model has a vision tower
    group_size: int = 8  # G, samples of a prompt
    prompt_tokens: int = 64
    new_tokens: int = 128  # of every sample, or of the longest
    shortest: int = 0  # sample; 0: all are equally long
    # Of a lognormal law of lengths, cut at both ends; 0: log-uniform between them.
    median: float = 0.0
    sigma: float = 0.0
    compute: Compute = Compute()
    accumulate: int = 1

    @property
    def tiles(self) -> int:
        return 0 if self.model.vision is None else self.prompts

    def with_vocabulary(self, size: int) -> "Shape":
        """Returns the shape with another vocabulary."""
        text = dataclasses.replace(self.model.text, vocab_size=size)
        model = dataclasses.replace(self.model, text=text)
        return dataclasses.replace(self, model=model)


_TEXT = TextConfig(
    vocab_size=4096, embed=256, layers=4, heads=8, kv_heads=4, head_dim=32, mlp=1024
)
_VISION = VisionConfig(
    image_size=224,
    embed=128,
    layers=2,
    heads=4,
    mlp=512,
    norm="rms_norm",
    qkv_bias=False,
    qk_norm=True,
)
_LANGUAGE_ONLY = ModelConfig(
    text=_TEXT, vision=None, image_token_id=None, end_token_id=2, pad_token_id=0
)
_WITH_IMAGES = ModelConfig(
    text=dataclasses.replace(_TEXT, kv_heads=2, mlp=704),
    vision=_VISION,
    image_token_id=5,
    end_token_id=2,
    pad_token_id=0,
    max_tiles=1,
)
SHAPES = {
    # Of tunix_baseline.py and trl_baseline.py.
    "tunix": Shape(_LANGUAGE_ONLY),
    "trl": Shape(_WITH_IMAGES, prompt_tokens=150),
    # Many samples that share a long prompt; it is recomputed to save memory.
    "long_prompt": Shape(
        _LANGUAGE_ONLY,
        prompts=1,
        group_size=32,
        prompt_tokens=1000,
        compute=Compute(remat="full"),
    ),
    # Pairs of answers of about 100 tokens to long prompts, for --parts=pairs.
    "pairs": Shape(
        _LANGUAGE_ONLY,
        prompts=4,
        group_size=2,
        prompt_tokens=1000,
        new_tokens=110,
        compute=Compute(remat="full"),
    ),
    # As many samples as a step of R1V3 has, of uneven lengths.
    "ragged": Shape(
        _LANGUAGE_ONLY,
        prompts=32,
        group_size=32,
        new_tokens=512,
        shortest=8,
        accumulate=32,
    ),
    # Lengths as reasoners have them: R1V3's median of 2,400 tokens with sigma 0.8 and its limit of
    # 8,192, a sixteenth as long.
    "lengths": Shape(
        _LANGUAGE_ONLY,
        prompts=16,
        group_size=16,
        new_tokens=512,
        shortest=8,
        median=150.0,
        sigma=0.8,
        accumulate=8,
    ),
    # A quarter of the samples, half as long: a step of a few seconds, as `carried` makes many.
    "short_lengths": Shape(
        _LANGUAGE_ONLY,
        prompts=8,
        group_size=8,
        new_tokens=256,
        shortest=8,
        median=75.0,
        sigma=0.8,
        # Small micro-batches: an update costs what was sampled.
        accumulate=8,
    ),
    # A real model, for one accelerator.
    "internvl3_1b": Shape(
        INTERNVL3_1B,
        prompts=32,
        prompt_tokens=320,
        new_tokens=512,
        accumulate=8,
        compute=Compute(dtype="bfloat16", remat="full", logprob_chunk=128),
    ),
}


class RandomProcessor(Processor):
    """Encodes questions as random ids; pictures are cut into tiles as in a run."""

    def __init__(self, shape: Shape):
        config = shape.model
        banned = []
        if config.vision is not None:
            banned.append(config.image_token_id)
        if not shape.shortest:  # every sample runs to its limit, as the peers' do
            banned.append(config.end_token_id)
        tokenizer = types.SimpleNamespace(
            pad_token_id=config.pad_token_id,
            banned_token_ids=tuple(banned),
            decode_all=decode_all,
        )
        super().__init__(config, tokenizer)
        self.shape = shape

    def prompt(self, example: Example) -> Encoded:
        """Encodes a question: ids by its number, image tokens in front."""
        vocabulary = self.config.text.vocab_size
        length = self.shape.prompt_tokens
        tiles = self.tiles(example)
        rng = np.random.default_rng(int(example.id))
        ids = rng.integers(FIRST_ID, vocabulary // 2, length, dtype=np.int32)
        if tiles.counts:
            image_tokens = sum(self._image_tokens(tiles.counts))
            ids[1 : 1 + image_tokens] = self.config.image_token_id
        ids[-1] = vocabulary - 1  # see `count_down`
        mask = np.zeros(len(ids), bool)
        return Encoded(tokens=ids, labels=ids, loss_mask=mask, tiles=tiles)

    def pair(self, example: Example, *, answer_tokens: int) -> EncodedPair:
        """Encodes a question and two answers of random ids, the rejected one a fifth shorter."""
        rng = np.random.default_rng([int(example.id), 1])
        lengths = (answer_tokens, answer_tokens - answer_tokens // 5)
        chosen, rejected = (
            rng.integers(FIRST_ID, self.config.text.vocab_size // 2, n, dtype=np.int32)
            for n in lengths
        )
        prompt = self.prompt(example)
        return EncodedPair(**vars(prompt), chosen=chosen, rejected=rejected)


def decode_all(rows, *, skip_special: bool) -> list[str]:
    """Writes ids as numbers, where a run has text."""
    return [" ".join(map(str, ids)) for ids in rows]


def example(index: int, shape: Shape) -> Example:
    """Returns question number `index`, with a picture of noise if the model has a vision tower."""
    images = ()
    if shape.model.vision is not None:
        side = shape.model.vision.image_size
        rng = np.random.default_rng(index)
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        images = (Image.fromarray(pixels),)
    return Example(str(index), images, question="", answer="")


def log_probabilities(shape: Shape) -> np.ndarray:
    """Returns log p of the lengths shortest, ..., new_tokens, up to a constant.

    Log-uniform: p is 1 / n. Lognormal: exp(-log(n / median)^2 / 2 sigma^2) / n, and the last length
    has what lies beyond it, as a limit cuts.
    """
    lengths = np.arange(shape.shortest, shape.new_tokens + 1, dtype=np.float64)
    if not shape.sigma:
        return -np.log(lengths)
    # 20 sigma further there is nothing left.
    beyond = np.geomspace(lengths[-1], lengths[-1] * np.exp(20 * shape.sigma), 10_000)
    steps = np.diff(beyond)

    def density(n):
        return np.exp(-(np.log(n / shape.median) ** 2) / (2 * shape.sigma**2)) / n

    weights = density(lengths)
    weights[-1] += np.sum(density(beyond[1:]) * steps)
    return np.log(weights)


def count_down(model: R1V3, shape: Shape) -> R1V3:
    """Returns the model with weights by which it samples the lengths of a shape.

    The prompt's last token leads to token n - 1 with the probability of n tokens
    (`log_probabilities`), token r leads to r - 1, and token 1 to the end. These are n tokens in
    all, whatever the order in which rows are decoded. Layers add nothing to their input, but cost
    what any layer costs.
    """
    text = model.config.text
    longest = shape.new_tokens
    rng = np.random.default_rng(0)
    embedding, head = np.zeros((2, text.padded_vocab, text.embed), np.float32)

    # 1. A direction for each token that counts; almost orthogonal. Direction 0 is that of the
    # prompt's last token.
    codes = rng.normal(size=(longest, text.embed))
    codes[:, 0] = 0
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    counting = FIRST_ID + np.arange(longest)  # ids of the tokens 0, 1, ..., longest - 1
    embedding[counting] = codes
    embedding[text.vocab_size - 1, 0] = 1

    # 2. After the prompt. What the head reads is as long as the square root of its width, so that
    # logits are log p.
    lengths = np.arange(shape.shortest, longest + 1)
    log_p = log_probabilities(shape)
    head[:, 0] = -30
    head[FIRST_ID + lengths - 1, 0] = (log_p - log_p.max()) / text.embed**0.5

    # 3. After token r comes r - 1; after token 1 the end.
    head[counting[1:-1]] += 8 * codes[2:]
    head[model.config.end_token_id] += 8 * codes[1]

    replacements = {
        ("language", "embedding"): embedding,
        ("language", "head"): head,
        ("language", "blocks", "out"): 0,
        ("language", "blocks", "down"): 0,
    }

    def fill(path, variable):
        if path not in replacements:
            return variable
        value = variable.get_value()
        numbers = np.asarray(replacements[path], value.dtype)
        array = np.broadcast_to(numbers, value.shape)
        return variable.replace(jax.device_put(array, value.sharding))

    graph, state = nnx.split(model)
    return nnx.merge(graph, nnx.map_state(fill, state))
