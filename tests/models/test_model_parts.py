"""Parts of the model written out, its number of parameters, and what it refuses."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as reference
from flax import nnx
from model_cases import VOCAB, difference, quick_jit, their_model
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from r1v3_jax import hf
from r1v3_jax.config import PRESETS, R1V3_38B, Compute, TextConfig
from r1v3_jax.models import build, internvit, r1v3
from r1v3_jax.models.flops import num_params
from r1v3_jax.models.layers import rope_angles, rope_base
from r1v3_jax.run.weights import load_weights, save_weights
from r1v3_jax.sharding import make_mesh, shardings

# --- sizes, shapes, programs -------------------------------------------------------------------

# Counted by transformers over the same dimensions (its InternVL on the meta device); the
# published model cards round them to 0.9, 2.1, 7.9, 15.1, 38.4 and 78.4 billion.
PARAMETERS = {
    "r1v3_38b": 38_388_164_992,
    "internvl3_1b": 938_193_024,
    "internvl3_2b": 2_088_957_440,
    "internvl3_8b": 7_944_373_760,
    "internvl3_14b": 15_117_256_704,
    "internvl3_38b": 38_388_164_992,
    "internvl3_78b": 78_408_318_336,
    "tiny": 85_744,
    "tiny_300m": 149_552,
}


def test_every_preset_is_counted():
    assert set(PARAMETERS) == set(PRESETS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    config = PRESETS[name]
    assert num_params(config) == PARAMETERS[name]
    leaves = sum(x.size for x in jax.tree.leaves(build.abstract(config, Compute())))
    text = config.text
    tables = 1 if text.tie_embeddings else 2
    pad_rows = (text.padded_vocab - text.vocab_size) * tables
    assert leaves - pad_rows * text.embed == PARAMETERS[name]


def test_parameters_of_38b_by_hand():
    # D 5120, 40 query and 8 kv heads of 128, F 27648, 64 layers; V 151,674.
    layer = (
        5120 * 5120
        + 5120  # q and its bias
        + 2 * (5120 * 1024 + 1024)  # k, v
        + 5120 * 5120  # out
        + 3 * 5120 * 27648  # gate, up, down
        + 2 * 5120  # norms
    )
    language = 64 * layer + 5120 + 2 * 151674 * 5120
    # C 3200, F 12800, 45 layers, 32 x 32 patches of 14 x 14 x 3.
    block = (
        4 * 3200**2
        + 3200  # q, k, v, out and its bias
        + 2 * 3200 * 12800
        + 12800
        + 3200  # up, down
        + 6 * 3200  # 2 norms, q/k, scales
    )
    vision = 45 * block + 588 * 3200 + 3200 + 3200 + 1025 * 3200
    connector = 2 * 12800 + 12800 * 5120 + 5120 + 5120 * 5120 + 5120
    assert (language, vision, connector) == (32_759_882_752, 5_536_496_000, 91_786_240)
    assert num_params(R1V3_38B) == language + vision + connector


def test_38b_without_its_numbers_takes_no_time():
    start = time.process_time()
    build.abstract(R1V3_38B, Compute())
    assert time.process_time() - start < 2


def test_tiles_of_another_size_are_refused(model):
    with pytest.raises(
        ValueError, match=r"\(2, 14, 14, 3\); this model takes \[I, 28, 28, 3\]"
    ):
        model.encode_images(np.zeros((2, 14, 14, 3), np.float32))
    with pytest.raises(ValueError, match="takes"):  # channels first, as torch has them
        model.encode_images(np.zeros((2, 3, 28, 28), np.float32))


def test_one_program_a_shape_wherever_the_weights_come_from(tmp_path):
    reference.save_hf(reference.language_model(seed=1), tmp_path / "hf")
    mesh = make_mesh((1, 1, 1))

    @quick_jit
    def run(model, tokens):
        return model.logits(model(tokens, tokens, jnp.ones_like(tokens)))

    with jax.set_mesh(mesh):
        loaded = hf.load(tmp_path / "hf", mesh=mesh)
        graph, state = nnx.split(loaded)
        save_weights(tmp_path / "weights", loaded)
        config = loaded.config
        compute = loaded.compute
        placed = jax.device_put(state, shardings(loaded, compute.rules, mesh))
        models = [
            loaded,
            load_weights(tmp_path / "weights", mesh=mesh),
            quick_jit(lambda: r1v3.R1V3(config, compute, nnx.Rngs(0)))(),
            jax.tree.map(lambda w: w * 0.5, loaded),  # an update
            nnx.merge(graph, placed),
        ]
        for seed, model in enumerate(models):
            tokens = np.random.default_rng(seed).integers(0, VOCAB, (2, 16))
            tokens = tokens.astype(np.int32)
            run(model, tokens)
            run(model, tokens)
        assert run._cache_size() == 1
        run(loaded, np.zeros((2, 17), np.int32))
        assert run._cache_size() == 2


# --- parts, written out ------------------------------------------------------------------------


def test_pixel_shuffle_is_the_written_out_formula():
    side, channels = 6, 3
    x = np.random.default_rng(0).normal(size=(2, side, side, channels))
    x = x.astype(np.float32)
    expected = np.zeros((2, side // 2, side // 2, 4 * channels), np.float32)
    for i in range(side // 2):
        for j in range(side // 2):
            merged = [x[:, 2 * i + a, 2 * j + b] for a in (0, 1) for b in (0, 1)]
            expected[:, i, j] = np.concatenate(merged, axis=-1)
    ours = r1v3.pixel_shuffle(x.reshape(2, side * side, channels))
    assert np.array_equal(ours, expected.reshape(2, -1, 4 * channels))
    theirs = their_model("rms qwen2").model.pixel_shuffle(
        torch.from_numpy(x), scale_factor=0.5
    )
    assert np.array_equal(ours, theirs.numpy().reshape(2, -1, 4 * channels))


def test_patches_come_in_reading_order_each_row_column_channel():
    tile = np.arange(4 * 4 * 3).reshape(1, 4, 4, 3)
    #  pixel    0  1 | 2  3      patch 0: pixels 0 1 4 5, each r g b
    #           4  5 | 6  7      patch 1: pixels 2 3 6 7
    #          -------------
    #           8  9 | ...
    pixels = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    expected = [
        [3 * p + colour for p in patch for colour in range(3)] for patch in pixels
    ]
    assert np.array_equal(internvit.patches(jnp.asarray(tile), 2)[0], expected)


def test_rope_angles_equal_transformers_to_the_last_position():
    # Dynamic scaling of factor 2, as in every InternVL3: with rope_impl "hf" it changes nothing.
    positions = np.array([[0, 1, 2, 255, 256, 257, 4095, 8191, 32767]], np.int32)
    ours = rope_angles(jnp.asarray(positions), TextConfig(rope_factor=2.0))
    for kind in ({"rope_type": "default"}, {"rope_type": "dynamic", "factor": 2.0}):
        config = Qwen2Config(
            hidden_size=256,
            num_attention_heads=2,
            head_dim=128,
            max_position_embeddings=32768,
            rope_parameters={"rope_theta": 1e6, **kind},
        )
        theirs = Qwen2RotaryEmbedding(config)(
            torch.zeros(1, 9, 256), torch.from_numpy(positions)
        )
        for our_values, their_values in zip(ours, theirs, strict=True):
            # torch's powers differ between CPUs, by a unit in the last place of a frequency: of an
            # angle of 32,767 that is 4e-3. All else rounds the same.
            angle = positions[..., None] * 1e6 ** (-np.arange(64) / 64)
            for half in (their_values[..., :64], their_values[..., 64:]):
                error = np.abs(np.asarray(our_values) - half.numpy())
                assert np.all(error <= 1e-5 + angle * 2**-23)


def test_rope_base_of_vllm():
    config = TextConfig(head_dim=128, rope_theta=1e6, rope_factor=2.0)
    assert rope_base(config) == 1e6
    static = dataclasses.replace(config, rope_impl="vllm_static")
    assert round(rope_base(static)) == 3_052_774
    unscaled = dataclasses.replace(static, rope_factor=1.0)
    assert rope_base(unscaled) == 1e6


def test_rope_angles_use_the_base():
    static = TextConfig(head_dim=128, rope_factor=2.0, rope_impl="vllm_static")
    cos, _ = rope_angles(jnp.array([[1000]]), static)
    expected = np.cos(1000 * 3_052_773.675 ** (-np.arange(0, 128, 2) / 128))
    # Float32 angles of up to 1,000: 6e-5.
    assert difference(cos[0, 0], expected) <= 1e-4
