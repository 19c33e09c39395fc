"""The bench: a tiny step in numbers, its yardstick, what is counted, and the refusals."""

import dataclasses
import functools
import json
import math
import re
import sys
import types

import arithmetic
import clock
import commands
import jax
import jax.numpy as jnp
import naive
import naive_pairs
import numpy as np
import parts
import pytest
from shapes import SHAPES, Shape, log_probabilities

from r1v3_jax.config import ModelConfig, TextConfig, VisionConfig
from r1v3_jax.models.flops import num_params
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages import preference
from r1v3_jax.train import policy_batch

TEXT = TextConfig(
    vocab_size=128, embed=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp=32
)
VISION = VisionConfig(image_size=28, patch_size=7, embed=16, layers=1, heads=2, mlp=32)
BLIND = ModelConfig(TEXT, None, image_token_id=None, end_token_id=2, pad_token_id=0)
SIGHTED = ModelConfig(
    TEXT, VISION, image_token_id=5, end_token_id=2, pad_token_id=0, max_tiles=1
)
SMALL = Shape(
    BLIND, prompts=2, group_size=3, prompt_tokens=12, new_tokens=5, accumulate=2
)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with jax.set_mesh(make_mesh((1, 1, 1))):
        yield


@pytest.fixture(scope="module")
def measured(one_device):
    bench = parts.Bench(SMALL)
    bench.run(["step", "distinct", "profile", "products", "naive", "pairs"], runs=1)
    return bench


def test_every_part_has_times(measured):
    report = json.loads(json.dumps(measured.report()))  # what a file holds
    timings = report["timings"]
    assert set(timings) == set(
        "step rollout batch update distinct prefill generate decode products naive_update "
        "pairs pair_update naive_pairs naive_pair_update".split()
    )
    for unit in ("cpu_s", "wall_s"):
        for name, row in timings.items():
            if name != "decode":
                seconds = row[unit]
                assert 0 <= seconds["min"] <= seconds["median"] <= seconds["max"] < 60
                assert math.isfinite(row[f"compile_{unit}"])
        # Decoding is a difference, next to nothing here: it may even be below 0.
        median = {name: row[unit]["median"] for name, row in timings.items()}
        difference = median["generate"] - median["prefill"]
        assert median["decode"] == pytest.approx(difference, abs=1e-9)
    assert timings["step"]["runs"] == 1
    # In two steps and beside the naive one, without the first.
    assert timings["update"]["runs"] == 3
    assert timings["step"]["compile_cpu_s"] > 0
    assert set(report["peak_rss_gib"]) == set(
        "step distinct profile products naive pairs".split()
    )
    assert "mfu" not in report  # a CPU
    assert "peak_device_gib" not in report


def test_the_products_are_those_of_all_matrices():
    """By the compiler's count: 2 a weight and row, of one trip through the loop."""
    layer = {
        "q": jnp.ones((8, 12)),
        "k": jnp.ones((8, 4)),
        "v": jnp.ones((8, 4)),
        "out": jnp.ones((12, 8)),
        "gate": jnp.ones((8, 20)),
        "up": jnp.ones((8, 20)),
        "down": jnp.ones((20, 8)),
    }
    head = jnp.ones((30, 8))
    rows = 6
    lowered = arithmetic.products.lower(
        [layer, layer], head, jnp.ones((rows, 8)), jnp.int32(3)
    )
    compiled = lowered.compile()  # nothing is left out after this
    assert len(re.findall(r" dot\(", compiled.as_text())) == 15
    weights = 2 * sum(w.size for w in layer.values()) + head.size
    wanted = 2 * rows * weights
    # The rest are sums and quotients of the rows.
    assert wanted <= compiled.cost_analysis()["flops"] <= 1.1 * wanted


def test_every_sample_runs_to_its_last_token(measured):
    for name in ("step", "rollout", "distinct"):
        assert measured.report()["timings"][name]["tokens"] == [2 * 3 * 5]


def test_samples_differ_in_reward(measured):
    groups = measured.groups(measured.sampler)
    # Not all: some have two samples of few tokens.
    assert any(group.has_signal for group in groups)
    assert groups[0].prompt.tokens.tolist() != groups[1].prompt.tokens.tolist()


