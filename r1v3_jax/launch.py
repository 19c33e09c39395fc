"""Starts a run: python -m r1v3_jax.launch --config=NAME [--config.grpo.steps=50] [--workdir=DIR]

NAME is a file of `configs/` (under the working directory, else among those of the program) or the
path of a config file; NAME:ARM is one arm of a recipe. Each `--config.a.b=value` changes one field;
the fields of a stage have the stage's name in front. The same command again resumes the run.
"""

import dataclasses
import difflib
import os
import sys
import tempfile
from pathlib import Path

from absl import flags, logging
from ml_collections import config_dict, config_flags

from r1v3_jax import cli
from r1v3_jax.config import Run, list_configs, load_config, topology
from r1v3_jax.config.load import REPLACED
from r1v3_jax.config.smoke import cut_down
from r1v3_jax.fields import algorithm_fields, children, flatten_fields, is_table
from r1v3_jax.files import first_process, write_json
from r1v3_jax.run import processes

WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run; default runs/NAME, with --smoke runs/smoke_NAME.",
)
ACCEPT_CHANGES = flags.DEFINE_bool(
    "accept_changes",
    False,
    "Go on in a workdir whose run was begun with another config.",
)
PRINT_CONFIG = flags.DEFINE_bool(
    "print_config", False, "Print the resolved config and stop."
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Show samples, compile every program for config.topology, estimate, and stop.",
)
TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "A TPU slice in place of the config's, as v5p:2x2x4, or several, as '2 x v5p:4x4x8'; "
    "mesh.data follows it.",
)
DRY_RUN_OUT = flags.DEFINE_string(
    "dry_run_out", None, "A JSON file for what the dry run found; asks for a dry run."
)
DRY_RUN_FULL = flags.DEFINE_bool(
    "dry_run_full",
    False,
    "Also make the machine code (minutes): some programs that fit cannot be made.",
)
DRY_RUN_DATA = flags.DEFINE_bool(
    "dry_run_data",
    True,
    "Open checkpoint and data too; --nodry_run_data where they are not.",
)
DRY_RUN_ONLY = flags.DEFINE_list(
    "dry_run_only", [], "Programs to compile, as grpo/decode,grpo/update; default: all."
)
DRY_RUN_MESHES = flags.DEFINE_bool(
    "dry_run_meshes",
    False,
    "Compile a step for every mesh of the slice, and print a table; asks for a dry run.",
)
DRY_RUN_LENGTHS = flags.DEFINE_string(
    "dry_run_lengths",
    None,
    "Price a step for samples of uneven lengths, too: median and sigma of a lognormal, as "
    "2400,0.8, or WORKDIR/rollouts/grpo_000010.jsonl of a run; asks for a dry run.",
)
ASKS_FOR_DRY_RUN = (
    DRY_RUN,
    DRY_RUN_FULL,
    DRY_RUN_ONLY,
    DRY_RUN_OUT,
    DRY_RUN_MESHES,
    DRY_RUN_LENGTHS,
)
PROCESSES = processes.define_processes()
SMOKE = "--smoke"  # must be known before the flags of the config are
SMOKE_FLAG = flags.DEFINE_bool(
    "smoke", False, "A few steps and questions of every stage: does it run?"
)
LIST_CONFIGS = flags.DEFINE_bool(
    "list_configs", False, "Print the names of the configs and stop."
)


def main() -> None:
    """Parses the command line and runs; see the module's docstring."""
    # ml_collections reads sys.argv when a flag is defined, so the config must be known before.
    # `--config=NAME` is removed from sys.argv: absl would read it as a value for the whole config.
    names = [a for a in sys.argv[1:] if a.startswith("--config=")]
    for argument in names:
        sys.argv.remove(argument)
    if not names:
        cli.run(without_config)
        return
    try:
        base = load_config(names[-1].partition("=")[2])
        if SMOKE in sys.argv:
            base = cut_down(base)
        check_names(base, sys.argv[1:])
        flag = config_flags.DEFINE_config_dict("config", thaw(base))
    except (ValueError, OSError, AttributeError) as error:  # the last: an unknown field
        sys.exit(f"error: {' '.join(str(error).split())}")
    cli.run(lambda: start(base, flag.value))


