"""--dry_run: what it refuses, what it prints, and the real compiler on the full-size table.

All except the refusals need the package libtpu. Figures are the TPU compiler's estimates.
"""

import dataclasses
import json
import os
import re
import time
from pathlib import Path

import commands
import kept_programs
import pytest
from tpu_compiler import needs_libtpu

from r1v3_jax.config import load_config, topology
from r1v3_jax.models import flops
from r1v3_jax.pipeline import preflight


def launch(*arguments, cache: Path | None = None, timeout=900):
    """Runs the launcher to its end.

    cache: where the outcomes of compilations lie; default: those of earlier runs of the tests.
    """
    cache = cache or kept_programs.tpu_programs()
    environment = commands.environment(
        XDG_CACHE_HOME=str(cache),
        XLA_FLAGS=os.environ["XLA_FLAGS"],
        JAX_DISABLE_MOST_OPTIMIZATIONS="0",
    )
    command = [*commands.LAUNCHER, *arguments]
    return commands.run(*command, env=environment, timeout=timeout)


def check_refused(process, *messages):
    """One message on stderr, exit code 1, no traceback."""
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    for message in messages:
        assert message in process.stderr


# --- slices ------------------------------------------------------------------------------------


def test_slices():
    pod = topology.parse("v5p:4x4x8")
    assert (pod.chips, pod.hosts, pod.accelerator_type) == (128, 32, "v5p-256")
    small = topology.parse("v5e:2x4")
    assert (small.chips, small.hosts, small.accelerator_type) == (8, 1, "v5litepod-8")
    assert topology.parse("v5p:8x8x12").chips == 768
    for name in (
        "v5p",
        "v5p:4x4",
        "v5p:3x3x3",
        "v5p:8x4x4",
        "v4:2x2x1",
        "v5e:3x3",
        "v5p:4x4xx8",
    ):
        with pytest.raises(ValueError, match="topology"):
            topology.parse(name)


# --- refusals ----------------------------------------------------------------------------------

POD = load_config("tpu_v5p_256")


def changed(**changes):
    """The run of the pod, with other fields of its stage."""
    return POD.with_stages(grpo=dataclasses.replace(POD.stages["grpo"], **changes))


