"""Meshes: every device layout computes what one device does, and the 38B fits its pod.

The layouts are tried on eight CPU devices; the pod, 128 chips, on an abstract mesh: JAX checks the
sharding of every array of the real program without a device.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from quick_compile import quick_jit

from r1v3_jax.config import INTERNVL3_1B, R1V3_38B, TINY, Compute
from r1v3_jax.models import attention, build, r1v3
from r1v3_jax.models.caches import empty_cache
from r1v3_jax.sharding import (
    DECODE,
    TRAIN,
    abstract_mesh,
    gather,
    make_mesh,
    mesh_size,
    repeat_rows,
    shard_bytes,
    shardings,
)

# TINY has 4 kv heads: at most 4 ways in decoding.
MESHES = [(8, 1, 1), (2, 4, 1), (2, 2, 2)]


def difference(ours, theirs) -> float:
    return float(np.max(np.abs(np.asarray(ours) - np.asarray(theirs))))


# --- one device against eight ------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    """Random numbers in every weight of TINY, on the host."""
    rng = np.random.default_rng(0)

    def draw(path, variable):
        noise = rng.normal(size=variable.shape).astype(np.float32)
        is_norm = "norm" in path[-1] and "bias" not in path[-1]
        return variable.replace(1 + 0.3 * noise if is_norm else 0.2 * noise)

    return nnx.map_state(draw, nnx.state(build.abstract(TINY, Compute())))


def place(weights, compute, mesh):
    """The model with `weights` laid out on `mesh` as the rules of `compute` say."""
    graph, _ = nnx.split(build.abstract(TINY, compute))
    placement = shardings(nnx.merge(graph, weights), compute.rules, mesh)
    return nnx.merge(graph, jax.device_put(weights, placement))


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
    after_prompt, prompt = model.prefill(tokens, lengths, images, index)
    # The layout of several devices, on one too: `new_cache` may choose another there.
    cache = empty_cache(prompt, model.compute, group_size=2, max_tokens=2)
    after_token_1, cache = model.decode(sampled, cache)
    after_token_2, cache = model.decode(sampled, cache)
    return after_prompt, after_token_1, after_token_2, cache.k


def run(weights, mesh_shape, rules, gradients):
    """The numbers of one layout, on the host: forward pass, gradients, cache and decoding."""
    mesh = make_mesh(mesh_shape)
    compute = Compute(rules=rules, logprob_chunk=5)
    tokens, positions, segments, index, tiles = example()
    lengths = np.arange(5, 13, dtype=np.int32)
    sampled = np.arange(20, 36, dtype=np.int32)

    def put(x, *axes):
        return jax.device_put(x, NamedSharding(mesh, rules.spec(*axes)))

    def program(model, tokens, positions, segments, index, tiles, lengths, sampled):
        inputs = (model, tokens, positions, segments, index, tiles)
        if gradients:
            loss_and_gradients = jax.value_and_grad(forward, has_aux=True)
            (loss, outputs), grads = loss_and_gradients(*inputs)
        else:
            loss, outputs = forward(*inputs)
            grads = None
        decoded = decode(model, tokens, lengths, index, tiles, sampled)
        return loss, outputs, decoded, grads

    with jax.set_mesh(mesh):
        model = place(weights, compute, mesh)
        ints = [put(x, "batch", None) for x in (tokens, positions, segments, index)]
        placed = put(tiles, "tiles", None, None, None)
        rows = (put(lengths, "batch"), put(sampled, "batch"))
        outputs = quick_jit(program)(model, *ints, placed, *rows)
        if gradients:
            # A gradient has the sharding of its weight.
            leaves = (jax.tree.leaves(model), jax.tree.leaves(outputs[3]))
            for weight, gradient in zip(*leaves, strict=True):
                assert jax.typeof(gradient).sharding == jax.typeof(weight).sharding
        return jax.tree.map(np.asarray, jax.tree.leaves(outputs))


@pytest.fixture(scope="module")
def one_device(weights):
    return run(weights, (1, 1, 1), TRAIN, gradients=True)


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("rules", [TRAIN, DECODE], ids=["train", "decode"])
def test_eight_devices_equal_one(shape, rules, weights, one_device):
    actual = run(weights, shape, rules, gradients=rules is TRAIN)
    # Sums over the devices come in another order; the largest numbers here are of size ten.
    differences = [difference(a, b) for a, b in zip(actual, one_device, strict=False)]
    gradients = len(jax.tree.leaves(weights)) if rules is TRAIN else 0
    assert len(differences) == 8 + gradients
    assert max(differences) <= 1e-5


def test_a_model_starts_the_same_on_every_mesh():
    def start(shape):
        with jax.set_mesh(make_mesh(shape)):
            # What `build.init` compiles.
            model = quick_jit(lambda: r1v3.R1V3(TINY, Compute(), nnx.Rngs(3)))()
            expected = jax.tree.leaves(shardings(model, TRAIN, jax.sharding.get_mesh()))
            leaves = jax.tree.leaves(model)
            assert [x.sharding for x in leaves] == expected
            return [np.asarray(x) for x in leaves]

    # Bitwise: each device draws its own part of the same numbers.
    for on_one, on_eight in zip(start((1, 1, 1)), start((2, 2, 2)), strict=True):
        assert np.array_equal(on_one, on_eight)


def test_weights_move_from_the_training_to_the_decoding_layout(weights):
    mesh = make_mesh((2, 2, 2))

    @quick_jit
    def run(model, tokens):
        return model.embed(tokens)

    with jax.set_mesh(mesh):
        train = place(weights, Compute(rules=TRAIN), mesh)
        decode = place(weights, Compute(rules=DECODE), mesh)
        assert not train.language.blocks.gate[...].sharding.is_fully_replicated
        moved = build.for_decoding(train)
        for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(decode), strict=True):
            assert a.sharding == b.sharding and np.array_equal(a, b)
        rows = NamedSharding(mesh, DECODE.spec("batch"))
        tokens = jax.device_put(np.arange(8)[:, None], rows)
        run(moved, tokens)
        run(decode, tokens)
        assert run._cache_size() == 1  # the same program for both


def test_decoding_has_weights_of_the_computation(weights):
    # Cast once, not at every token; where nothing changes, nothing is copied.
    graph, _ = nnx.split(build.abstract(TINY, Compute(dtype="bfloat16")))
    half = build.for_decoding(nnx.merge(graph, jax.tree.map(jnp.asarray, weights)))
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    assert half.language.blocks.compute.param_dtype == "bfloat16"
    unchanged = build.for_decoding(half)
    for a, b in zip(jax.tree.leaves(unchanged), jax.tree.leaves(half), strict=True):
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
    mask = attention.causal_mask(jnp.asarray(segments))
    expected = attention.attention(q, k, v, mask)
    mesh = make_mesh((2, 2, 2))
    with jax.set_mesh(mesh):
        spec = rules.spec("batch", None, "kv_heads", None, None)

        def put(x):
            layout = PartitionSpec(*spec[: x.ndim])
            return jax.device_put(x, NamedSharding(mesh, layout))

        @quick_jit
        def attend(q, k, v, segments):
            return attention.splash_attention(
                q, k, v, segments, causal=True, q_spec=spec, interpret=True
            )

        context = attend(put(q), put(k), put(v), put(segments))
        assert jax.typeof(context).sharding.spec == spec
    # As on one device, see test_attention.py.
    assert difference(context, expected) <= 2e-5


# --- the 38B on its pod ------------------------------------------------------------------------

# v5p-256: 128 chips; 64 shards and 2-way tensor parallelism; 16 times 8-way.
POD = (16, 4, 2)


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

    def array(shape, dtype, *axes):
        sharding = NamedSharding(mesh, rules.spec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    with jax.sharding.use_abstract_mesh(mesh):
        model = build.abstract(R1V3_38B, compute, mesh)
        check_gradients(model, array)
        check_decoding(model, array)
    assert time.process_time() - start < 20  # about two seconds


def check_gradients(model, array):
    """Each gradient has the shape, the dtype and the sharding of its weight."""

    def loss(model, tokens, positions, segments, tiles, index, weights):
        hidden = model(tokens, positions, segments, model.encode_images(tiles), index)
        logprobs, entropy = model.logprobs(hidden, tokens, temperature=0.9)
        return jnp.sum(jnp.where(segments > 0, logprobs * weights - 0.01 * entropy, 0))

    ids = array((64, 8192), jnp.int32, "batch", None)
    weights = array((64, 8192), jnp.float32, "batch", None)
    inputs = (ids, ids, ids, pod_tiles(array), ids, weights)
    gradients = jax.eval_shape(jax.grad(loss), model, *inputs)
    paths = nnx.to_flat_state(nnx.state(gradients)).paths
    assert paths == nnx.to_flat_state(nnx.state(model)).paths
    leaves = (jax.tree.leaves(model), jax.tree.leaves(gradients))
    for weight, gradient in zip(*leaves, strict=True):
        assert jax.typeof(gradient) == jax.typeof(weight)


def pod_tiles(array):
    return array((128 * 6, 448, 448, 3), jnp.float32, "tiles", None, None, None)


def check_decoding(model, array):
    """The shapes of 64 prompts and of 16 samples each, and a cache that keeps its type."""
    tiles = pod_tiles(array)
    images = jax.eval_shape(lambda m, t: m.encode_images(t), model, tiles)
    assert images.shape == (128 * 6, 256, 5120)
    assert images.dtype == jnp.bfloat16
    question = array((64, 4096), jnp.int32, "batch", None)
    lengths = array((64,), jnp.int32, "batch")
    inputs = (question, lengths, images, question)
    logits, prompt = jax.eval_shape(lambda m, *a: m.prefill(*a), model, *inputs)
    assert logits.shape == (64, 152_576)

    def new_cache(model, prompt):
        return model.new_cache(prompt, group_size=16, max_tokens=8192)

    cache = jax.eval_shape(new_cache, model, prompt)
    token = array((64 * 16,), jnp.int32, "batch")
    logits, after = jax.eval_shape(lambda m, *a: m.decode(*a), model, token, cache)
    assert logits.shape == (1024, 152_576)
    # A cache that changed its type would be laid out anew, and copied, at every token.
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, cache)
    spec = model.compute.rules.spec(None, "batch", "kv_heads", None, None)
    assert after.k.sharding.spec == spec


def test_bytes_of_the_38b_on_each_chip():
    mesh = abstract_mesh(POD)

    def measure(dtype, rules):
        model = build.abstract(R1V3_38B, Compute(param_dtype=dtype, rules=rules), mesh)
        parts = ("language", "vision", "connector")
        return {part: shard_bytes(getattr(model, part)) for part in parts}

    def language(shards, tensor):
        columns = 2 * 5120 + 2 * 1024 + 3 * 27648  # q, out; k, v; gate, up, down
        matrices = 5120 * columns // (tensor * shards)
        biases = (5120 + 2 * 1024) // tensor
        norms = 2 * 5120  # whole
        tables = 2 * 152_576 * 5120 // (tensor * shards)  # embedding, head
        return 64 * (matrices + biases + norms) + 5120 + tables

    attention = 4 * 3200 * 3200 // 64  # q, k, v, out: not over tensor
    mlp = 2 * 3200 * 12_800 // 128  # up, down
    up_bias = 12_800 // 2
    whole = 8 * 3200  # norms, q/k norms, scales, two biases
    block = attention + mlp + up_bias + whole
    vision = 45 * block + 588 * 3200 // 64 + 2 * 3200 + 1025 * 3200
    connector = (12_800 + 5120) * 5120 // 128 + 2 * 12_800 + 2 * 5120
    train = {
        "language": 2 * language(64, 2),
        "vision": 2 * vision,
        "connector": 2 * connector,
    }
    assert measure("bfloat16", TRAIN) == train
    moments = {name: 2 * 2 * size for name, size in train.items()}  # two, in float32
    one_moment = {name: size // 2 for name, size in moments.items()}
    assert measure("float32", TRAIN) == one_moment
    decode = measure("bfloat16", DECODE)
    assert decode == {**train, "language": 2 * language(1, 8)}
    kinds = {"bf16 weights": train, "float32 moments": moments, "decode": decode}
    for kind, sizes in kinds.items():
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
    problem = "language.blocks.k: axis kv_heads of 8 cannot be split over tensor = 16"
    assert problem in lines
    named = {line.split(":")[0].removeprefix("language.blocks.") for line in lines[1:]}
    assert named == {"q", "k", "v", "q_bias", "k_bias", "v_bias", "out"}


def test_two_kv_heads_are_not_split_over_four_devices():
    message = "kv_heads of 2 cannot be split over tensor = 4"
    with pytest.raises(ValueError, match=message):
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
    # Outside a mesh.
    assert TRAIN.spec("batch", None) is None
    assert TRAIN.shards("tiles") == 1
    with jax.sharding.use_abstract_mesh(abstract_mesh((2, 3, 4))):
        spec = PartitionSpec(("data", "fsdp"), None, ("data", "fsdp"))
        assert TRAIN.spec("batch", None, "embed") == spec
        assert DECODE.spec("embed", "mlp") == PartitionSpec(None, ("tensor", "fsdp"))
        assert TRAIN.shards("tiles") == 24 and TRAIN.shards("vision_heads") == 1
        with pytest.raises(AttributeError):
            TRAIN.spec("bach")
    mesh = abstract_mesh((2, 3, 4))
    assert mesh_size(mesh, None) == 1
    assert mesh_size(mesh, "fsdp") == 3
    assert mesh_size(mesh, ("data", "tensor")) == 8


@pytest.mark.parametrize("rules", [TRAIN, DECODE], ids=["train", "decode"])
def test_no_mesh_axis_splits_rows_and_a_weight_at_once(rules):
    # A weight is whole along the axes that split rows before it is used; else every product
    # would be a sum over devices. JAX would accept that, and be slow.
    def axes(*entries):
        names = set()
        for entry in entries:
            names |= {entry} if isinstance(entry, str) else set(entry or ())
        return names

    text = axes(rules.embed, rules.mlp, rules.kv_heads, rules.vocab)
    assert text & axes(rules.batch) <= set(rules.text_gather)
    vision = axes(rules.vision_embed, rules.vision_mlp, rules.vision_heads)
    assert vision & axes(rules.tiles) <= set(rules.vision_gather)


@pytest.mark.parametrize("rows, count", [(1, 1), (1, 4), (2, 4)])
def test_repeated_rows_stay_on_their_devices(rows, count):
    """Also one row that is repeated once, of a micro-batch of one pair on one device."""
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    layout = PartitionSpec(("data", "fsdp"), None)
    with jax.set_mesh(mesh):
        x = jnp.arange(3.0 * rows).reshape(rows, 3)
        x = jax.device_put(x, NamedSharding(mesh, layout))
        repeated = jax.jit(repeat_rows, static_argnums=1)(x, count)
    assert repeated.sharding.spec == layout
    assert repeated.tolist() == np.repeat(x, count // rows, axis=0).tolist()


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
        axes = ("fsdp", "tensor")
        whole = jax.eval_shape(lambda t: gather(t, axes, jnp.float32), tree)
        assert all(x.sharding.spec == PartitionSpec(None, None) for x in whole.values())
        # What travels is the smaller number: the cast comes before the gather.
        text = str(jax.make_jaxpr(lambda t: gather(t, ("fsdp",), jnp.bfloat16))(tree))
        assert text.index("convert_element_type") < text.index("reshard")