def test_the_naive_update_is_the_update(measured):
    """The same loss and the same gradient, so that their times compare."""
    groups = measured.groups(measured.sampler)

    def metrics_of(make_batch, update):
        batch = make_batch(groups, measured.config, measured.processor)
        state = jax.tree.map(jnp.copy, measured.state)  # an update donates it
        _, metrics = update(state, measured.place(batch))
        return jax.device_get(metrics)

    ours = metrics_of(policy_batch.policy_batch, measured.update)
    naives = metrics_of(naive.naive_batch, measured.naive_update)
    for name in ("loss", "grad_norm", "sampler_gap", "policy_entropy"):
        np.testing.assert_allclose(ours[name], naives[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [BLIND, SIGHTED], ids=["text", "images"])
def test_the_naive_step_of_pairs_is_the_step(one_device, model):
    """The same loss and the same gradient for the same pairs, in two micro-batches."""
    shape = dataclasses.replace(SMALL, model=model, prompts=4)
    bench = parts.Bench(shape)
    pairs = bench.encoded_pairs()
    assert {(len(pair.chosen), len(pair.rejected)) for pair in pairs} == {(5, 4)}
    # Other weights than the policy's, so that no reward is 0.
    reference = jax.tree.map(lambda x: 1.5 * x, bench.state.model)

    # 1. Ours. An update donates its state.
    batch = bench.place(bench.pair_batch())
    batch = preference.with_reference(reference, batch, bench.preference)
    state = jax.tree.map(jnp.copy, bench.state)
    ours = jax.device_get(bench.pair_update(state, batch)[1])
    assert abs(ours["loss/preference"] - math.log(2)) > 1e-3

    # 2. The yardstick's.
    batch = naive_pairs.naive_pair_batch(pairs, bench.preference, bench.processor)
    batch = bench.place(batch)
    logprobs = naive_pairs.naive_score(reference, batch)
    batch = dataclasses.replace(batch, ref_logprobs=logprobs)
    naives = jax.device_get(bench.naive_pair_update(bench.state, batch)[1])
    for name in sorted(naives):
        np.testing.assert_allclose(
            ours[name], naives[name], rtol=1e-4, atol=1e-5, err_msg=name
        )
    assert {"loss", "grad_norm", "loss/generation"} <= set(naives)


def test_naive_rows_hold_the_images(one_device):
    """The model sees what the sampler saw: the sampler's log-probabilities come out again."""
    bench = parts.Bench(dataclasses.replace(SMALL, model=SIGHTED))
    groups = bench.groups(bench.sampler)
    for group in groups:
        assert (group.prompt.tokens == SIGHTED.image_token_id).sum() == 4
    batch = bench.place(naive.naive_batch(groups, bench.config, bench.processor))
    assert np.any(batch.sampler_logprobs < 0)
    loss = jax.jit(functools.partial(naive.naive_loss, config=bench.config))

    def metrics_of(batch, n):
        _, metrics = loss(bench.state.model, jax.tree.map(lambda x: x[n], batch))
        return metrics

    # The gap is the distance to the sampler's log-probabilities: here 1 nat more for each token.
    shifted = dataclasses.replace(batch, sampler_logprobs=batch.sampler_logprobs - 1)
    for n in range(2):
        metrics = metrics_of(batch, n)
        assert metrics["sampler_gap"] < 1e-5  # float32; some are equal to the bit
        assert metrics["policy_entropy"] > 1
        # Each micro-batch has half of the weight.
        gap = metrics_of(shifted, n)["sampler_gap"]
        np.testing.assert_allclose(gap, 0.5, atol=1e-5)


def test_ragged_samples_count_down_to_their_end(one_device):
    shape = Shape(
        BLIND, prompts=8, group_size=8, prompt_tokens=4, new_tokens=16, shortest=2
    )
    bench = parts.Bench(shape)
    groups = bench.groups(bench.sampler)
    lengths = np.concatenate([group.completions.lengths for group in groups])
    assert all(group.completions.ended.all() for group in groups)
    assert lengths.min() == 2
    assert lengths.max() > 12
    # Log-uniform: the middle is the square root of 2 * 16.
    assert 4 <= np.median(lengths) <= 8
    row = groups[0].completions.tokens[0]
    length = lengths[0]
    assert row[:length].tolist() == [*range(16 + length - 1, 16, -1), 2]


def test_lengths_of_a_lognormal_law():
    """Against the law itself: the middle of the samples, and what the limit cuts."""
    shape = Shape(BLIND, new_tokens=512, shortest=8, median=150.0, sigma=0.8)
    p = np.exp(log_probabilities(shape))
    p /= p.sum()
    lengths = np.arange(8, 513)
    assert abs(lengths[np.searchsorted(np.cumsum(p), 0.5)] - 150) <= 1

    def share_above(n):
        return 0.5 * math.erfc(math.log(n / 150) / 0.8 / 2**0.5)

    # The sums are of whole lengths, and nothing is below 8: a hundredth of the shares.
    assert p[lengths > 300].sum() == pytest.approx(share_above(300), rel=0.01)
    assert p[-1] == pytest.approx(share_above(512), rel=0.02)
    # Without sigma every length has 1 / n.
    flat = dataclasses.replace(shape, sigma=0.0)
    assert np.exp(log_probabilities(flat))[[0, -1]] == pytest.approx([1 / 8, 1 / 512])


def test_samples_of_a_lognormal_law(one_device):
    shape = Shape(
        BLIND,
        prompts=8,
        group_size=8,
        prompt_tokens=4,
        new_tokens=16,
        shortest=2,
        median=12.0,
        sigma=0.5,
    )
    bench = parts.Bench(shape)
    groups = bench.groups(bench.sampler)
    lengths = np.concatenate([group.completions.lengths for group in groups])
    p = np.exp(log_probabilities(shape))
    expected = p[-1] / p.sum()
    # 64 samples, of which 0.28 are cut: four standard errors.
    assert abs(np.mean(lengths == 16) - expected) < 4 * (expected / 64) ** 0.5
    assert 10 <= np.median(lengths) <= 14


def test_slots_and_static_batches_sample_as_many(one_device):
    """Eight slots: of 8 prompts x 4 samples at a time, or of two prompts after two."""
    shape = Shape(
        BLIND, prompts=8, group_size=4, prompt_tokens=4, new_tokens=64, shortest=2
    )
    bench = parts.Bench(shape, slots=8)
    bench.run(["sampler", "static", "carried"], runs=2)
    timings = bench.report()["timings"]
    slots = timings["sampler"]
    static = timings["static"]
    # 32 samples of (64 - 2) / log(64 / 2) = 17.9 tokens, give or take five of their means' spreads.
    for row in (slots, static):
        assert 280 < row["tokens"][0] < 880
    # A batch of 8 runs to its longest sample, log-uniform from 2 to 64; a freed slot is taken.
    assert static["busy"] < slots["busy"] <= 1
    assert static["busy"] < 0.6
    # No slot waits for the last samples of a step.
    carried = timings["carried"]
    assert carried["busy"] == timings["carried_rollout"]["busy"] > slots["busy"]
    assert timings["carried_update"]["runs"] == 2


def test_the_share_of_slots_in_use_by_hand():
    def batch(lengths, slot_steps):
        completions = types.SimpleNamespace(lengths=np.asarray(lengths))
        group = types.SimpleNamespace(
            completions=completions, busy_slots=sum(lengths) / slot_steps
        )
        return [group]

    uneven = batch([3, 1], 2 * 3)
    even = batch([10, 10], 2 * 10)
    assert parts.counts_of([uneven]) == (4, 4 / 6)
    assert parts.counts_of([uneven, even]) == (24, pytest.approx(24 / 26))


def test_flops_of_a_small_step():
    text = TextConfig(
        vocab_size=100, embed=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp=16
    )
    model = dataclasses.replace(BLIND, text=text)
    shape = Shape(model, prompts=3, group_size=5, prompt_tokens=10, new_tokens=4)
    layers = 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16)  # q, k and v, out, mlp
    tokens, sampled = 3 * 10 + 15 * 4, 15 * 4
    pairs = 3 * 10 * 10 / 2 + 15 * (10 * 4 + 4 * 4 / 2)
    forward = 2 * layers * tokens + 2 * 100 * 8 * sampled + 2 * 2 * (2 * 8) * pairs
    assert arithmetic.flops(shape) == {
        "rollout": forward,
        "update": 3 * forward,
        "step": 4 * forward,
    }


