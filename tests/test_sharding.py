"""Meshes: every device layout computes what one device does, and the 38B fits its pod.

The layouts are tried on eight CPU devices; the pod, 128 chips, on an abstract mesh: JAX checks the
sharding of every array of the real program without a device.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from r1v3_jax.config import INTERNVL3_1B, R1V3_38B, TINY, Compute
from r1v3_jax.models import attention as models_attention
from r1v3_jax.models import build, r1v3
from r1v3_jax.models.attention import causal_mask, splash_attention
from r1v3_jax.sharding import (
    DECODE,
    TRAIN,
    abstract_mesh,
    gather,
    make_mesh,
    mesh_size,
    shard_bytes,
    shardings,
)

MESHES = [
    (8, 1, 1),
    (2, 4, 1),
    (2, 2, 2),
]  # TINY has 4 kv heads: at most 4 ways in decoding

# Compiling is nearly all the time of these tests: less of it.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
    },
)


def difference(ours, theirs) -> float:
    return float(np.max(np.abs(np.asarray(ours) - np.asarray(theirs))))


# --- one device against eight ------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    """Random numbers in every weight of TINY, on the host."""
    rng = np.random.default_rng(0)

    def draw(path, variable):
        noise = rng.normal(size=variable.shape).astype(np.float32)
        norm = "norm" in path[-1] and "bias" not in path[-1]
        return variable.replace(1 + 0.3 * noise if norm else 0.2 * noise)

    return nnx.map_state(draw, nnx.state(build.abstract(TINY, Compute())))


def place(weights, compute, mesh):
    """The model with `weights` laid out on `mesh` as the rules of `compute` say."""
    graph, _ = nnx.split(build.abstract(TINY, compute))
    model = nnx.merge(graph, weights)
    return nnx.merge(
        graph, jax.device_put(weights, shardings(model, compute.rules, mesh))
    )


def example():
    """Eight packed rows of two segments (the last with padding), two of them sharing an image."""
    rng = np.random.default_rng(1)
    shape = (8, 12)
    tokens = rng.integers(10, TINY.text.vocab_size, shape)
    tokens[:, 2:6] = TINY.image_token_id
    tile = np.array([0, 1, 2, 3, 4, 5, 6, 6])  # of eight; the last is padding
    index = np.full(shape, -1)
    index[:, 2:6] = 4 * tile[:, None] + np.arange(4)
    segments = np.where(np.arange(12) < 9, 1, 2) * np.ones(shape, int)
    segments[7, 10:] = 0
    positions = np.tile([*range(9), *range(3)], (8, 1))
    tiles = rng.normal(size=(8, 28, 28, 3)).astype(np.float32)
    arrays = (tokens, positions, segments, index)
    return *(x.astype(np.int32) for x in arrays), tiles


def forward(model, tokens, positions, segments, index, tiles):
    hidden = model(tokens, positions, segments, model.encode_images(tiles), index)
    logprobs, entropy = model.logprobs(hidden, tokens, temperature=0.7)
    used = segments > 0
    loss = jnp.sum(jnp.where(used, logprobs - 0.1 * entropy, 0)) / jnp.sum(used)
    return loss, (hidden, logprobs, entropy)


def decode(model, tokens, lengths, index, tiles, sampled):
    """Logits after the prompts and after each of two tokens of two samples a prompt."""
    images = model.encode_images(tiles)
    first, prompt = model.prefill(tokens, lengths, images, index)
    cache = model.new_cache(prompt, group_size=2, max_tokens=2)
    second, cache = model.decode(sampled, cache)
    third, cache = model.decode(sampled, cache)
    return first, second, third, cache.k


def run(weights, mesh_shape, rules, gradients):
    """The numbers of one layout, on the host: forward pass, gradients, cache and decoding."""
    mesh, compute = make_mesh(mesh_shape), Compute(rules=rules, logprob_chunk=5)
    tokens, positions, segments, index, tiles = example()
    lengths = np.arange(5, 13, dtype=np.int32)
    sampled = np.arange(20, 36, dtype=np.int32)

    def put(x, *axes):
        return jax.device_put(x, NamedSharding(mesh, rules.spec(*axes)))

    def program(model, tokens, positions, segments, index, tiles, lengths, sampled):
        inputs = model, tokens, positions, segments, index, tiles
        if gradients:
            (loss, out), grads = jax.value_and_grad(forward, has_aux=True)(*inputs)
        else:
            (loss, out), grads = forward(*inputs), None
        return loss, out, decode(model, tokens, lengths, index, tiles, sampled), grads

    with jax.set_mesh(mesh):
        model = place(weights, compute, mesh)
        ints = [put(x, "batch", None) for x in (tokens, positions, segments, index)]
        placed = put(tiles, "tiles", None, None, None)
        out = quick_jit(program)(
            model, *ints, placed, put(lengths, "batch"), put(sampled, "batch")
        )
        if gradients:  # a gradient lies where its weight does
            for weight, gradient in zip(
                jax.tree.leaves(model), jax.tree.leaves(out[3]), strict=True
            ):
                assert jax.typeof(gradient).sharding == jax.typeof(weight).sharding
        return jax.tree.map(np.asarray, jax.tree.leaves(out))


@pytest.fixture(scope="module")
def one_device(weights):
    return run(weights, (1, 1, 1), TRAIN, gradients=True)


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("rules", [TRAIN, DECODE], ids=["train", "decode"])
def test_eight_devices_equal_one(shape, rules, weights, one_device):
    got = run(weights, shape, rules, gradients=rules is TRAIN)
    # Sums over the devices come in another order; the largest numbers here are of size ten.
    differences = [difference(a, b) for a, b in zip(got, one_device, strict=False)]
    assert len(differences) == (
        8 + len(jax.tree.leaves(weights)) if rules is TRAIN else 8
    )
    assert max(differences) <= 1e-5


def test_a_model_starts_the_same_on_every_mesh():
    def start(shape):
        with jax.set_mesh(make_mesh(shape)):
            # What `r1v3.init` compiles.
            model = quick_jit(lambda: r1v3.R1V3(TINY, Compute(), nnx.Rngs(3)))()
            expected = jax.tree.leaves(shardings(model, TRAIN, jax.sharding.get_mesh()))
            leaves = jax.tree.leaves(model)
            assert [x.sharding for x in leaves] == expected
            return [np.asarray(x) for x in leaves]

    # Bitwise: each device draws its own part of the same numbers.
    for one, eight in zip(start((1, 1, 1)), start((2, 2, 2)), strict=True):
        assert np.array_equal(one, eight)


def test_weights_move_from_the_training_to_the_decoding_layout(weights):
    mesh = make_mesh((2, 2, 2))

    @quick_jit
    def run(model, tokens):
        return model.embed(tokens)

    with jax.set_mesh(mesh):
        train, decode = (
            place(weights, Compute(rules=rules), mesh) for rules in (TRAIN, DECODE)
        )
        assert not train.language.blocks.gate[...].sharding.is_fully_replicated
        moved = build.for_decoding(train)
        for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(decode), strict=True):
            assert a.sharding == b.sharding and np.array_equal(a, b)
        tokens = jax.device_put(
            np.arange(8)[:, None], NamedSharding(mesh, DECODE.spec("batch"))
        )
        run(moved, tokens), run(decode, tokens)
        assert run._cache_size() == 1  # the same program for both


def test_decoding_has_weights_of_the_computation(weights):
    # Cast once, not at every token; where nothing changes, nothing is copied.
    graph, _ = nnx.split(build.abstract(TINY, Compute(dtype="bfloat16")))
    half = build.for_decoding(nnx.merge(graph, jax.tree.map(jnp.asarray, weights)))
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    assert half.language.blocks.compute.param_dtype == "bfloat16"
    for a, b in zip(
        jax.tree.leaves(build.for_decoding(half)), jax.tree.leaves(half), strict=True
    ):
        assert a is b


@pytest.mark.parametrize("rules", [TRAIN, DECODE], ids=["train", "decode"])
def test_the_kernel_on_a_mesh_equals_the_reference(rules):
    B, T, K, Q, H = 4, 130, 4, 2, 8
    rng = np.random.default_rng(0)
    q = rng.normal(size=(B, T, K, Q, H)).astype(np.float32)
    k, v = rng.normal(size=(2, B, T, K, H)).astype(np.float32)
    segments = np.ones((B, T), np.int32)
    segments[:, 50:] = 2
    segments[1, 20:] = 0
    expected = models_attention.attention(q, k, v, causal_mask(jnp.asarray(segments)))
    mesh = make_mesh((2, 2, 2))
    with jax.set_mesh(mesh):
        spec = rules.spec("batch", None, "kv_heads", None, None)

        def put(x, spec):
            return jax.device_put(
                x, NamedSharding(mesh, PartitionSpec(*spec[: x.ndim]))
            )

        out = quick_jit(
            lambda q, k, v, segments: splash_attention(
                q, k, v, segments, causal=True, q_spec=spec, interpret=True
            )
        )(put(q, spec), put(k, spec), put(v, spec), put(segments, spec))
        assert jax.typeof(out).sharding.spec == spec
    assert difference(out, expected) <= 2e-5  # as on one device, see test_models.py


# --- the 38B on its pod ------------------------------------------------------------------------

POD = (
    16,
    4,
    2,
)  # v5p-256: 128 chips; 64 shards and 2-way tensor parallelism; 16 times 8-way


@pytest.mark.parametrize("attention", ["reference", "splash"])
@pytest.mark.parametrize("rules", [TRAIN, DECODE], ids=["train", "decode"])
def test_the_38b_has_consistent_shardings_on_the_pod(rules, attention):
    start = time.process_time()
    mesh = abstract_mesh(POD)
    compute = Compute(
        dtype="bfloat16",
        param_dtype="bfloat16",
        remat="dots",
        attention=attention,
        rules=rules,
    )
    rows, length, tiles, prompts, group = 64, 8192, 128 * 6, 64, 16

    def array(shape, dtype, *axes):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, rules.spec(*axes))
        )

    def loss(model, tokens, positions, segments, tiles, index, weights):
        hidden = model(tokens, positions, segments, model.encode_images(tiles), index)
        logprobs, entropy = model.logprobs(hidden, tokens, temperature=0.9)
        return jnp.sum(jnp.where(segments > 0, logprobs * weights - 0.01 * entropy, 0))

    with jax.sharding.use_abstract_mesh(mesh):
        model = build.abstract(R1V3_38B, compute, mesh)
        ids, row = array((rows, length), jnp.int32, "batch", None), ("batch",)
        pixels = array((tiles, 448, 448, 3), jnp.float32, "tiles", None, None, None)
        weights = array((rows, length), jnp.float32, "batch", None)
        gradients = jax.eval_shape(
            jax.grad(loss), model, ids, ids, ids, pixels, ids, weights
        )
        assert nnx.to_flat_state(nnx.state(gradients)).paths == (
            nnx.to_flat_state(nnx.state(model)).paths
        )
        for weight, gradient in zip(
            jax.tree.leaves(model), jax.tree.leaves(gradients), strict=True
        ):
            assert jax.typeof(gradient) == jax.typeof(weight)

        images = jax.eval_shape(lambda m, t: m.encode_images(t), model, pixels)
        assert images.shape == (tiles, 256, 5120) and images.dtype == jnp.bfloat16
        question = array((prompts, 4096), jnp.int32, "batch", None)
        logits, prompt = jax.eval_shape(
            lambda m, *a: m.prefill(*a),
            model, question, array((prompts,), jnp.int32, *row), images, question,
        )  # fmt: skip
        cache = jax.eval_shape(
            lambda m, p: m.new_cache(p, group_size=group, max_tokens=8192),
            model,
            prompt,
        )
        token = array((prompts * group,), jnp.int32, *row)
        next_logits, after = jax.eval_shape(
            lambda m, *a: m.decode(*a), model, token, cache
        )
        assert logits.shape == (prompts, 152_576) and next_logits.shape == (
            1024,
            152_576,
        )
        # A cache that changed its type would be laid out anew, and copied, at every token.
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, cache)
        assert after.k.sharding.spec == rules.spec(
            None, "batch", "kv_heads", None, None
        )
    assert time.process_time() - start < 20  # about two seconds


def test_bytes_of_the_38b_on_each_chip():
    mesh = abstract_mesh(POD)

    def measure(dtype, rules):
        model = build.abstract(R1V3_38B, Compute(param_dtype=dtype, rules=rules), mesh)
        parts = ("language", "vision", "connector")
        return {part: shard_bytes(getattr(model, part)) for part in parts}

    # fmt: off
    def language(shards, tensor):
        matrices = 5120 * (2 * 5120 + 2 * 1024 + 3 * 27648) // (tensor * shards)  # q, out; k, v; ..
        layer = matrices + (5120 + 2 * 1024) // tensor + 2 * 5120        # biases; norms, whole
        return 64 * layer + 5120 + 2 * 152_576 * 5120 // (tensor * shards)        # embedding, head
    block = (
        4 * 3200 * 3200 // 64 + 2 * 3200 * 12_800 // 128  # q, k, v, out: not over tensor; up, down
        + 12_800 // 2 + 8 * 3200  # up's bias; norms, q/k norms, scales, two biases, whole
    )
    vision = 45 * block + 588 * 3200 // 64 + 2 * 3200 + 1025 * 3200
    connector = (12_800 + 5120) * 5120 // 128 + 2 * 12_800 + 2 * 5120
    # fmt: on
    train = {
        "language": 2 * language(64, 2),
        "vision": 2 * vision,
        "connector": 2 * connector,
    }
    assert measure("bfloat16", TRAIN) == train
    moments = {name: 2 * 2 * size for name, size in train.items()}  # two, in float32
    assert measure("float32", TRAIN) == {
        name: size // 2 for name, size in moments.items()
    }
    decode = measure("bfloat16", DECODE)
    assert decode == {**train, "language": 2 * language(1, 8)}
    for kind, sizes in (
        ("bf16 weights", train),
        ("float32 moments", moments),
        ("decode", decode),
    ):
        print(kind, {name: f"{size / 2**30:.3f} GiB" for name, size in sizes.items()})


# --- refusals ----------------------------------------------------------------------------------


def test_a_mesh_that_does_not_divide_is_refused_by_name():
    with pytest.raises(ValueError) as error:
        build.abstract(R1V3_38B, Compute(), abstract_mesh((1, 8, 16)))
    lines = str(error.value).split("\n  ")
    assert lines[0] == (
        "mesh {'data': 1, 'fsdp': 8, 'tensor': 16} does not divide the model's shapes; "
        "use smaller sizes:"
    )
    assert (
        "language.blocks.k: axis kv_heads of 8 cannot be split over tensor = 16"
        in lines
    )
    named = {line.split(":")[0].removeprefix("language.blocks.") for line in lines[1:]}
    assert named == {"q", "k", "v", "q_bias", "k_bias", "v_bias", "out"}


def test_two_kv_heads_are_not_split_over_four_devices():
    with pytest.raises(
        ValueError, match=r"kv_heads of 2 cannot be split over tensor = 4"
    ):
        build.abstract(INTERNVL3_1B, Compute(), abstract_mesh((1, 1, 4)))
    build.abstract(INTERNVL3_1B, Compute(), abstract_mesh((1, 4, 2)))


def test_init_refuses_before_it_compiles():
    wide = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, kv_heads=2))
    with jax.set_mesh(make_mesh((1, 2, 4))):
        with pytest.raises(ValueError, match="language.blocks.k: axis kv_heads of 2"):
            build.init(wide, Compute())


def test_tiles_that_do_not_divide_are_refused(weights):
    mesh = make_mesh((1, 2, 4))
    with jax.set_mesh(mesh):
        model = place(weights, Compute(), mesh)
        with pytest.raises(ValueError, match="9 tiles cannot be split over 8 devices"):
            model.encode_images(jnp.zeros((9, 28, 28, 3)))


@pytest.mark.parametrize("shape", [(1, 2), (1, 0, 2), (1, 2, 2.0), (1, -1, 2)], ids=str)
def test_a_mesh_shape_is_three_positive_sizes(shape):
    for make in (make_mesh, abstract_mesh):
        with pytest.raises(ValueError, match="three positive sizes"):
            make(shape)


def test_a_mesh_larger_than_the_machine_is_refused():
    with pytest.raises(ValueError, match="needs 32 devices, but there are 8"):
        make_mesh((2, 4, 4))


# --- small parts -------------------------------------------------------------------------------


def test_specs_and_sizes():
    assert (
        TRAIN.spec("batch", None) is None and TRAIN.shards("tiles") == 1
    )  # outside a mesh
    with jax.sharding.use_abstract_mesh(abstract_mesh((2, 3, 4))):
        assert TRAIN.spec("batch", None, "embed") == PartitionSpec(
            ("data", "fsdp"), None, ("data", "fsdp")
        )
        assert DECODE.spec("embed", "mlp") == PartitionSpec(None, ("tensor", "fsdp"))
        assert TRAIN.shards("tiles") == 24 and TRAIN.shards("vision_heads") == 1
        with pytest.raises(AttributeError):
            TRAIN.spec("bach")
    mesh = abstract_mesh((2, 3, 4))
    assert [mesh_size(mesh, axes) for axes in (None, "fsdp", ("data", "tensor"))] == [
        1,
        3,
        8,
    ]


@pytest.mark.parametrize("rules", [TRAIN, DECODE], ids=["train", "decode"])
def test_no_mesh_axis_deals_out_rows_and_parts_of_a_weight_at_once(rules):
    # A weight is whole along the axes that deal out rows before it is used; else every product
    # would be a sum over devices. JAX would accept that, and be slow.
    def axes(entry):
        return set((entry,) if isinstance(entry, str) else entry or ())

    text = (
        axes(rules.embed) | axes(rules.mlp) | axes(rules.kv_heads) | axes(rules.vocab)
    )
    assert text & axes(rules.batch) <= set(rules.text_gather)
    vision = (
        axes(rules.vision_embed) | axes(rules.vision_mlp) | axes(rules.vision_heads)
    )
    assert vision & axes(rules.tiles) <= set(rules.vision_gather)


def test_gather_casts_and_makes_whole_along_its_axes_only():
    mesh = abstract_mesh((1, 4, 2))
    with jax.sharding.use_abstract_mesh(mesh):

        def array(*spec):
            sharding = NamedSharding(mesh, PartitionSpec(*spec))
            return jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=sharding)

        tree = {"a": array("fsdp", "tensor"), "b": array(("fsdp", "tensor"), None)}
        out = jax.eval_shape(lambda t: gather(t, ("fsdp",), jnp.bfloat16), tree)
        assert [x.dtype for x in out.values()] == [jnp.bfloat16] * 2
        assert out["a"].sharding.spec == PartitionSpec(None, "tensor")
        assert out["b"].sharding.spec == PartitionSpec("tensor", None)
        both = jax.eval_shape(
            lambda t: gather(t, ("fsdp", "tensor"), jnp.float32), tree
        )
        assert all(x.sharding.spec == PartitionSpec(None, None) for x in both.values())
        # What travels is the smaller number: the cast stands before the gather.
        text = str(jax.make_jaxpr(lambda t: gather(t, ("fsdp",), jnp.bfloat16))(tree))
        assert text.index("convert_element_type") < text.index("reshard")
