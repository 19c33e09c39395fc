"""The decoding kernels: against plain numpy in interpret mode, and through the TPU compiler.

The second half asks the TPU compiler, see `tpu_compiler.py`.
"""

import dataclasses
import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding
from random_models import random_model
from tpu_compiler import answer_of, devices, needs_libtpu

from r1v3_jax.config import TINY, Compute
from r1v3_jax.models import build
from r1v3_jax.models.attention import NEVER
from r1v3_jax.models.decode_attention import attend_slots, merge_softmax
from r1v3_jax.models.decode_kernels import append, attend, block_size, block_to_fetch
from r1v3_jax.sharding import DECODE, make_mesh, shardings

# K, Q, S, H, block; the narrow heads are stored with the slots last.
SHAPES = [
    (2, 5, 300, 128, 128),  # three blocks of 128, the last one past the end
    (1, 7, 200, 64, 128),
    (2, 1, 40, 16, 2048),  # one block of 40
]
BOTH = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
CASES = pytest.mark.parametrize("shape", SHAPES, ids=str)
LAYER = 1  # of 3


def normal(seed, shape, dtype):
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(dtype)


def reference(q, k, v, lengths):
    """Computes what `attend` returns for one layer, in float64, and the size of its terms.

    The size is sum exp(s - top) |v|: the rounding of the weights is measured by it.
    """
    q = q.astype(np.float64)
    k = k.astype(np.float64)
    v = v.astype(np.float64)
    used = (np.arange(k.shape[2]) < lengths[:, None])[:, None, None]  # [B, 1, 1, S]
    scores = np.einsum("bkqh,bksh->bkqs", q, k) * q.shape[-1] ** -0.5
    top = np.max(np.where(used, scores, NEVER), axis=-1)
    exponentials = np.exp(scores - top[..., None], where=used, out=0 * scores)
    weights = np.where(used, exponentials, 0)
    out = np.einsum("bkqs,bksh->bkqh", weights, v)
    size = np.einsum("bkqs,bksh->bkqh", weights, np.abs(v))
    return out, top, np.sum(weights, axis=-1), size


def cache_of(entries, used, dtype):
    """[3, B, K, S, H] with the entries in LAYER, and nan wherever nothing may be read."""
    cache = np.full((3, *entries.shape), np.nan, dtype)
    cache[LAYER] = np.where(used, entries, cache[LAYER])
    return cache


@BOTH
@CASES
def test_attention_over_the_slots_in_use(shape, dtype):
    K, Q, S, H, block = shape
    lengths = np.array([0, 1, S, 37, min(S, 128)], np.int32)
    q = normal(0, (5, K, Q, H), dtype)
    k, v = (normal(seed, (5, K, S, H), dtype) for seed in (1, 2))
    expected_out, expected_top, expected_total, size = reference(q, k, v, lengths)

    used = (np.arange(S) < lengths[:, None])[:, None, :, None]
    caches = [cache_of(x, used, dtype) for x in (k, v)]
    actual = attend(q, *caches, jnp.int32(LAYER), lengths, block=block, interpret=True)
    out, top, total = (np.asarray(x) for x in actual)

    assert out.dtype == top.dtype == total.dtype == np.float32
    np.testing.assert_allclose(top, expected_top, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(total, expected_total, rtol=1e-5)
    # Each weight is rounded to the 8 bits of bfloat16 once, by 2^-8 of itself at most.
    bound = 1e-5 + (2**-8 if dtype == jnp.bfloat16 else 0)
    assert np.all(np.abs(out - expected_out) <= bound * size)
    assert np.all(out[0] == 0)
    assert np.all(top[0] == np.float32(NEVER))
    assert np.all(total[0] == 0)


def test_equals_what_the_model_does_without_it():
    lengths = jnp.array([4, 19, 0, 23])
    q = normal(0, (4, 2, 5, 16), jnp.float32)
    k = normal(1, (4, 2, 24, 16), jnp.float32)
    v = normal(2, (4, 2, 24, 16), jnp.float32)
    layer = jnp.int32(0)
    expected = attend_slots(q, k, v, lengths)
    actual = attend(q, k[None], v[None], layer, lengths, interpret=True)
    for ours, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)

    # Keys in two parts are keys in one; an empty part changes nothing.
    before = attend_slots(q, k[:, :, :10], v[:, :, :10], jnp.minimum(lengths, 10))
    after = attend(
        q,
        k[None, :, :, 10:],
        v[None, :, :, 10:],
        layer,
        jnp.maximum(lengths - 10, 0),
        interpret=True,
    )
    merged = merge_softmax([before, after])
    out, _, total = expected
    whole = out / jnp.where(lengths == 0, 1, total.T).T[..., None]
    used = np.asarray(lengths) > 0
    np.testing.assert_allclose(merged[used], whole[used], rtol=1e-5, atol=1e-6)


