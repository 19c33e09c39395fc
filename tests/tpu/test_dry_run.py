"""--dry_run: what it refuses, what it prints, and the real compiler on the full-size table.

Needs the package libtpu for all but the refusals. Figures are the TPU compiler's estimates.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tpu_compiler import needs_libtpu

from r1v3_jax.config import load_config, topology
from r1v3_jax.models import flops
from r1v3_jax.pipeline import preflight
from r1v3_jax.run import tpu_flags

ROOT = Path(__file__).parents[2]


def launch(tmp_path, *arguments, cache="cache", timeout=900):
    return subprocess.run(
        [sys.executable, "-m", "r1v3_jax.launch", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout,
        env={
            **os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / cache),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        },
    )  # fmt: skip


# --- slices and flags --------------------------------------------------------------------------


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


def test_every_flag_has_a_reason():
    lines = tpu_flags.FLAGS.read_text().splitlines()
    names = [line.partition(" =")[0] for line in lines if line and line[0] != "#"]
    assert set(names) == set(tpu_flags.flags()) and len(names) == len(set(names)) > 5
    for above, line in zip(lines, lines[1:], strict=False):
        if line.startswith(
            "xla"
        ):  # a comment, or another flag of the same reason, stands above
            assert above.startswith(("#", "xla")), line


def test_flags_reach_the_runtime_and_the_users_win(monkeypatch):
    name, value = next(iter(tpu_flags.flags().items()))
    monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--{name}=mine")
    tpu_flags.set_init_args()
    given = os.environ["LIBTPU_INIT_ARGS"].split()
    assert f"--{name}=mine" in given and f"--{name}={value}" not in given
    assert len(given) == len(tpu_flags.flags())


# --- refusals ----------------------------------------------------------------------------------

POD = load_config("tpu_v5p_256")


def changed(stage="grpo", **changes):
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
        "GRPO.rollout_int8 samples from .* wants an importance_cap, not 0; 2.0 would do",
    ),
    "fewer slots than none": (
        lambda: changed(slots=-1),
        "GRPO.slots is -1; it must be at least 0",
    ),
    "more slots than questions": (
        lambda: dataclasses.replace(POD.evaluate, slots=512),
        "Evaluate.slots is 512; it must be at most batch = 256",
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
    config = dataclasses.replace(
        POD, mesh=(8, 16, 1), init_from="", write_tokenizer=print,
        stages={
            "grpo": dataclasses.replace(
                POD.stages["grpo"],
                train=lambda index: None,
                accumulate=8,
                evaluate_every=0,
            )
        },
    )  # fmt: skip
    with pytest.raises(ValueError, match="kv_heads of 8 cannot be split over .* = 16"):
        preflight.check(config)


def test_what_is_missing_is_named_before_anything_starts(tmp_path):
    # No checkpoint; then one of another model; then no data. Each in a process, as a user sees it.
    start = time.time()
    done = launch(tmp_path, "--config=tpu_v5e_8", f"--config.init_from={tmp_path}/none")
    assert done.returncode == 1 and f"{tmp_path}/none" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(
        FileNotFoundError, match="no such file of questions; give .jsonl"
    ):
        preflight.check(
            dataclasses.replace(
                load_config("tpu_v5e_8"), init_from="", write_tokenizer=print
            )
        )
    print(f"{time.time() - start:.1f} s wall, most of it imports")


def test_a_url_is_no_workdir(tmp_path):
    done = launch(tmp_path, "--config=digits_smoke", "--workdir=gs://bucket/run")
    assert (
        done.returncode == 1
        and "wanted a directory that every host sees" in done.stderr
    )


# --- the compiler ------------------------------------------------------------------------------

SMALL = '''
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
'''  # fmt: skip


@needs_libtpu
@pytest.mark.slow
def test_a_small_run_with_machine_code_and_again_from_the_cache(tmp_path):
    path, out = tmp_path / "small.py", tmp_path / "out.json"
    path.write_text(SMALL)
    command = (
        f"--config={path}",
        "--dry_run",
        "--dry_run_full",
        f"--dry_run_out={out}",
    )
    done = launch(tmp_path, *command)
    assert done.returncode == 0, done.stderr[-3000:]
    # Three samples as the model sees them, image tokens counted and not printed.
    assert len(re.findall(r"^grpo digits/home/train/0/normal/\d: \d+ tokens, 1 tiles$", done.stdout,
                          re.MULTILINE)) == 3  # fmt: skip
    assert "<IMG_CONTEXT> x 4" in done.stdout and "answer: " in done.stdout
    found = json.loads(out.read_text())
    assert found["topology"] == "v5p:2x2x1" and found["chips"] == 4 and found["fits"]
    names = ("reshard", "encode_images", "prefill", "decode", "score", "update")
    assert list(found["programs"]) == [f"grpo/{name}" for name in names]
    for name, program in found["programs"].items():
        assert (
            0
            < program["argument_gib"]
            < program["peak_gib"]
            < program["limit_gib"]
            < 96
        ), name
        assert program["seconds"] > 0 and program["bound"], name
    update, decode = (
        found["programs"][f"grpo/{name}"] for name in ("update", "decode")
    )
    assert decode["trips"] == 128 and 0 < decode["seconds_a_trip"] < decode["seconds"]
    # Over the loop the kernels read half a cache; every other program is as the estimate says.
    half = decode["parts"]["kernels"] / 2
    assert (
        half > 0
        and abs(decode["seconds_with_a_full_cache"] - decode["seconds"] - half) < 1e-12
    )
    assert update["seconds"] == update["seconds_with_a_full_cache"]
    assert "beside it" in done.stdout
    assert (
        update["calls"] == 2
        and update["flops"] > found["programs"]["grpo/score"]["flops"]
    )
    assert update["collectives"]["all-gather"]["count"] > 0
    step = found["stages"]["grpo"]
    assert found["step_seconds"] == step["step_seconds"]
    assert abs(sum(step["seconds"].values()) - step["step_seconds"]) < 1e-9
    assert 0 < found["mfu"] < 1

    entries = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.gz")}
    assert len(entries) == len(names)
    again = launch(tmp_path, *command)
    assert again.returncode == 0 and json.loads(out.read_text()) == found
    assert {
        p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.gz")
    } == entries


def test_a_pod_config_where_there_is_no_tpu(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    done = launch(tmp_path, f"--config={path}", f"--workdir={tmp_path}/run")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "runs on the TPU slice v5p:2x2x1, and no TPU was found" in done.stderr
    assert "--dry_run compiles it anywhere" in done.stderr


@needs_libtpu
def test_a_program_of_another_name_is_refused(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    done = launch(
        tmp_path,
        f"--config={path}",
        "--dry_run",
        "--nodry_run_data",
        "--dry_run_only=grpo/decod",
    )
    assert (
        done.returncode == 1
        and "no program 'grpo/decod'; there are: grpo/reshard" in done.stderr
    )


@needs_libtpu
def test_what_does_not_fit_is_refused_with_the_compilers_number(tmp_path):
    out = tmp_path / "out.json"
    done = launch(
        tmp_path, "--config=tpu_v5p_256_text", "--topology=v5p:2x2x1", "--dry_run",
        "--nodry_run_data", f"--dry_run_out={out}",
    )  # fmt: skip
    assert done.returncode == 1 and "DOES NOT FIT" in done.stdout, done.stderr[-2000:]
    assert "not every program fits" in done.stderr
    update = json.loads(out.read_text())["programs"]["cold_start/update"]
    assert update["peak_gib"] > update["limit_gib"] > 90


@needs_libtpu
def test_the_whole_table_of_the_pod(tmp_path):
    """Full size, fast mode: the 38B on 128 chips, 1,024 samples of 8,192 tokens."""
    out = tmp_path / "out.json"
    done = launch(
        tmp_path,
        "--config=tpu_v5p_256",
        "--dry_run",
        "--nodry_run_data",
        f"--dry_run_out={out}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    found = json.loads(out.read_text())
    rollout = ("encode_images", "prefill", "decode")
    names = ("reshard", *rollout, *(f"probe_{name}" for name in rollout), "update")
    assert list(found["programs"]) == [f"grpo/{name}" for name in names]
    assert set(found["stages"]["grpo"]["seconds"]) == {"reshard", *rollout, "update"}
    for name, program in found["programs"].items():
        assert program["peak_gib"] <= 80, name
        # Weights and both moments in float32, but for the programs that are given them.
        resident = {"reshard": 2.39, "update": 0}.get(name.rpartition("/")[2], 3.57)
        assert abs(program["resident_gib"] - resident) < 0.01, name
    # Not gathered whole on the way to the decoding layout: that takes 62 GiB.
    assert found["programs"]["grpo/reshard"]["peak_gib"] < 20
    # Guards against a layout that got worse; the figures themselves are in the README.
    assert found["mfu"] > 0.58
    assert found["programs"]["grpo/decode"]["seconds_a_trip"] < 0.016


@needs_libtpu
@pytest.mark.slow
def test_the_update_of_the_pod_becomes_machine_code(tmp_path):
    """Some ten minutes: what fits into memory need not fit into VMEM."""
    out = tmp_path / "out.json"
    done = launch(
        tmp_path, "--config=tpu_v5p_256", "--dry_run", "--dry_run_full", "--nodry_run_data",
        "--dry_run_only=grpo/update", f"--dry_run_out={out}", timeout=2400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    update = json.loads(out.read_text())["programs"]["grpo/update"]
    assert 70 < update["peak_gib"] <= 80 and 40 < update["seconds"] < 56


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