def test_shapes_are_those_of_the_peers():
    parameters = {name: num_params(shape.model) for name, shape in SHAPES.items()}
    assert parameters["tunix"] == 6_033_664  # as tunix_baseline.py counts
    assert parameters["trl"] == 5_621_888  # as trl_baseline.py counts
    assert SHAPES["trl"].model.image_tokens_per_tile == 64
    assert SHAPES["tunix"].with_vocabulary(32768).model.text.vocab_size == 32768


def test_runs_without_the_first():
    runs = [
        clock.Run(9, 8, 40),
        clock.Run(2, 4, 40),
        clock.Run(1, 2, 40),
        clock.Run(3, 2, 40),
    ]
    assert clock.summary(runs) == {
        "runs": 3,
        "cpu_s": {"min": 2, "median": 2, "max": 4},
        "compile_cpu_s": 6,
        "wall_s": {"min": 1, "median": 2, "max": 3},
        "compile_wall_s": 7,
        "tokens": [40, 40, 40],
        "tokens_per_s": 20,
        "tokens_per_cpu_s": 15,
    }


def test_ratios_are_taken_within_pairs():
    pairs = [
        ({"s": 2.0}, {"s": 1.0}),
        ({"s": 9.0}, {"s": 3.0}),
        ({"s": 4.0}, {"s": 8.0}),
    ]
    assert clock.ratios(pairs) == {"s": {"pairs": [2.0, 3.0, 0.5], "median": 2.0}}


