"""Prompts, settings and ways to sample that the tests of sampling share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch_reference as reference
from flax import nnx
from jax.sharding import NamedSharding
from quick_compile import quick_jit

from r1v3_jax.config import Compute
from r1v3_jax.models import build
from r1v3_jax.sampling import loop
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import DECODE, TRAIN, make_mesh, shardings

IMAGE = reference.IMAGE_TOKEN
END = reference.END_TOKEN
PAD = reference.PAD_TOKEN
VOCAB = reference.VOCAB
PROMPTS = [
    [5, *[IMAGE] * 4, 7, 8],
    [6, 20, 21],
    [30, *[IMAGE] * 8, 31, 32, 33, 34, 35],
    [40],
]
# The first prompt has the first tile, the third prompt the second and third.
TILES = reference.rng_tiles(4)
FIRST_TOKEN = {0: 0, 2: 4}  # of a prompt's tiles, in the flattened embeddings

encode_images = quick_jit(lambda model: model.encode_images(TILES))
generate = quick_jit(loop.generate, static_argnames=("group_size", "slots", "sampling"))

HOT = {
    "max_tokens": 12,
    "temperature": 0.8,
    "top_p": 0.9,
    "top_k": 40,
    "banned": (IMAGE,),
}
BUDGET = {"thinking_tokens": 4, "think_end": ((50,), (51,), (52,))}
EIGHT = (0, 1, 2, 3, 2, 1, 0, 1)  # prompts by number
LAYOUTS = {  # mesh, rules, whether the inputs are on their devices already, further settings
    "decode": ((2, 2, 2), DECODE, True, {}),
    "train": ((2, 2, 2), TRAIN, True, {}),
    "host inputs": ((2, 2, 2), DECODE, False, {}),
    "penalty": ((2, 2, 2), DECODE, True, {"repetition_penalty": 1.1}),
    # Without cuts the vocabulary stays split over the devices.
    "penalty of a split vocabulary": (
        (2, 2, 2),
        DECODE,
        True,
        {"repetition_penalty": 1.1, "top_k": 0},
    ),
    "thinking": ((2, 2, 2), DECODE, True, BUDGET),
}


def batch(*numbers):
    """The prompts of these numbers, padded on the right -> tokens, lengths, image_index."""
    tokens = np.full((len(numbers), 16), PAD, np.int32)
    index = np.full((len(numbers), 16), -1, np.int32)
    for row, number in enumerate(numbers):
        ids = np.array(PROMPTS[number])
        tokens[row, : len(ids)] = ids
        places = np.flatnonzero(ids == IMAGE)
        if len(places):
            index[row, places] = FIRST_TOKEN[number] + np.arange(len(places))
    lengths = [len(PROMPTS[number]) for number in numbers]
    return tokens, np.array(lengths, np.int32), index


def on_one_device(
    model,
    images,
    *numbers,
    key=0,
    limit=None,
    group_size=1,
    slots=0,
    drafter=None,
    **settings,
):
    """Completions of prompts by number, on the host."""
    tokens, lengths, index = batch(*numbers)
    completions = generate(
        model,
        tokens,
        lengths,
        jax.random.key(key),
        images,
        index,
        None if limit is None else jnp.int32(limit),
        drafter,
        group_size=group_size,
        slots=slots,
        sampling=SamplingParams(**settings),
    )
    return jax.device_get(completions)


def on_a_mesh(
    model, mesh_shape, rules, placed, settings, *, slots=0, slices=1, drafter=None
):
    """Two samples of each of eight prompts, on the host."""
    tokens, lengths, index = batch(*EIGHT)
    images = np.concatenate([encode_images(model)] * 2)
    mesh = make_mesh(mesh_shape, slices=slices)
    with jax.set_mesh(mesh):

        def put(x, *axes):
            if not placed:
                return x
            return jax.device_put(x, NamedSharding(mesh, rules.spec(*axes)))

        graph, _ = nnx.split(build.abstract(model.config, Compute(rules=rules)))
        placement = shardings(model, rules, mesh)
        if drafter is not None:
            head_graph, _ = nnx.split(
                build.abstract_head(
                    model.config.text, Compute(rules=rules), drafter.tokens
                )
            )
            head = jax.device_put(nnx.state(drafter), shardings(drafter, rules, mesh))
            drafter = nnx.merge(head_graph, head)
        completions = generate(
            nnx.merge(graph, jax.device_put(nnx.state(model), placement)),
            put(tokens, "batch", None),
            put(lengths, "batch"),
            jax.random.key(0),
            put(images, "tiles", None, None),
            put(index, "batch", None),
            None,
            drafter,
            group_size=2,
            slots=slots,
            sampling=SamplingParams(**settings),
        )
        assert completions.tokens.sharding.spec == rules.spec("batch", None)
    return jax.device_get(completions)


def with_end_token(model, token):
    config = dataclasses.replace(model.config, end_token_id=token)
    graph, _ = nnx.split(build.abstract(config, model.compute))
    return nnx.merge(graph, nnx.state(model))


def rows(completions, chosen):
    return jax.tree.map(lambda x: x[chosen], completions)


def assert_same(a, b):
    """The same tokens, and log-probabilities to float32 rounding."""
    for name in ("tokens", "lengths", "ended", "chosen"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    for name in ("logprobs", "entropies"):
        ours = getattr(a, name)
        np.testing.assert_allclose(ours, getattr(b, name), rtol=0, atol=1e-5)
