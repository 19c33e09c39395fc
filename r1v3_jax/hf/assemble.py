"""A vision tower, a connector and a language model -> one checkpoint to load.

    assembly = assemble(tower, None, language, tokens, seed=0)
    model = hf.load(assembly)                    # tensor by tensor, like any other checkpoint

Knows parts and what must change about them to fit: rows for new tokens, positions of another image
size, numbers for a connector that nobody trained. Where parts come from is in `halves.py`.
"""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from r1v3_jax.config import Compute, ModelConfig, TextConfig
from r1v3_jax.hf.checkpoint import Checkpoint
from r1v3_jax.hf.halves import Made, Part, Tower, Whole
from r1v3_jax.hf.load import flatten_state
from r1v3_jax.hf.read_config import END_TOKEN, IMAGE_TOKEN
from r1v3_jax.hf.weights import VOCAB, Piece, pieces
from r1v3_jax.models.r1v3 import Connector
from r1v3_jax.processing.new_tokens import NewTokens


def assemble(
    tower: Tower,
    connector: Part | None,
    language: Whole,
    tokens: NewTokens,
    token_ids: dict[str, int],
    *,
    seed: int = 0,
) -> Checkpoint:
    """Returns a checkpoint that `hf.load` reads: each tensor of the parts once, when it is wanted.

    connector: None for random numbers of `seed`; its norm then begins as the tower's final norm, if
    the tower has one. language: a model, of which the language model is taken. tokens: what is
    added to its tokenizer. token_ids: of the tokenizer afterwards, {"<|im_end|>": 151645, ...}.
    ValueError if the parts do not fit.
    """
    config = assembled_config(tower, language, tokens, token_ids)

    # 1. The parts as they are.
    if connector is None:
        connector = random_connector(config, tower, seed)
    _check_connector(connector, tower, language)

    # 2. What changes.
    vision = resized_positions(tower)
    words = with_new_rows(language.part("language"), config.text, tokens)

    # 3. All of it.
    parts = (vision, connector, words)
    chosen = [piece for part in parts for piece in part.pieces]
    tensors = {}
    for part in parts:
        tensors |= part.tensors
    wanted = [piece.param for piece in pieces(config, "original")]
    # One tensor more or less than the model has parameters is a fault of this program.
    assert len(tensors) == len(chosen)
    assert {piece.param for piece in chosen} == set(wanted)
    origin = Path(f"{vision.origin} with {words.origin}")
    return Checkpoint(origin, config, "original", chosen, tensors)


def assembled_config(
    tower: Tower, language: Whole, tokens: NewTokens, token_ids: dict[str, int]
) -> ModelConfig:
    """Returns the config of the whole. ValueError if the tokenizer does not fit the rows."""
    text = language.config.text
    if tokens.kept > text.vocab_size:
        origin = language.part("language").origin
        raise ValueError(
            f"{origin}: its tokenizer has {tokens.kept} tokens and its embedding "
            f"{text.vocab_size} rows; take the tokenizer that the model was trained with"
        )
    # As InternVL does it: rows of padding behind the last token give way to new tokens.
    if tokens.ids:
        vocab_size = tokens.kept + len(tokens.ids)
        text = dataclasses.replace(text, vocab_size=vocab_size)
    end = token_ids[END_TOKEN]
    pad = language.config.pad_token_id
    return ModelConfig(
        text=text,
        vision=tower.config,
        image_token_id=token_ids[IMAGE_TOKEN],
        end_token_id=end,
        pad_token_id=pad if pad < text.vocab_size else end,
    )


def _check_connector(connector: Part, tower: Tower, language: Whole) -> None:
    """Raises ValueError if a connector joins a tower and a language model of other widths."""
    (up,) = (p for p in connector.pieces if p.param == "connector.up")
    width, vision_width = up.shape[0], up.shape[1] // 4
    wanted = (tower.config.embed, language.config.text.embed)
    if (vision_width, width) != wanted:
        raise ValueError(
            f"the connector in {connector.origin} joins a tower of width {vision_width} to a "
            f"language model of width {width}, and these have {wanted[0]} and {wanted[1]}; take "
            "halves of its widths, or --connector=random and train it"
        )


def is_same_tower(a: Part, b: Part) -> bool:
    """Returns whether two towers begin with the same numbers, in float32.

    Compared are the patch embedding and the class token: training changes both, and they are small.
    """
    for param in ("vision.patch", "vision.class_token"):
        one = a.read_ours(param).astype(np.float32)
        two = b.read_ours(param).astype(np.float32)
        if one.shape != two.shape or not np.array_equal(one, two):
            return False
    return True


# -------------------------------------------------------------------------------------------------
# positions