def without_config() -> None:
    """Answers a command line that names no config."""
    if not LIST_CONFIGS.value:
        raise ValueError(
            f"--config=NAME is missing; there are: {', '.join(list_configs())}"
        )
    print("\n".join(list_configs()))


def start(base: Run, values: config_dict.ConfigDict) -> None:
    """Does what the flags ask for with the config that they make of `base`."""
    if SMOKE_FLAG.value and SMOKE not in sys.argv:
        raise ValueError(f"this form of --smoke cuts nothing down; write {SMOKE}")
    # Another slice: unless a mesh was asked for as well, the config's mesh is fitted to it.
    if TOPOLOGY.value:
        values.topology = TOPOLOGY.value
        mesh_is_default = tuple(values.mesh) == base.mesh
        if mesh_is_default:
            values.mesh = base.mesh_of(topology.parse(TOPOLOGY.value))
    config = freeze(base, values)

    # Exactly one of these, the cheapest first.
    if PRINT_CONFIG.value:
        print("\n".join(config_lines(config)))
    elif LIST_CONFIGS.value:
        print("\n".join(list_configs()))
    elif any(flag.value for flag in ASKS_FOR_DRY_RUN):
        dry_run_of(config)
    else:
        run(config, WORKDIR.value or f"runs/{config.name}")


def config_lines(config: Run) -> list[str]:
    """Returns a config as the flags that would set each of its fields.

    An object that is chosen in a file, as a loss, is a comment: no flag can change which it is.
    """
    chosen = chosen_objects(config, "config")
    return [
        f"# --{name}: {value}" if name in chosen else f"--{name}={value}"
        for name, value in flatten_fields(config, "config").items()
    ]


def chosen_objects(config, path: str) -> set[str]:
    """Returns the paths of the objects that a config file chooses, as config.grpo.loss."""
    if not dataclasses.is_dataclass(config):
        return set()
    paths = {f"{path}.{name}" for name in algorithm_fields(config)}
    for name, value in children(config).items():
        paths |= chosen_objects(value, f"{path}.{name}")
    return paths


def run(config: Run, workdir: str) -> None:
    """Runs the stages of a config, and prints what came out."""
    if "://" in workdir:
        raise ValueError(
            f"--workdir={workdir}: wanted a directory that every host sees; mount the bucket "
            "(Cloud Storage FUSE, hierarchical namespace), or use Filestore"
        )
    # Imported after the flags are parsed: a typing error costs no import of the models.
    from r1v3_jax import pipeline
    from r1v3_jax.run import platforms, preemption

    accept_changes = ACCEPT_CHANGES.value
    platform = platforms.named_platform()
    # Where a TPU slice is wanted and not there, `start_processes` says so.
    if platform and not config.topology:
        platforms.check_platform(config.compute, platform)
    pipeline.check(config, Path(workdir), accept_changes=accept_changes)
    processes.start_processes(PROCESSES, config.topology)
    preemption.catch_sigterm()
    summary = pipeline.run(config, Path(workdir), accept_changes=accept_changes)
    if first_process():
        print_end(summary, Path(workdir))


def print_end(summary: dict, workdir: Path) -> None:
    """Prints what came out of a run that is whole by now, and where to look at it.

    A table that cannot be made is logged: it does not make the run a failure.
    """
    from r1v3_jax.report import plots

    try:
        print(plots.table(summary))
    except Exception as error:  # any: the run is done, this is a view of it
        logging.warning("no table of accuracies: %r; summary.json has them", error)
    print(f"{workdir}/summary.json, {workdir}/plots, {workdir}/export")
    page = workdir / "report" / "index.html"
    if page.exists():
        print(f"Look at it: {page}")


