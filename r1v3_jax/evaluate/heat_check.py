"""Whether heat maps show where the evidence for an answer lies: on digits, and on noise.

A policy copies the digits of a picture of 2 x 2 in reading order, so the token of place k is about
cell k: place 0 answers "which digit stands top left". Of each such token, the heat of the digit
that stands there, in nats, over the four cells:

    evidence   heat of its own cell less the mean of the other three. Chance 0: a map that knows
               nothing of where evidence lies gives every cell the same. Signed: what makes the
               digit less likely is no evidence for it.
    look       share of |heat| over its own cell, whatever its sign. Chance 0.25.
    look_away  the same share over the same cell, mean over the tokens of the other three places:
               what the cell gets when it is not asked for.

`look` cannot tell a picture from noise: the words before a token say which cell to look at, and
a policy looks there whatever stands there. So the claim "heat lies over the right cell because the
digit does" is tested by `evidence`, and `look` less `look_away` tells how much the question alone
directs.
"""

import dataclasses

import numpy as np

from r1v3_jax.evaluate.image_heat import image_heat
from r1v3_jax.evaluate.statistics import t_interval
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import image_index
from r1v3_jax.types import Example

CELLS = 4
# Pictures that a question is asked about.
PICTURES = ("digits", "noise", "erased")


@dataclasses.dataclass(frozen=True)
class Measures:
    """Of the four places of one question, float[4] each; of an erased picture the first alone."""

    evidence: np.ndarray
    look: np.ndarray
    look_away: np.ndarray  # empty where one place alone was asked about


def measures(heat: np.ndarray) -> Measures:
    """Returns what the heat of K places says, float[K places, 4 cells] in nats; K 4 or 1.

    place 0 gives [3 0 0 1] to the cells: evidence 3 - 1/3, look 3/4
    """
    own = np.diagonal(heat)
    others = (heat.sum(axis=1) - own) / (CELLS - 1)
    size = np.abs(heat)
    total = size.sum(axis=1, keepdims=True)
    # A token that no part of the picture moves looks nowhere more than elsewhere.
    shares = np.where(total > 0, size / np.where(total > 0, total, 1), 1 / CELLS)
    look = np.diagonal(shares)
    look_away = np.empty(0)
    if len(heat) == CELLS:
        look_away = (shares.sum(axis=0) - look) / (CELLS - 1)
    return Measures(evidence=own - others, look=look, look_away=look_away)


def tiles_of(tile: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the pictures of a question: {"digits": float32[1, S, S, 3], "noise": ...}.

    noise: of standard normal numbers, as in the evaluation without images. erased: the digits, with
    the noise in the top left cell alone.
    """
    noise = rng.standard_normal(tile.shape, np.float32)
    half = tile.shape[0] // 2
    erased = tile.copy()
    erased[:half, :half] = noise[:half, :half]
    return {"digits": tile[None], "noise": noise[None], "erased": erased[None]}


def heat_of_question(
    model: R1V3, processor: Processor, example: Example, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns the heat of the four digits that the example's chain begins with, by picture.

    float[4 places, 4 cells] each, of "erased" the place of the erased cell alone. ValueError if the
    picture is not one tile of four tokens.
    """
    # 1. The question, and the chain "47 38 ..." as the answer.
    encoded = processor.supervised(example)
    if len(encoded.tiles) != 1 or processor.config.image_tokens_per_tile != CELLS:
        raise ValueError(
            f"{example.id} has {len(encoded.tiles)} tiles of "
            f"{processor.config.image_tokens_per_tile} tokens; wanted a model with one of "
            f"{CELLS}, as that of configs/digits.py"
        )
    row = np.asarray(encoded.tokens, np.int32)[None]
    index = image_index(row, processor.config.image_token_id)
    labels = [processor.tokenizer.encode_text(x)[0] for x in example.image_labels]
    places = digit_places(row[0], encoded.loss_mask, labels)

    # 2. The heat of its places over the cells of the tile.
    heat = {}
    for name, tiles in tiles_of(encoded.tiles.array[0], rng).items():
        asked = places[:1] if name == "erased" else places
        heat[name] = np.asarray(image_heat(model, row, index, tiles, asked)[0])[:, 0]
    return heat


def digit_places(
    tokens: np.ndarray, loss_mask: np.ndarray, labels: list[int]
) -> np.ndarray:
    """Returns where the four digits stand that an answer begins with, int32[4].

    Chain "47 38 ...": the first two digits, a space, two digits.
    """
    answer = np.flatnonzero(loss_mask)
    places = [int(i) for i in answer if tokens[i] in labels][:CELLS]
    if [int(tokens[i]) for i in places] != [int(label) for label in labels]:
        raise ValueError("the chain does not begin with the digits of the picture")
    return np.asarray(places, np.int32)


def summary(of_questions: list[Measures]) -> dict[str, dict[str, tuple]]:
    """Returns {"top left" or "all places": {measure: (mean, low, high)}} with 95% intervals.

    One number a question: places of one picture are not independent of each other. directed: look
    less look_away.
    """
    chosen = {"top left": slice(0, 1)}
    is_whole = all(len(m.look_away) for m in of_questions)
    if is_whole:
        chosen["all places"] = slice(None)
    out = {}
    for places, part in chosen.items():
        numbers = {
            "evidence": [m.evidence[part].mean() for m in of_questions],
            "look": [m.look[part].mean() for m in of_questions],
        }
        if is_whole:
            numbers["look_away"] = [m.look_away[part].mean() for m in of_questions]
            away = np.asarray(numbers["look_away"])
            numbers["directed"] = np.asarray(numbers["look"]) - away
        out[places] = {name: t_interval(values) for name, values in numbers.items()}
    return out