def resized_positions(tower: Tower) -> Part:
    """Returns the tower's part with its position embedding at the wanted image size."""
    side = math.isqrt(tower.config.patches)
    if side == tower.side:
        return tower.part
    (old,) = (p for p in tower.part.pieces if p.param == "vision.position")
    new = dataclasses.replace(old, sizes={**old.sizes, "t": 1 + side * side})
    stored = tower.part.tensors[old.name]

    def make() -> np.ndarray:
        return resize_grid(stored.read(), side)

    made = Made(new.shape, stored.dtype, make)
    return dataclasses.replace(
        tower.part,
        pieces=[new if piece is old else piece for piece in tower.part.pieces],
        tensors={**tower.part.tensors, old.name: made},
    )


def resize_grid(position: np.ndarray, side: int) -> np.ndarray:
    """Resizes a position embedding: float[1, 1 + S*S, C] -> float[1, 1 + side*side, C].

    The class token's position stays. The grid is resampled as InternViT's and DINOv2's own code
    do it: torch's bicubic interpolation (a = -0.75, half-pixel centres, no antialiasing).
    """
    old_side = math.isqrt(position.shape[1] - 1)
    grid = position[0, 1:].astype(np.float64).reshape(old_side, old_side, -1)
    matrix = cubic_matrix(old_side, side)
    grid = np.einsum("ai,bj,ijc->abc", matrix, matrix, grid, optimize=True)
    grid = grid.reshape(1, side * side, -1).astype(position.dtype)
    return np.concatenate([position[:, :1], grid], axis=1)


def cubic_matrix(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """Returns float64[new, old]: how bicubic interpolation mixes `old` samples into `new`.

    37 -> 16: the centre of sample 0 is at (0 + 0.5) * 37 / 16 - 0.5 = 0.66, between samples 0 and
    1; its four neighbours are -1, 0, 1, 2, and -1 is sample 0 again.
    """
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        left = math.floor(centre)
        for j in range(left - 1, left + 3):
            distance = abs(centre - j)
            if distance <= 1:
                weight = ((a + 2) * distance - (a + 3)) * distance**2 + 1
            else:
                weight = a * (((distance - 5) * distance + 8) * distance - 4)
            matrix[i, min(max(j, 0), old - 1)] += weight
    return matrix


# -------------------------------------------------------------------------------------------------
# rows


def with_new_rows(part: Part, text: TextConfig, tokens: NewTokens) -> Part:
    """Returns the language model's part with a row for each new token, at the mean of the old.

    So begin InternVL's. Such a row's logit is the mean of the others', so it is never the largest
    one: greedy text stays what it was. Rows of padding are left out.
    """
    if not tokens.ids:
        return part
    changed: dict[str, Piece] = {}
    tensors = dict(part.tensors)
    for piece in part.pieces:
        if piece.param not in VOCAB:
            continue
        new = dataclasses.replace(piece, sizes={**piece.sizes, "v": text.vocab_size})
        stored = part.tensors[piece.name]
        make = functools.partial(_extended, stored, tokens.kept, len(tokens.ids))
        changed[piece.name] = new
        tensors[piece.name] = Made(new.shape, stored.dtype, make)
    chosen = [changed.get(piece.name, piece) for piece in part.pieces]
    return dataclasses.replace(part, pieces=chosen, tensors=tensors)


def _extended(stored, kept: int, added: int) -> np.ndarray:
    rows = stored.read()[:kept]
    mean = rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
    return np.concatenate([rows, np.tile(mean, (added, 1))])


# -------------------------------------------------------------------------------------------------
# a connector that nobody trained


def random_connector(config: ModelConfig, tower: Tower, seed: int) -> Part:
    """Returns a connector of random numbers.

    A tower that ends in a norm (DINOv2) gives its weight and bias to the connector's norm, once for
    each of the four patches that are merged: InternViT has no norm there, and the connector's own
    stands in the same place.
    """
    chosen = [x for x in pieces(config, "original") if x.param.startswith("connector.")]

    @functools.cache
    def arrays() -> dict[str, jax.Array]:
        init = jax.jit(lambda: Connector(config, Compute(), nnx.Rngs(seed)))
        return flatten_state(nnx.state(init()))

    def make(piece: Piece) -> np.ndarray:
        name = piece.param.removeprefix("connector.")
        if tower.final_norm is not None and name in ("norm", "norm_bias"):
            return np.tile(tower.final_norm[name == "norm_bias"].read(), 4)
        return piece.to_file(np.asarray(arrays()[name]))

    # It has the number format of the tower that it stands behind.
    dtype = next(iter(tower.part.tensors.values())).dtype
    tensors = {
        piece.name: Made(piece.shape, dtype, functools.partial(make, piece))
        for piece in chosen
    }
    return Part("random", chosen, tensors)