def dry_run_of(config: Run) -> None:
    """See `tpu.dry_run`. Exit code 1 if a program does not fit."""
    if not config.topology:
        raise ValueError(
            "--dry_run compiles for a TPU slice, and this config names none; give one, as "
            "--topology=v5p:2x2x1"
        )
    from r1v3_jax.tpu import compiler, dry_run, lengths, meshes

    # This process was started by a dry run, to compile one program.
    if os.environ.get(compiler.CHILD):
        compiler.compile_here(config)
        return
    only = tuple(DRY_RUN_ONLY.value)
    if DRY_RUN_MESHES.value and (only or DRY_RUN_LENGTHS.value):
        raise ValueError(
            "--dry_run_meshes compiles whole steps whose rows are full; leave out "
            "--dry_run_only and --dry_run_lengths"
        )
    drawn = lengths.parse(DRY_RUN_LENGTHS.value) if DRY_RUN_LENGTHS.value else None
    if DRY_RUN_DATA.value:
        banned = show_data(config)
    else:
        # Without a tokenizer only the image token is known to be never sampled.
        print("checkpoint and data were not opened (--nodry_run_data)")
        banned = (config.model.image_token_id,) if config.model.vision else ()
    full = DRY_RUN_FULL.value
    banned = tuple(banned)
    if DRY_RUN_MESHES.value:
        summary = meshes.run(config, banned, full=full)
    else:
        summary = dry_run.run(config, banned, full=full, only=only, lengths=drawn)
    if DRY_RUN_OUT.value:
        write_json(DRY_RUN_OUT.value, summary)
    if not summary["fits"]:
        tried = "no mesh" if DRY_RUN_MESHES.value else "not every program"
        sys.exit(f"error: {tried} fits into a chip's memory; see above")


def show_data(config: Run) -> tuple[int, ...]:
    """Prints samples as the model sees them; returns the tokens that are never sampled."""
    from r1v3_jax import pipeline
    from r1v3_jax.pipeline.start import make_processor, write_tokenizer
    from r1v3_jax.tpu import dry_run

    pipeline.check(config)
    with tempfile.TemporaryDirectory() as directory:
        write_tokenizer(config, Path(directory))
        processor = make_processor(config, Path(directory))
    dry_run.show_samples(config, processor)
    return processor.tokenizer.banned_token_ids


def check_names(config: Run, arguments: list[str]) -> None:
    """Raises ValueError for a --config.a.b=value whose field does not exist, with the nearest."""
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name.startswith("config."):
            check_name(config, name)


def check_name(config: Run, name: str) -> None:
    """Raises ValueError unless `name`, as config.grpo.steps, is a field of the config."""
    node = config
    path = "config"
    for part in name.split(".")[1:]:
        known = children(node) if dataclasses.is_dataclass(node) else {}
        if part not in known:
            raise ValueError(
                f"--{name}: {path} has no field {part!r}; {hint(part, path, known)}"
                "--print_config shows them all"
            )
        node = known[part]
        path = f"{path}.{part}"
    # The path ends at an object, as config.grpo.loss: flags hold numbers and words, not objects.
    if dataclasses.is_dataclass(node):
        fields = ", ".join(f"--{path}.{field}" for field in children(node))
        raise ValueError(
            f"--{path}: a {type(node).__name__} is an object, chosen in a config file; flags "
            f"set its fields: {fields or 'it has none'}. Objects are in r1v3_jax.losses"
        )


def hint(part: str, path: str, known: dict) -> str:
    """Says what a field that does not exist may have meant; "" if nothing is there."""
    # A typing error of a field that exists comes first, then a name of an older version, then
    # whatever is nearest.
    if part == "stages":
        return "stages stand at the top, as --config.grpo.steps; "
    near = difflib.get_close_matches(part, known, n=1, cutoff=0.8)
    replaced = difflib.get_close_matches(part, REPLACED, n=1, cutoff=0.8)
    if replaced and not near:
        return f"{replaced[0]} is now {REPLACED[replaced[0]]}; "
    near = near or difflib.get_close_matches(part, known, n=1, cutoff=0.0)
    return f"did you mean --{path}.{near[0]}? " if near else ""


def thaw(config):
    """Returns a frozen dataclass as a ConfigDict, the form that absl flags can change.

    The stages of a run are at its top: config.grpo.steps.
    """
    if not dataclasses.is_dataclass(config):
        return config
    return config_dict.ConfigDict(
        {name: thaw(value) for name, value in children(config).items()}
    )


def freeze(config, values: config_dict.ConfigDict):
    """Returns `config` with the values of a ConfigDict; its checks run again.

    The order of the stages is the one of `config`: a ConfigDict sorts its names.
    """
    if not dataclasses.is_dataclass(config):
        return values
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if is_table(field):
            changes[field.name] = {
                name: freeze(part, values[name]) for name, part in value.items()
            }
        elif field.name in values:  # a field that is a place is no flag
            changes[field.name] = freeze(value, values[field.name])
    return dataclasses.replace(config, **changes)


if __name__ == "__main__":
    main()