def test_refusals(tmp_path):
    cases = {
        ("--compare=verl",): (
            "error: --compare: no peer 'verl'; there are tunix, trl, transformers"
        ),
        ("--compare=trl", f"--trl_python={tmp_path}/python"): (
            f"error: --trl_python={tmp_path}/python: no such file; name another, or type\n"
            "  python3.11 -m venv trl-env\n"
            "  trl-env/bin/pip install torch==2.13.0\n"
            "  trl-env/bin/pip install trl==1.16.0 transformers==5.24.0 accelerate==1.15.0 "
            "datasets==5.2.0 pillow"
        ),
        (
            "--compare=tunix",
            f"--tunix_python={sys.executable}",
            f"--baselines={tmp_path}",
        ): f"error: --baselines={tmp_path}: no tunix_baseline.py in that directory",
        ("--growth",): (
            "error: --growth writes two files; name the first with --out=FILE.json"
        ),
        ("--compare=trl", "--mesh=1,1,1"): (
            "error: --compare is made on one device; leave out --mesh"
        ),
        ("--compare=trl", "--attention=splash", "--device=gpu"): (
            "error: Compute.attention is 'splash', a kernel for a TPU, and this is a GPU; 'cudnn' "
            "(bfloat16 only) or 'reference' would do"
        ),
        ("--compare=trl", "--attention=cudnn", "--device=gpu"): (
            "error: Compute.attention 'cudnn' takes numbers of 16 bits, and Compute.dtype is "
            "'float32'; dtype 'bfloat16' would do, or attention 'reference'"
        ),
        ("--attention=cudnn", "--dtype=bfloat16"): (
            "error: Compute.attention is 'cudnn', a kernel for a GPU, and this is a CPU; "
            "'reference' would do"
        ),
        ("--device=gpu",): (
            "error: --device is where --compare is made; JAX_PLATFORMS=cuda chooses for the parts"
        ),
        ("--parts=step,all",): (
            "error: --parts: no part 'all'; there are sampler, static, distinct, step, carried, "
            "profile, products, naive, pairs"
        ),
        (f"--out={tmp_path}/no/x.json",): (
            f"error: --out={tmp_path}/no/x.json: its directory does not exist"
        ),
    }
    for flags, message in cases.items():
        process = commands.run("tools/bench", *flags)
        assert process.returncode == 1
        assert process.stderr == f"{message}\n"
