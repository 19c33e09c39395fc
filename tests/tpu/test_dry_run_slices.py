"""--dry_run on several slices: what the real TPU compiler lets cross between them."""

import dataclasses
import json
import os

import commands
import kept_programs
import pytest
from tpu_compiler import needs_libtpu

from r1v3_jax.config import load_config
from r1v3_jax.models import build
from r1v3_jax.sharding import abstract_mesh, shard_bytes


def launch(*arguments):
    """Runs the launcher to its end, with the outcomes of earlier runs of the tests."""
    environment = commands.environment(
        XDG_CACHE_HOME=str(kept_programs.tpu_programs()),
        XLA_FLAGS=os.environ["XLA_FLAGS"],
        JAX_DISABLE_MOST_OPTIMIZATIONS="0",
    )
    command = [*commands.LAUNCHER, *arguments]
    return commands.run(*command, env=environment, timeout=900)


@needs_libtpu
def test_only_gradients_cross_between_two_pods(tmp_path):
    """Full size, fast mode: the 38B's language model on 256 chips, 128 rows of 8,192 tokens."""
    out = tmp_path / "out.json"
    process = launch(
        "--config=tpu_v5p_256_text",
        "--topology=2 x v5p:4x4x8",
        "--config.cold_start.rows=128",
        "--dry_run",
        "--nodry_run_data",
        f"--dry_run_out={out}",
    )
    assert process.returncode == 0, process.stderr[-3000:]
    print(process.stdout)
    summary = json.loads(out.read_text())
    assert (summary["topology"], summary["chips"]) == ("2 x v5p:4x4x8", 256)
    assert summary["mesh"] == [32, 4, 2]
    program = summary["programs"]["cold_start/update"]
    assert program["peak_gib"] <= 60  # as much as on one slice
    # A chip sends its shard of the gradients, float32, to its peer. Nothing else crosses.
    config = load_config("tpu_v5p_256_text")
    compute = dataclasses.replace(config.compute, param_dtype="float32")
    mesh = abstract_mesh((32, 4, 2), slices=2)
    gradient = shard_bytes(build.abstract(config.model, compute, mesh))
    # Of the embedding and of the head a chip has 5,120 / 64 = 80 columns, which travel as 128.
    rows = config.model.text.padded_vocab // 2
    gradient += 2 * rows * (128 - 80) * 4
    across = {k: c for k, c in program["collectives"].items() if "across" in k}
    assert list(across) == ["all-reduce across slices"]
    exchanged = across["all-reduce across slices"]
    assert exchanged["bytes"] == pytest.approx(gradient, rel=1e-4)
    assert exchanged["seconds"] == pytest.approx(gradient / 6.25e9, rel=0.02)
    step = summary["stages"]["cold_start"]
    assert step["bytes_across_slices"] == exchanged["bytes"]
    assert "GB across slices a step" in process.stdout
    # Guards against a layout that got worse; the figures are in docs/results/pod.md.
    assert summary["step_seconds"] < 3.0


@pytest.mark.parametrize(
    "topology, message",
    [
        ("9 x v5p:9x9x9", "topology '9 x v5p:9x9x9': v5p has 2x2x1, "),
        ("0 x v5p:4x4x8", "'0' is no number of slices; 2 x v5p:4x4x8 would do"),
        ("two x v5p:4x4x8", "'two' is no number of slices; 2 x v5p:4x4x8 would do"),
        ("2 x v9:4x4", "kinds are v5p, v5e, v6e"),
    ],
)
def test_a_wrong_number_of_slices_is_refused_in_one_sentence(topology, message):
    process = launch("--config=tpu_v5p_256", f"--topology={topology}", "--dry_run")
    assert process.returncode == 1
    assert message in process.stderr and "Traceback" not in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1


def test_a_mesh_that_cannot_span_the_slices_is_refused_in_one_sentence():
    process = launch(
        "--config=tpu_v5p_256",
        "--topology=2 x v5p:4x4x8",
        "--config.mesh=(1, 64, 4)",
        "--dry_run",
    )
    assert process.returncode == 1
    message = (
        "data 1, which cannot span the 2 slices of 2 x v5p:4x4x8; a mesh that would do"
    )
    assert message in process.stderr and "Traceback" not in process.stderr
