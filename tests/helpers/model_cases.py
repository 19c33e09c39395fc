"""Checkpoints, prompts and measures that the tests of the model share."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import numpy as np
import torch
import torch_reference as reference
from flax import nnx
from quick_compile import quick_jit

from r1v3_jax import hf
from r1v3_jax.models import build

QWEN2 = {}
QWEN3 = {"qwen3": True, "head_dim": 16}
CASES = {  # tower, language model, its layers, whether the head is the embedding
    "rms qwen2": (reference.rms_vision, QWEN2, 2, False),
    "layer_norm qwen3 tied": (reference.layer_norm_vision, QWEN3, 3, True),
    "rms qwen3": (reference.rms_vision, QWEN3, 3, False),
    "layer_norm qwen2 tied": (reference.layer_norm_vision, QWEN2, 2, True),
}
MAIN_CASES = list(CASES)[:2]  # between them they have every part
VOCAB = reference.VOCAB
IMAGE = reference.IMAGE_TOKEN
END = reference.END_TOKEN


def image(*tiles):
    """The places of an image in a prompt, 4 a tile: -1 - (row of the flattened embeddings)."""
    return [-1 - (4 * tile + i) for tile in tiles for i in range(4)]


# Two images of three tiles and of one, out of these four tiles.
TILES = reference.rng_tiles(4)
PROMPT = [5, 7, *image(0, 1, 2), 8, 6, *image(3), 11, 200, 300, 4]
SHORT = [5, *image(1), 8]
# The shape of nearly every batch, so that programs are shared.
ROWS = 6
LENGTH = 64


# --- checkpoints -------------------------------------------------------------------------------


@functools.cache
def their_model(name):
    vision, text, layers, tie = CASES[name]
    text = reference.text_config(num_hidden_layers=layers, **text)
    return reference.internvl(text, vision(), tie=tie)


def load_case(name, directory):
    """A checkpoint as transformers runs it, as we load it, and its directory."""
    theirs = their_model(name)
    reference.save_hf(theirs, directory)
    ours = hf.load(directory)
    return SimpleNamespace(theirs=theirs, ours=ours, directory=directory)


def with_compute(model, **changes):
    """The same weights, run differently."""
    compute = dataclasses.replace(model.compute, **changes)
    graph, _ = nnx.split(build.abstract(model.config, compute))
    return nnx.merge(graph, nnx.state(model))


# --- inputs ------------------------------------------------------------------------------------


def batch(*rows, shape=(ROWS, LENGTH)):
    """Rows of segments, each a list of ids -> tokens, positions, segment_ids, image_index."""
    ids, positions, segments = np.zeros((3, *shape), np.int32)
    for row, ids_of_segments in enumerate(rows):
        start = 0
        for number, segment in enumerate(ids_of_segments, start=1):
            stop = start + len(segment)
            ids[row, start:stop] = segment
            positions[row, start:stop] = np.arange(len(segment))
            segments[row, start:stop] = number
            start = stop
    tokens = np.where(ids < 0, IMAGE, ids)
    index = np.where(ids < 0, -1 - ids, -1)
    return tokens, positions, segments, index


def prompts(*prompts, length=32):
    """Prompts padded on the right -> tokens, lengths, image_index."""
    rows = [[prompt] for prompt in prompts]
    tokens, _, segments, index = batch(*rows, shape=(len(prompts), length))
    return tokens, segments.sum(axis=1, dtype=np.int32), index


def torch_inputs(ids):
    """A prompt that has the images in order, as transformers takes it."""
    ids = torch.tensor([[IMAGE if i < 0 else i for i in ids]])
    return dict(input_ids=ids, pixel_values=reference.to_pixel_values(TILES))


# --- outputs -----------------------------------------------------------------------------------


@quick_jit
def forward(model, tokens, positions, segment_ids, index, tiles):
    hidden = model(tokens, positions, segment_ids, model.encode_images(tiles), index)
    return model.logits(hidden)


def torch_logits(theirs, ids):
    with torch.no_grad():
        return theirs(**torch_inputs(ids)).logits[0].numpy()


def difference(ours, theirs) -> float:
    ours = np.asarray(ours)
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)))


def weights(model) -> dict[str, jax.Array]:
    flat = nnx.to_flat_state(nnx.state(model))
    return {".".join(path): variable.get_value() for path, variable in flat}


def differences(ours, theirs) -> dict[str, float]:
    """The difference of each weight of two models (or of two gradients)."""
    theirs = weights(theirs)
    pairs = weights(ours).items()
    return {name: difference(value, theirs[name]) for name, value in pairs}
