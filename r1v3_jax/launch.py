"""Starts a run: python -m r1v3_jax.launch --config=NAME [--config.grpo.steps=50] [--workdir=DIR]

NAME is a file of `configs/` (under the working directory, else in the installed package) or a path
to one. Each `--config.a.b=value` changes one field. The same command again resumes the run.
"""

import dataclasses
import difflib
import os
import sys
import tempfile
from pathlib import Path

from absl import flags
from ml_collections import config_dict, config_flags

from r1v3_jax import cli
from r1v3_jax.config import Run, list_configs, load_config, topology
from r1v3_jax.config.fields import flatten_fields
from r1v3_jax.run import processes

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; default runs/NAME."
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
    "A TPU slice in place of the config's, as v5p:2x2x4; mesh.data follows it.",
)
DRY_RUN_OUT = flags.DEFINE_string(
    "dry_run_out", None, "A JSON file for what the dry run found."
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
PROCESSES = processes.define_processes()
LIST_CONFIGS = flags.DEFINE_bool(
    "list_configs", False, "Print the names of the configs and stop."
)


def main() -> None:
    """Parses the command line and runs; see the module's docstring."""
    arguments = [a for a in sys.argv[1:] if a.startswith("--config=")]
    for argument in arguments:
        sys.argv.remove(argument)
    if not arguments:
        cli.run(without_config)
        return
    # ml_collections reads sys.argv when a flag is defined, so the config must be known before.
    try:
        base = load_config(arguments[-1].partition("=")[2])
        check_names(base, sys.argv[1:])
        flag = config_flags.DEFINE_config_dict("config", thaw(base))
    except (ValueError, OSError, AttributeError) as error:  # the last: an unknown field
        sys.exit(f"error: {' '.join(str(error).split())}")

    def start():
        values = flag.value
        if TOPOLOGY.value:
            values.topology = TOPOLOGY.value
            if tuple(values.mesh) == base.mesh:  # not said on the command line
                values.mesh = base.mesh_of(topology.parse(TOPOLOGY.value).chips)
        config = freeze(base, values)
        if PRINT_CONFIG.value:
            for name, value in flatten_fields(config, "config").items():
                print(f"--{name}={value}")
            return
        if LIST_CONFIGS.value:
            print("\n".join(list_configs()))
            return
        if (
            DRY_RUN.value
            or DRY_RUN_FULL.value
            or DRY_RUN_ONLY.value
            or DRY_RUN_OUT.value
        ):
            dry_run_of(config)
            return
        workdir = WORKDIR.value or f"runs/{config.name}"
        if "://" in workdir:
            raise ValueError(
                f"--workdir={workdir}: wanted a directory that every host sees; mount the bucket "
                "(Cloud Storage FUSE, hierarchical namespace), or use Filestore"
            )
        # After the flags: a typing error costs no import of the models.
        from r1v3_jax.files import first_process
        from r1v3_jax.pipeline import pipeline, preflight
        from r1v3_jax.report import plots
        from r1v3_jax.run import preemption

        preflight.check(config, Path(workdir), accept_changes=ACCEPT_CHANGES.value)
        processes.start_processes(PROCESSES, config.topology)
        preemption.catch_sigterm()
        summary = pipeline.run(
            config, Path(workdir), accept_changes=ACCEPT_CHANGES.value
        )
        if first_process():
            print(plots.table(summary))
            print(f"{workdir}/summary.json, {workdir}/plots, {workdir}/export")

    cli.run(start)


def dry_run_of(config: Run) -> None:
    """See `dry_run`. Exit code 1 if a program does not fit."""
    if not config.topology:
        raise ValueError(
            "--dry_run compiles for a TPU slice, and this config names none; give one, as "
            "--topology=v5p:2x2x1"
        )
    from r1v3_jax.pipeline import preflight
    from r1v3_jax.pipeline.start import make_processor, write_tokenizer
    from r1v3_jax.run.metrics import write_json
    from r1v3_jax.tpu import compiler, dry_run

    if os.environ.get(compiler.CHILD):
        compiler.compile_here(config)
        return
    banned = (config.model.image_token_id,) if config.model.vision else ()
    if DRY_RUN_DATA.value:
        preflight.check(config)
        with tempfile.TemporaryDirectory() as directory:
            write_tokenizer(config, Path(directory))
            processor = make_processor(config, Path(directory))
        dry_run.show_samples(config, processor)
        banned = processor.tokenizer.banned_token_ids
    else:
        print("checkpoint and data were not opened (--nodry_run_data)")
    summary = dry_run.run(
        config, tuple(banned), full=DRY_RUN_FULL.value, only=tuple(DRY_RUN_ONLY.value)
    )
    if DRY_RUN_OUT.value:
        write_json(DRY_RUN_OUT.value, summary)
    if not summary["fits"]:
        sys.exit("error: not every program fits into a chip's memory; see above")


def check_names(config: Run, arguments: list[str]) -> None:
    """ValueError for a --config.a.b=value whose field does not exist, with the nearest one."""
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("-") or not name.startswith("config."):
            continue
        at, path = config, "config"
        for part in name.split(".")[1:]:
            known = (
                [f.name for f in dataclasses.fields(at)]
                if dataclasses.is_dataclass(at)
                else []
            )
            if part not in known:
                near = difflib.get_close_matches(part, known, n=1, cutoff=0.0)
                meant = f"did you mean --{path}.{near[0]}? " if near else ""
                raise ValueError(
                    f"--{name}: {path} has no field {part!r}; {meant}--print_config shows them all"
                )
            at, path = getattr(at, part), f"{path}.{part}"


def without_config() -> None:
    if not LIST_CONFIGS.value:
        raise ValueError(
            f"--config=NAME is missing; there are: {', '.join(list_configs())}"
        )
    print("\n".join(list_configs()))


def thaw(config):
    """A frozen dataclass as a ConfigDict, the form that absl flags can change."""
    if not dataclasses.is_dataclass(config):
        return config
    return config_dict.ConfigDict(
        {
            field.name: thaw(getattr(config, field.name))
            for field in dataclasses.fields(config)
        }
    )


def freeze(config, values):
    """`config` with the values of a ConfigDict; cross-checks run again."""
    if not dataclasses.is_dataclass(config):
        return values
    changes = {
        f.name: freeze(getattr(config, f.name), values[f.name])
        for f in dataclasses.fields(config)
    }
    return dataclasses.replace(config, **changes)


if __name__ == "__main__":
    main()
