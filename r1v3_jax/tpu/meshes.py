"""Tries every mesh of a slice: --dry_run_meshes.

Compiles the programs of a step for each mesh that has the slice's chips, and prints what a step
takes beside each other. Nothing is run; see `dry_run`.
"""

from r1v3_jax.config import Run
from r1v3_jax.config.topology import parse
from r1v3_jax.models import build
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages.kinds import stage_programs
from r1v3_jax.tpu import compiler, dry_run
from r1v3_jax.tpu.chips import CHIPS
from r1v3_jax.tpu.compiled import Compiled
from r1v3_jax.tpu.compiler import GIB


def run(config: Run, banned: tuple[int, ...], *, full: bool) -> dict:
    """Compiles a step for every mesh, prints the table, and returns what goes into the JSON file.

    The stage is the one whose figures stand for a run: the first with rewards, or the first. Only
    what its steps call is compiled, no probe. banned: `Tokenizer.banned_token_ids`.
    """
    topology = parse(config.topology)
    chips = compiler.devices(topology)
    compiler.check_options(chips, topology.kind)
    stage = dry_run.main_stage(config, config.selected_stages())
    print(
        f"{topology.name}: {topology.chips} chips, meshes data x fsdp x tensor for {stage!r}. All "
        "figures are estimates of the TPU compiler; nothing is run."
    )
    tried = []
    for mesh in meshes_of(topology.chips):
        entry = {"mesh": list(mesh)}
        try:
            entry |= try_mesh(config, stage, mesh, chips, banned, full)
        except ValueError as error:
            entry["refused"] = " ".join(str(error).split())
            print(f"{mesh}: {entry['refused'][:300]}")
        tried.append(entry)
    print("\n".join(table(tried, config.mesh)))
    return {
        "topology": topology.name,
        "chips": topology.chips,
        "stage": stage,
        "full": full,
        "fits": any("step_seconds" in entry for entry in tried),
        "meshes": tried,
    }


def meshes_of(chips: int) -> list[tuple[int, int, int]]:
    """Returns every (data, fsdp, tensor) of so many chips, the largest data first.

    4 chips: (4, 1, 1), (2, 2, 1), (2, 1, 2), (1, 4, 1), (1, 2, 2), (1, 1, 4).
    """
    sizes = [n for n in range(chips, 0, -1) if chips % n == 0]
    return [
        (data, fsdp, chips // data // fsdp)
        for data in sizes
        for fsdp in sizes
        if chips // data % fsdp == 0
    ]


def try_mesh(
    config: Run,
    stage: str,
    mesh_shape: tuple[int, int, int],
    chips: list,
    banned: tuple[int, ...],
    full: bool,
) -> dict:
    """Returns the figures of a step with one mesh, or the programs that do not fit.

    ValueError if the mesh does not divide the model or the sizes of the stage.
    """
    job = compiler.job_of(banned, mesh=mesh_shape)
    config = compiler.varied(config, job)
    topology = parse(config.topology)
    mesh = make_mesh(mesh_shape, chips, slices=topology.slices)
    # Whether every array of the model splits, to train and to decode.
    for compute in (config.compute, build.decode_compute(config.compute)):
        build.abstract(config.model, compute, mesh)
    programs = {
        f"{stage}/{program.label}": program
        for program in stage_programs(config, stage, mesh, banned)
        if program.calls
    }
    print(f"{mesh_shape}:", flush=True)
    compiled = dry_run.compile_all(programs, topology, mesh, job, full)
    figures = {
        "peak_gib": max(entry.peak for entry in compiled.values()) / GIB,
        "limit_gib": min(entry.limit for entry in compiled.values()) / GIB,
    }
    too_large = [entry for entry in compiled.values() if not entry.fits]
    if too_large:
        return figures | {"refused": " and ".join(map(excess, too_large))}
    of_stage = dry_run.programs_of_stage(stage, compiled)
    step = dry_run.step_of(config, stage, of_stage, CHIPS[topology.kind].flops)
    return figures | step


def excess(compiled: Compiled) -> str:
    """Says how much a program needs that does not fit: "decode needs 33.1 GiB"."""
    label = compiled.program.label
    return f"{label} needs {compiled.peak / GIB:.1f} GiB of {compiled.limit / GIB:.2f}"


def table(tried: list[dict], chosen: tuple[int, int, int]) -> list[str]:
    """Formats what was tried, the fastest first; chosen: the mesh of the config, with a star.

    mesh             reshard  prefill  decode  update    a step    GiB
    (4, 2, 1) *         0.01     0.35    2.86    4.33    7.56 s    5.6 of 15.75
    (8, 1, 1)           0.01     0.31    4.07    4.34    8.75 s    5.9 of 15.75
    (1, 8, 1)       2 kv heads do not split over 8
    """
    known = [entry for entry in tried if "step_seconds" in entry]
    known.sort(key=lambda entry: entry["step_seconds"])
    refused = [entry for entry in tried if "step_seconds" not in entry]
    labels = list(known[0]["seconds"]) if known else []
    widths = [max(len(label), 8) for label in labels]
    head = [f"{'mesh':15}"]
    for label, width in zip(labels, widths, strict=True):
        head.append(f"{label:>{width}}")
    lines = ["  ".join([*head, f"{'a step':>10}", "GiB a chip"])]
    for entry in known:
        parts = [_name(entry, chosen)]
        for label, width in zip(labels, widths, strict=True):
            parts.append(f"{entry['seconds'][label]:{width}.2f}")
        parts.append(f"{entry['step_seconds']:8.2f} s")
        parts.append(f"{entry['peak_gib']:.1f} of {entry['limit_gib']:.2f}")
        lines.append("  ".join(parts))
    for entry in refused:
        lines.append(f"{_name(entry, chosen)}  {entry['refused']}")
    return lines


def _name(entry: dict, chosen: tuple[int, int, int]) -> str:
    mesh = tuple(entry["mesh"])
    star = " *" if mesh == chosen else ""
    return f"{f'{mesh}{star}':15}"