REFUSED = {
    "a mesh of another size": (
        lambda: dataclasses.replace(POD, mesh=(8, 4, 2)),
        r"Run.mesh \(8, 4, 2\) has 64 devices and topology v5p:4x4x8 128 chips; .*\(16, 4, 2\)",
    ),
    "a topology that does not exist": (
        lambda: dataclasses.replace(POD, topology="v5p:4x4x9"),
        "topology 'v5p:4x4x9': v5p has 2x2x1, ",
    ),
    "rows that do not split": (
        lambda: changed(accumulate=32),
        r"grpo.prompts x grpo.group_size / grpo.accumulate = 32 does not split over data x fsdp "
        r"= 64 of mesh \(16, 4, 2\); 64 would do",
    ),
    "tiles that do not split": (
        lambda: changed(tiles=500),
        "grpo.tiles = 500 does not split over data x fsdp x tensor = 128 .*; 512 would do",
    ),
    "a bucket's tiles that do not split": (
        lambda: changed(buckets=((1024, 100),)),
        "grpo.buckets: tiles = 100 does not split over data x fsdp x tensor = 128 .*; 128 would do",
    ),
    "a bucket that is no pair": (
        lambda: changed(buckets=(24, 8)),
        r"GRPO.buckets: 24 is not \(prompt tokens, tiles\); give pairs .* as \(\(1024, 128\),\)",
    ),
    "a bucket of one number": (
        lambda: changed(buckets=((24,),)),
        r"GRPO.buckets: \(24,\) is not",
    ),
    "a bucket of half a token": (
        lambda: changed(buckets=((24.5, 8),)),
        r"GRPO.buckets: \(24.5, 8\) is not",
    ),
    "buckets that are a number": (
        lambda: changed(buckets=24),
        "GRPO.buckets: 24 is not",
    ),
    "a bucket without images": (
        lambda: changed(buckets=((1024, 0),)),
        "grpo.buckets: tiles = 0: this model has a vision tower, .*; 128 would do",
    ),
    "no tiles": (
        lambda: changed(tiles=0),
        "grpo.tiles = 0: this model has a vision tower",
    ),
    "buckets that do not rise": (
        lambda: changed(buckets=((2048, 256), (1024, 256))),
        r"GRPO.buckets: .* = \(4096, 512\); \(2048, 256\) stands before \(1024, 256\)",
    ),
    "a bucket that is the whole": (
        lambda: changed(buckets=((4096, 256),)),
        r"must rise, the tokens strictly, .*; \(4096, 256\) stands before \(4096, 512\)",
    ),
    "slots that do not split": (
        lambda: changed(slots=100),
        r"grpo.slots = 100 does not split over data = 16 of mesh \(16, 4, 2\); 112 would do",
    ),
    "slots of a probe that do not split": (
        lambda: dataclasses.replace(
            POD, evaluate=dataclasses.replace(POD.evaluate, slots=8)
        ),
        r"evaluate.slots = 8 does not split over data = 16 of mesh \(16, 4, 2\); 16 would do",
    ),
    "more slots than samples": (
        lambda: changed(slots=1040),
        "GRPO.slots is 1040; it must be at most prompts x group_size = 1024",
    ),
    "eight bits without a correction": (
        lambda: changed(rollout_int8=True),
        "GRPO.rollout_int8 samples from .* wants a correction, .*; correction.cap = 2.0 would",
    ),
    "fewer slots than none": (
        lambda: changed(slots=-1),
        "GRPO.slots is -1; it must be at least 0",
    ),
    "more slots than questions": (
        lambda: dataclasses.replace(POD.evaluate, slots=512),
        "Evaluate.slots is 512; it must be at most batch x samples = 256",
    ),
    "a context beyond the model's": (
        lambda: changed(max_completion_tokens=32768),
        "= 36864 exceed the model's 32768 positions; at most 28672 completion tokens would do",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_that_cannot_be_is_refused_with_one_that_can(name):
    make, message = REFUSED[name]
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        make()
    assert time.process_time() - start < 1


def test_a_mesh_that_does_not_divide_the_model_is_refused_by_name(tmp_path):
    stage = dataclasses.replace(
        POD.stages["grpo"],
        train=lambda index: None,
        accumulate=8,
        evaluate_every=0,
    )
    config = dataclasses.replace(
        POD,
        mesh=(8, 16, 1),
        init_from="",
        write_tokenizer=print,
        stages={"grpo": stage},
    )
    with pytest.raises(ValueError, match="kv_heads of 8 cannot be split over .* = 16"):
        preflight.check(config)


def test_what_is_missing_is_named_before_anything_starts(tmp_path):
    # No checkpoint; then one of another model; then no data. Each in a process, as a user sees it.
    start = time.time()
    missing = f"{tmp_path}/none"
    process = launch("--config=tpu_v5e_8", f"--config.init_from={missing}")
    check_refused(process, missing)
    from_nothing = dataclasses.replace(
        load_config("tpu_v5e_8"), init_from="", write_tokenizer=print
    )
    message = "no such file of questions; give .jsonl"
    with pytest.raises(FileNotFoundError, match=message):
        preflight.check(from_nothing)
    print(f"{time.time() - start:.1f} s wall, most of it imports")


def test_a_url_is_no_workdir(tmp_path):
    process = launch("--config=digits_smoke", "--workdir=gs://bucket/run")
    check_refused(process, "wanted a directory that every host sees")


# --- the compiler ------------------------------------------------------------------------------

SMALL = """
from r1v3_jax.config import (
    GRPO, Compute, Evaluate, ModelConfig, Run, TextConfig, VisionConfig
)
from r1v3_jax.tasks import digits

words = digits.vocabulary()
config = Run(
    name="small",
    model=ModelConfig(
        text=TextConfig(
            vocab_size=len(words), embed=512, layers=2, heads=8, kv_heads=4, head_dim=128, mlp=1024
        ),
        vision=VisionConfig(image_size=56, embed=256, layers=2, heads=2, mlp=512),
        image_token_id=words.index("<IMG_CONTEXT>"),
        end_token_id=words.index("<|im_end|>"),
        pad_token_id=words.index("<|endoftext|>"),
    ),
    compute=Compute(dtype="bfloat16", remat="dots", attention="splash", logprob_chunk=128),
    mesh=(1, 2, 2),
    topology="v5p:2x2x1",
    write_tokenizer=digits.write_tokenizer,
    stages={
        "grpo": GRPO(
            train=digits.Digits().mix(normal=1), steps=10, prompts=2, group_size=4,
            max_prompt_tokens=128, max_completion_tokens=128, tiles=4, updates_per_rollout=2,
        ),
    },
)
"""
SMALL_PROGRAMS = ("reshard", "encode_images", "prefill", "decode", "score", "update")


def write_small(tmp_path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    return path


def cached(tmp_path) -> dict[Path, int]:
    """The cached outcomes, and when each was written."""
    files = (tmp_path / "cache").rglob("*.gz")
    return {path: path.stat().st_mtime_ns for path in files}


@needs_libtpu
@pytest.mark.slow
def test_a_small_run_with_machine_code_and_again_from_the_cache(tmp_path):
    out = tmp_path / "out.json"
    command = (
        f"--config={write_small(tmp_path)}",
        "--dry_run",
        "--dry_run_full",
        f"--dry_run_out={out}",
    )
    cache = tmp_path / "cache"
    process = launch(*command, cache=cache)
    assert process.returncode == 0, process.stderr[-3000:]
    check_samples(process.stdout)
    summary = json.loads(out.read_text())
    check_summary(summary)
    assert "beside it" in process.stdout

    entries = cached(tmp_path)
    assert len(entries) == len(SMALL_PROGRAMS)
    repeated = launch(*command, cache=cache)
    assert repeated.returncode == 0
    assert json.loads(out.read_text()) == summary
    assert cached(tmp_path) == entries


def check_samples(stdout: str) -> None:
    """Three samples as the model sees them, image tokens counted and not printed."""
    header = r"^grpo digits/home/train/0/normal/\d: \d+ tokens, 1 tiles$"
    assert len(re.findall(header, stdout, re.MULTILINE)) == 3
    assert "<IMG_CONTEXT> x 4" in stdout
    assert "answer: " in stdout


def check_summary(summary: dict) -> None:
    """The JSON file: what fits, what each program takes, and what a step takes."""
    assert summary["topology"] == "v5p:2x2x1"
    assert summary["chips"] == 4
    assert summary["fits"]
    programs = summary["programs"]
    assert list(programs) == [f"grpo/{name}" for name in SMALL_PROGRAMS]
    for name, program in programs.items():
        sizes = [program[f"{size}_gib"] for size in ("argument", "peak", "limit")]
        assert 0 < sizes[0] < sizes[1] < sizes[2] < 96, name
        assert program["seconds"] > 0, name
        assert program["bound"], name

    decode = programs["grpo/decode"]
    assert decode["trips"] == 128
    assert 0 < decode["seconds_a_trip"] < decode["seconds"]
    # Over the loop the kernels read half a cache; every other program is as estimated.
    half = decode["parts"]["kernels"] / 2
    saved = decode["seconds_with_a_full_cache"] - decode["seconds"]
    assert half > 0
    assert abs(saved - half) < 1e-12

    update = programs["grpo/update"]
    assert update["seconds"] == update["seconds_with_a_full_cache"]
    assert update["calls"] == 2
    assert update["flops"] > programs["grpo/score"]["flops"]
    assert update["collectives"]["all-gather"]["count"] > 0

    step = summary["stages"]["grpo"]
    assert summary["step_seconds"] == step["step_seconds"]
    assert abs(sum(step["seconds"].values()) - step["step_seconds"]) < 1e-9
    assert 0 < summary["mfu"] < 1


def test_a_pod_config_where_there_is_no_tpu(tmp_path):
    config = f"--config={write_small(tmp_path)}"
    process = launch(config, f"--workdir={tmp_path}/run")
    check_refused(
        process,
        "runs on the TPU slice v5p:2x2x1, and no TPU was found",
        "--dry_run compiles it anywhere",
    )


@needs_libtpu
def test_a_program_of_another_name_is_refused(tmp_path):
    process = launch(
        f"--config={write_small(tmp_path)}",
        "--dry_run",
        "--nodry_run_data",
        "--dry_run_only=grpo/decod",
    )
    check_refused(process, "no program 'grpo/decod'; there are: grpo/reshard")


@needs_libtpu
def test_what_does_not_fit_is_refused_with_the_compilers_number(tmp_path):
    """Compiled anew in every run of the tests: nothing is remembered in an empty directory."""
    out = tmp_path / "out.json"
    process = launch(
        "--config=tpu_v5p_256_text",
        "--topology=v5p:2x2x1",
        "--dry_run",
        "--nodry_run_data",
        "--dry_run_only=cold_start/update",
        f"--dry_run_out={out}",
        cache=tmp_path / "cache",
    )
    assert "DOES NOT FIT" in process.stdout, process.stderr[-2000:]
    check_refused(process, "not every program fits")
    update = json.loads(out.read_text())["programs"]["cold_start/update"]
    assert update["peak_gib"] > update["limit_gib"] > 90


@needs_libtpu
def test_the_whole_table_of_the_pod(tmp_path):
    """Full size, fast mode: the 38B on 128 chips, 1,024 samples of 8,192 tokens."""
    out = tmp_path / "out.json"
    process = launch(
        "--config=tpu_v5p_256",
        "--dry_run",
        "--nodry_run_data",
        f"--dry_run_out={out}",
    )
    assert process.returncode == 0, process.stderr[-3000:]
    print(process.stdout)
    summary = json.loads(out.read_text())
    rollout = ("encode_images", "prefill", "decode")
    names = ("reshard", *rollout, *(f"probe_{name}" for name in rollout), "update")
    assert list(summary["programs"]) == [f"grpo/{name}" for name in names]
    assert set(summary["stages"]["grpo"]["seconds"]) == {"reshard", *rollout, "update"}
    for name, program in summary["programs"].items():
        assert program["peak_gib"] <= 80, name
        # Weights and both moments in float32, except for the programs whose arguments they are.
        resident = {"reshard": 2.39, "update": 0}.get(name.rpartition("/")[2], 3.57)
        assert abs(program["resident_gib"] - resident) < 0.01, name
    # Not gathered whole on the way to the decoding layout: that takes 62 GiB.
    assert summary["programs"]["grpo/reshard"]["peak_gib"] < 20
    # Guards against a layout that got worse; the figures themselves are in docs/results/pod.md.
    assert summary["mfu"] > 0.61
    assert summary["programs"]["grpo/decode"]["seconds_a_trip"] < 0.0145


@needs_libtpu
@pytest.mark.slow
def test_the_update_of_the_pod_becomes_machine_code(tmp_path):
    """Some ten minutes: what fits into memory need not fit into VMEM."""
    out = tmp_path / "out.json"
    process = launch(
        "--config=tpu_v5p_256",
        "--dry_run",
        "--dry_run_full",
        "--nodry_run_data",
        "--dry_run_only=grpo/update",
        f"--dry_run_out={out}",
        timeout=2400,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    update = json.loads(out.read_text())["programs"]["grpo/update"]
    assert 70 < update["peak_gib"] <= 80
    assert 40 < update["seconds"] < 56


def test_model_flops_by_hand():
    # One layer, no vocabulary to speak of: 6 x (q, k, v, out; three matrices of the MLP), and
    # attention's 2 x 2 x keys x width, three times.
    text = dataclasses.replace(
        POD.model.text,
        layers=1,
        embed=8,
        heads=2,
        kv_heads=1,
        head_dim=4,
        mlp=16,
        vocab_size=1,
    )
    model = dataclasses.replace(
        POD.model,
        text=text,
        vision=None,
        image_token_id=None,
        end_token_id=0,
        pad_token_id=0,
    )
    weights = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16 + 8
    config = dataclasses.replace(POD, model=model)
    assert flops.model_flops(config, 10, 50) == (6 * weights + 3 * 4 * 50 * 8) * 10
    frozen = flops.model_flops(config, 10, 50, "connector+vision")
    assert frozen == (4 * weights + 3 * 4 * 50 * 8) * 10
