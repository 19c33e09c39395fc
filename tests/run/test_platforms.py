"""Settings of one kind of device on another: refused or warned of, in one sentence."""

import dataclasses

import jax
import pytest

from r1v3_jax import pipeline
from r1v3_jax.config import TINY, Compute, load_config
from r1v3_jax.config.model import check_attention
from r1v3_jax.run import platforms

HALF = Compute(dtype="bfloat16")

REFUSED = {
    ("splash", "gpu"): (
        "Compute.attention is 'splash', a kernel for a TPU, and this is a GPU; 'cudnn' (bfloat16 "
        "only) or 'reference' would do"
    ),
    ("splash", "cpu"): (
        "Compute.attention is 'splash', a kernel for a TPU, and this is a CPU; 'reference' would do"
    ),
    ("cudnn", "cpu"): (
        "Compute.attention is 'cudnn', a kernel for a GPU, and this is a CPU; 'reference' would do"
    ),
    ("cudnn", "tpu"): (
        "Compute.attention is 'cudnn', a kernel for a GPU, and this is a TPU; 'splash' or "
        "'reference' would do"
    ),
}


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("attention", ["reference", "splash", "cudnn"])
def test_a_kernel_of_another_device_is_refused(attention, platform):
    compute = dataclasses.replace(HALF, attention=attention)
    message = REFUSED.get((attention, platform))
    if message is None:
        platforms.check_platform(compute, platform)
        return
    with pytest.raises(ValueError) as error:
        platforms.check_platform(compute, platform)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "value, platform",
    [
        (None, ""),
        ("", ""),
        ("cpu", "cpu"),
        ("cuda", "gpu"),
        ("cuda,cpu", "gpu"),
        ("tpu,cpu", "tpu"),
        ("another", ""),
    ],
)
def test_the_platform_that_the_environment_names(value, platform, monkeypatch):
    named = type("Config", (), {"jax_platforms": value})
    monkeypatch.setattr(jax, "config", named)
    assert platforms.named_platform() == platform


def test_a_run_is_refused_before_it_writes(tmp_path):
    """Here jax was left to choose, and chose a CPU."""
    base = load_config("gpu_h200")
    config = dataclasses.replace(
        base, compute=dataclasses.replace(base.compute, attention="cudnn")
    )
    with pytest.raises(ValueError, match="a kernel for a GPU, and this is a CPU"):
        pipeline.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cudnn_does_not_take():
    cudnn = dataclasses.replace(HALF, attention="cudnn")
    check_attention(TINY, cudnn)
    for dtype, head_dim, wanted in (
        ("float32", 16, "takes numbers of 16 bits, and Compute.dtype is 'float32'"),
        ("bfloat16", 20, "and TextConfig has heads of 20; attention 'reference' would"),
        ("bfloat16", 264, "and TextConfig has heads of 264"),
    ):
        text = dataclasses.replace(TINY.text, head_dim=head_dim)
        model = dataclasses.replace(TINY, text=text)
        compute = dataclasses.replace(cudnn, dtype=dtype)
        with pytest.raises(ValueError, match=wanted):
            check_attention(model, compute)
        check_attention(model, dataclasses.replace(compute, attention="reference"))


def test_eight_bits_on_a_gpu_are_warned_of(caplog):
    for platform in ("cpu", "tpu"):
        platforms.warn_of_int8(platform)
    assert not caplog.records
    platforms.warn_of_int8("gpu")
    [record] = caplog.records
    assert "takes longer than one of 16 bits" in record.getMessage()
