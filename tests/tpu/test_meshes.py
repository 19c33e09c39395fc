"""--dry_run_meshes: which meshes are tried, and how their table reads."""

import dataclasses
import json

import pytest
from test_dry_run import check_refused, launch, write_small
from tpu_compiler import needs_libtpu

from r1v3_jax.config import load_config
from r1v3_jax.tpu import compiler, meshes


def test_all_meshes_of_four_chips():
    assert meshes.meshes_of(4) == [
        (4, 1, 1),
        (2, 2, 1),
        (2, 1, 2),
        (1, 4, 1),
        (1, 2, 2),
        (1, 1, 4),
    ]
    # Of 2^n chips there are (n + 1)(n + 2) / 2.
    assert len(meshes.meshes_of(8)) == 10
    assert len(set(meshes.meshes_of(128))) == 36
    assert meshes.meshes_of(1) == [(1, 1, 1)]


def test_a_table_has_the_fastest_first_and_why_others_were_refused():
    tried = [
        {
            "mesh": [2, 1, 1],
            "peak_gib": 5.94,
            "limit_gib": 15.75,
            "seconds": {"decode": 4.07, "update": 4.34},
            "step_seconds": 8.41,
        },
        {
            "mesh": [1, 2, 1],
            "peak_gib": 5.6,
            "limit_gib": 15.75,
            "seconds": {"decode": 2.86, "update": 4.33},
            "step_seconds": 7.19,
        },
        {"mesh": [1, 1, 2], "refused": "update needs 17.0 GiB of 15.75"},
    ]
    assert meshes.table(tried, (1, 2, 1)) == [
        "mesh               decode    update      a step  GiB a chip",
        "(1, 2, 1) *          2.86      4.33      7.19 s  5.6 of 15.75",
        "(2, 1, 1)            4.07      4.34      8.41 s  5.9 of 15.75",
        "(1, 1, 2)        update needs 17.0 GiB of 15.75",
    ]


def test_a_job_changes_the_config_of_a_child():
    """What a child compiles is told as JSON."""
    config = load_config("tpu_v5e_8")
    slots = config.with_stages(
        grpo=dataclasses.replace(config.stages["grpo"], slots=64)
    )
    job = json.loads(json.dumps(compiler.job_of((3, 5), mesh=(8, 1, 1))))
    assert compiler.varied(slots, job).mesh == (8, 1, 1)
    assert compiler.varied(slots, job).stages["grpo"].slots == 64
    job = json.loads(json.dumps(compiler.job_of((), all_at_once=True)))
    assert compiler.varied(slots, job) == config


def test_meshes_are_about_whole_steps(tmp_path):
    process = launch(
        f"--config={write_small(tmp_path)}",
        "--dry_run_meshes",
        "--dry_run_only=grpo/decode",
        "--nodry_run_data",
    )
    check_refused(process, "leave out --dry_run_only")


@needs_libtpu
@pytest.mark.slow
def test_every_mesh_of_a_small_slice(tmp_path):
    """Six meshes of four chips, of which (4, 1, 1) has more groups than prompts."""
    out = tmp_path / "out.json"
    process = launch(
        f"--config={write_small(tmp_path)}",
        "--dry_run_meshes",
        "--nodry_run_data",
        f"--dry_run_out={out}",
    )
    assert process.returncode == 0, process.stderr[-3000:]
    summary = json.loads(out.read_text())
    tried = {tuple(entry["mesh"]): entry for entry in summary["meshes"]}
    assert list(tried) == meshes.meshes_of(4)
    assert "grpo.prompts = 2 does not split" in tried[4, 1, 1]["refused"]
    for mesh, entry in tried.items():
        if mesh != (4, 1, 1):
            assert sum(entry["seconds"].values()) == pytest.approx(
                entry["step_seconds"]
            )
    assert "(1, 2, 2) *" in process.stdout
