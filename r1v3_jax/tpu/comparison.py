"""Compiles the decoding steps of `published.py`, to hold the estimate against measurements.

This program's own `decode` at the shape of each row, for its chips, with machine code. Nothing is
run. The command is tools/calibrate.py.
"""

import dataclasses
from pathlib import Path

import jax

from r1v3_jax.config import Compute, ModelConfig, topology
from r1v3_jax.rollout.programs import rollout_programs
from r1v3_jax.run.program import Program
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import make_mesh
from r1v3_jax.tpu import compiler, dry_run
from r1v3_jax.tpu.published import PUBLISHED, Published, figures


@dataclasses.dataclass(frozen=True)
class Setting:
    """What `rollout_programs` reads of a run."""

    model: ModelConfig
    compute: Compute = Compute(
        dtype="bfloat16", param_dtype="bfloat16", attention="splash"
    )


def decode_program(row: Published, mesh) -> Program:
    """Returns `decode` at the shape of a row."""
    with jax.set_mesh(mesh):
        programs = rollout_programs(
            Setting(row.config),
            mesh,
            SamplingParams(row.completion, 1.0),
            prompts=row.rows,
            group_size=1,
            slots=0,
            max_prompt_tokens=row.prompt,
            tiles=0,
            resident=0,
            int8=row.int8,
        )
    return programs[-1]


def compare(row: Published) -> dict:
    """Compiles the decoding step of a row, with machine code, and returns its line of the table.

    `estimated` is None if it does not fit.
    """
    slice_ = topology.parse(row.topology)
    mesh = make_mesh(row.mesh, compiler.devices(slice_))
    name = f"{row.name}/decode"
    program = decode_program(row, mesh)
    job = compiler.job_of(())
    compiled = dry_run.compile_all({name: program}, slice_, mesh, job, full=True)[name]
    estimated = None
    if compiled.estimate is not None:
        estimated = compiled.seconds / program.trips * 1e3
    program_figures = dry_run.program_json(compiled)
    return figures(row) | {"estimated": estimated, "program": program_figures}


def compile_one(job: dict) -> None:
    """Compiles the row that the environment names, in a child, and writes the outcome."""
    name, _, _ = job["name"].rpartition("/")
    row = next(row for row in PUBLISHED if row.name == name)
    slice_ = topology.parse(row.topology)
    mesh = make_mesh(row.mesh, compiler.devices(slice_))
    program = decode_program(row, mesh)
    compiler.compile_program(program, job["name"], slice_.kind, Path(job["out"]))