@BOTH
@CASES
def test_queries_against_rows_of_others(shape, dtype):
    K, Q, S, H, block = shape
    rows = np.array([3, 0, 3, 1, 3, 0], np.int32)  # several of a row, none of row 2
    used = np.array([S, 37, -1, min(S, 129)])  # slots of a row
    lengths = used[rows].astype(np.int32)
    q = normal(0, (6, K, Q, H), dtype)
    k, v = (normal(seed, (4, K, S, H), dtype) for seed in (1, 2))
    expected_out, expected_top, expected_total, size = reference(
        q, k[rows], v[rows], lengths
    )

    is_used = (np.arange(S) < used[:, None])[:, None, :, None]
    caches = [cache_of(x, is_used, dtype) for x in (k, v)]
    arrays = (q, *caches, jnp.int32(LAYER), lengths)
    order = np.argsort(rows) if block == 128 else np.arange(6)[::-1]  # any will do
    lookup = (rows, order.astype(np.int32))
    out, top, total = attend(*arrays, *lookup, block=block, interpret=True)

    np.testing.assert_allclose(top, expected_top, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(total, expected_total, rtol=1e-5)
    bound = 1e-5 + (2**-8 if dtype == jnp.bfloat16 else 0)  # as above
    assert np.all(np.abs(out - expected_out) <= bound * size)


def test_a_model_decodes_with_the_kernels_as_without():
    """Samples of any prompts, every device its own."""
    config = dataclasses.replace(TINY, vision=None, image_token_id=None)
    # On each of two devices the prompts 0 and 1.
    rows = np.array([1, 0, 1, 1], np.int32)
    tokens = np.arange(20, 24, dtype=np.int32)
    prompts = np.random.default_rng(0).integers(10, 100, (4, 12)).astype(np.int32)
    lengths = np.array([12, 5, 7, 1], np.int32)
    mesh = make_mesh((2, 1, 1))

    @functools.partial(jax.jit, static_argnames="attention")
    def run(model, prompts, lengths, rows, tokens, attention):
        _, prompt = model.prefill(prompts, lengths)
        cache = model.new_cache(prompt, max_tokens=2, rows=rows)
        compute = dataclasses.replace(model.compute, attention=attention)
        graph = nnx.graphdef(build.abstract(config, compute))
        model = nnx.merge(graph, nnx.state(model))
        for step in range(2):
            logits, cache = model.decode(tokens + step, cache)
        return logits

    def put(x):
        spec = DECODE.spec("batch", *[None] * (x.ndim - 1))
        return jax.device_put(x, NamedSharding(mesh, spec))

    graph, state = nnx.split(random_model(config, Compute(rules=DECODE)))
    with jax.set_mesh(mesh):
        placement = shardings(nnx.merge(graph, state), DECODE, mesh)
        model = nnx.merge(graph, jax.device_put(state, placement))
        arrays = (model, *map(put, (prompts, lengths, rows, tokens)))
        expected = run(*arrays, "reference")
        with pltpu.force_tpu_interpret_mode():
            actual = run(*arrays, "splash")
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize("attention", ["reference", "splash"])
def test_tokens_read_together_are_those_read_one_by_one(attention):
    """One token, then three of which two stay, then one: against four, one by one."""
    config = dataclasses.replace(TINY, vision=None, image_token_id=None)
    model = random_model(config, Compute())
    random = np.random.default_rng(0)
    prompts = random.integers(10, 100, (2, 12)).astype(np.int32)
    lengths = np.array([12, 5], np.int32)
    tokens = random.integers(10, 100, (4, 4)).astype(np.int32)  # of 4 samples
    wrong = (tokens[:, 3] + 1).astype(np.int32)  # the third of three, taken back

    def cache_and_model(model, attention):
        _, prompt = model.prefill(prompts, lengths)
        # Four slots: of three tokens behind the first the last has the last slot.
        sizes = {"group_size": 2, "max_tokens": 4, "several": True}
        cache = model.new_cache(prompt, **sizes)
        compute = dataclasses.replace(model.compute, attention=attention)
        graph = nnx.graphdef(build.abstract(config, compute))
        return cache, nnx.merge(graph, nnx.state(model))

    @jax.jit
    def one_by_one(model):
        cache, model = cache_and_model(model, "reference")
        found = []
        for t in range(4):
            logits, cache = model.decode(tokens[:, t], cache)
            found.append(logits)
        return jnp.stack(found, axis=1)

    @jax.jit
    def together(model):
        cache, model = cache_and_model(model, attention)
        first, cache = model.decode(tokens[:, 0], cache)
        three = np.stack([tokens[:, 1], tokens[:, 2], wrong], axis=1)
        several, hidden, cache = model.decode_several(three, cache)
        cache = dataclasses.replace(cache, lengths=cache.lengths + 2)
        last, _ = model.decode(tokens[:, 3], cache)
        of_hidden = model.logits(hidden)
        return jnp.stack([first, *several[:, :2].swapaxes(0, 1), last], 1), (
            several,
            of_hidden,
        )

    want = one_by_one(model)
    if attention == "splash":
        with pltpu.force_tpu_interpret_mode():
            got, (several, of_hidden) = together(model)
    else:
        got, (several, of_hidden) = together(model)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_array_equal(several, of_hidden)
    assert np.abs(want).max() > 1


def test_only_blocks_in_use_are_fetched():
    def fetched(length):
        return [int(block_to_fetch(step, length, 4)) for step in range(4)]

    assert fetched(0) == fetched(1) == fetched(4) == [0, 0, 0, 0]
    assert fetched(5) == fetched(8) == [0, 1, 1, 1]
    assert fetched(16) == [0, 1, 2, 3]


def test_block_sizes():
    assert block_size(1, 8192, 128, 2, 2048) == 2048
    assert block_size(8, 8192, 128, 2, 2048) == 512  # 2 MiB of keys and values
    assert block_size(1, 2100, 128, 2, 2048) == 1152  # two blocks, nearly even
    assert block_size(1, 40, 128, 2, 2048) == 40


@BOTH
@CASES
def test_append_writes_one_slot_and_nothing_else(shape, dtype):
    K, _, S, H, _ = shape
    slots = np.array([0, S - 1, S, 17, S + 100])  # two of them dropped
    caches = [normal(seed, (3, 5, K, S, H), dtype) for seed in (0, 1)]
    entries = [normal(seed, (3, 5, K, H), dtype) for seed in (2, 3)]
    for cache in caches:
        cache[:, :, :, 5:16] = np.nan  # copied like anything else
    written = append(*caches, *entries, jnp.int32(slots), interpret=True)
    for cache, entry, actual in zip(caches, entries, written, strict=True):
        for row in (0, 1, 3):
            cache[:, row, :, slots[row]] = entry[:, row]
        assert np.asarray(actual).tobytes() == cache.tobytes()


def test_one_dtype_for_all():
    caches = jnp.zeros((2, 1, 1, 1, 16, 16), jnp.bfloat16)
    with pytest.raises(ValueError, match="got float32 for caches of bfloat16"):
        attend(
            jnp.zeros((1, 1, 1, 16)),
            *caches,
            jnp.int32(0),
            jnp.int32([1]),
            interpret=True,
        )


# -------------------------------------------------------------------------------------------------
# through the TPU compiler

# L, B, K, Q, S, H, dtype
COMPILED = [
    (2, 4, 2, 5, 384, 128, "float32"),
    (2, 4, 2, 7, 1000, 64, "bfloat16"),
    (2, 3, 1, 5, 1000, 128, "bfloat16"),  # the last block is not full
    (2, 2, 8, 5, 4096, 128, "bfloat16"),  # all heads of a model on one device
    (4, 16, 1, 5, 8192, 128, "bfloat16"),  # the 38B model, tensor 8
    (24, 16, 2, 7, 8192, 64, "bfloat16"),  # InternVL3-1B
]


@pytest.fixture(scope="module")
def reports():
    return answer_of(__file__)


@needs_libtpu
@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_a_scan_over_layers_never_copies_the_cache(reports, case):
    L, B, K, Q, S, H, dtype = case
    report = reports[str(case)]
    print(f"{case}, TPU compiler's estimate for v5p (nothing was run): {report}")
    # Only the append makes arrays of a layer's size, and it makes them in place.
    assert report["large"] == {"custom-call decode_append": 1}
    assert report["aliased"] >= 2 * L * B * K * S * H * jnp.dtype(dtype).itemsize
    # The new entries of narrow heads are columns, which memory pads to 128 lanes.
    columns = 0 if H % 128 == 0 else 2 * L * B * K * H * 128 * jnp.dtype(dtype).itemsize
    assert report["temporary"] < 2 * 2**20 + columns
    assert report["vmem"] < 8 * 2**20  # of 16 MiB
    read = 2 * B * K * S * H * jnp.dtype(dtype).itemsize
    assert read <= report["bytes_accessed"] < 1.05 * read  # one layer, all slots


def compile_all() -> dict:
    """A token's pass over the layers: the cache is read in a scan, written after it, donated."""
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((1,), ("x",), devices=devices()[:1])
    spec = PartitionSpec()

    def token(q, k_new, v_new, k, v, slots):
        def layer(x, i):
            out, _, total = attend(x, k, v, i, slots)
            x = (out / total[..., None]).astype(x.dtype)
            return x, (k_new + x[:, :, 0], v_new)

        x, entries = jax.lax.scan(layer, q, jnp.arange(k.shape[0]))
        return x, *append(k, v, *entries, slots)

    token = jax.shard_map(token, in_specs=(spec,) * 6, out_specs=spec, check_vma=False)

    def compiled(L, B, K, Q, S, H, dtype):
        def array(shape, dtype=dtype):
            sharding = NamedSharding(mesh, spec)
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        query = array((B, K, Q, H))
        entry = array((B, K, H))
        cache = array((L, B, K, S, H))
        slots = array((B,), jnp.int32)
        args = (query, entry, entry, cache, cache, slots)
        return jax.jit(token, donate_argnums=(3, 4)).lower(*args).compile()

    reports = {}
    with jax.set_mesh(mesh):
        for case in COMPILED:
            layer_size = math.prod(case[1:3] + case[4:6])
            reports[str(case)] = report(compiled(*case), layer_size)
    return reports


def report(compiled, layer_size: int) -> dict:
    """What the compiler says of a program; large: what makes arrays of a layer's size, counted."""
    text = compiled.as_text()
    memory = compiled.memory_analysis()
    passed_on = ("parameter", "get-tuple-element", "tuple", "while", "bitcast")
    large = {}
    for line in text.splitlines():
        made = re.match(r"\s*(?:ROOT )?%(\w+)\S* = (.*?) ([a-z][a-z-]*)\(", line)
        if made is None or made[3] in passed_on:
            continue
        result, shapes, operation = made.groups()
        dims = re.findall(r"\[([\d,]+)\]", shapes)
        sizes = [math.prod(map(int, shape.split(","))) for shape in dims]
        if max(sizes, default=0) >= layer_size:
            is_kernel = operation == "custom-call"
            name = f"{operation} {result}" if is_kernel else operation
            large[name] = large.get(name, 0) + 1
    lines = text.splitlines()
    attend = next(line for line in lines if re.search(r"%decode_attend\S* = ", line))
    scoped = r'"used_scoped_memory_configs":\[\{"memory_space":"1".*?"size":"(\d+)"'
    vmem = re.findall(scoped, text)
    return {
        "large": large,
        "bytes_accessed": int(re.search(r'"bytes_accessed":"(\d+)"', attend)[1]),
        "vmem": max(map(int, vmem)),
        "temporary": memory.temp_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(compile_all()))
