"""Everything about a run that can be refused before a device is touched."""

import dataclasses
from pathlib import Path

from absl import logging

from r1v3_jax import checksums
from r1v3_jax.config import ModelConfig, Run
from r1v3_jax.config.load import REPLACED
from r1v3_jax.data.made import bind, not_made
from r1v3_jax.files import read_json
from r1v3_jax.models import build
from r1v3_jax.pipeline.edges import check_edges
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.processing.tokenizer_files import tokenizer_of
from r1v3_jax.rewards.verify import check_functions
from r1v3_jax.run.checkpoints import check_same
from r1v3_jax.run.trackers import check_installed
from r1v3_jax.sharding import abstract_mesh
from r1v3_jax.stages.kinds import kind_of
from r1v3_jax.stages.loop import check_sources
from r1v3_jax.stages.reference import checkpoint_config

# Fields in which a run may differ from the checkpoint it starts from: choices, not shapes. The
# run's values are taken; of ties, and of padding in a checkpoint of ours, those of the weights.
CHOICES = (
    "max_tiles",
    "architecture",
    "pad_token_id",
    "vocab_multiple",
    "rope_impl",
    "tie_embeddings",
)

OLDER_VERSION = (
    "It was started by an older version, which wrote the algorithm by name; if the same algorithm "
    "is meant, --accept_changes goes on from its states, else choose another --workdir"
)


def check(
    config: Run, workdir: Path | None = None, *, accept_changes: bool = False
) -> None:
    """Raises ValueError or FileNotFoundError for a problem that can be seen on the host.

    Looked at are the checkpoint to start from, the data, the mesh, and a workdir that belongs to
    another run (with accept_changes such a workdir is only logged).
    """
    # 1. What the run starts from, what its stages hand on, what it verifies with and where it is
    #    to be seen.
    check_edges(config)
    check_installed("wandb", config.wandb)
    check_installed("trackio", config.trackio)
    if workdir is not None:
        config = bind(config, workdir)
    if config.init_from:
        check_init(config)
    check_functions(config.verify)

    # 2. The data of each stage, and the held-out questions.
    #    Rows that another stage will make are looked at when they are there.
    for name, stage in config.selected_stages().items():
        check_rows(config, name, workdir)
        kind_of(stage).check(config, stage)
    check_sources(*config.evaluate.sources)

    # 3. The directory. It reads the files that were looked for above.
    if workdir is not None:
        check_starts(config, workdir)
        check_answering(config, workdir)
        check_workdir(config, workdir, accept_changes)

    # 4. The mesh: every array of the model must split over it, to train and to decode.
    mesh = abstract_mesh(config.mesh, slices=config.slices)
    for compute in (config.compute, build.decode_compute(config.compute)):
        build.abstract(config.model, compute, mesh)


def identity(config: Run, workdir: Path) -> dict:
    """Returns what determines the run in `workdir`, for the stages that were started there.

    It is the content of run.json; see `Run.identity`.
    """
    config = bind(config, workdir)
    fields = {}
    for name in config.stages:
        if (workdir / name).is_dir():
            fields |= config.identity(name)
    return {**fields, "tokenizer": checksums.digest(workdir / "tokenizer")}


def check_workdir(config: Run, workdir: Path, accept_changes: bool = False) -> None:
    """Raises ValueError naming every field in which this config differs from the workdir's run.

    Differences in finished stages are only logged, because nothing will be computed with them.
    """
    path = workdir / "run.json"
    if not path.exists():
        return
    saved = read_json(path)
    current = identity(config, workdir)

    # Fields are compared by the part in front of the first dot: a stage, the model, ... Parts that
    # only one side has are a stage that is new or was removed.
    parts = {part_of(key) for key in saved} & {part_of(key) for key in current}
    finished = {name for name in parts if (workdir / name / "done").exists()}
    try:
        check_same(path, only(saved, finished), only(current, finished))
    except ValueError as error:
        logging.warning("%s (a stage that is done stays as it is)", error)
    unfinished = parts - finished
    advice = (
        OLDER_VERSION if REPLACED.keys() & {last_word(key) for key in saved} else ""
    )
    try:
        check_same(path, only(saved, unfinished), only(current, unfinished), advice)
    except ValueError as error:
        if not accept_changes:
            raise
        logging.warning("%s (accepted)", error)


def check_starts(config: Run, workdir: Path) -> None:
    """Raises FileNotFoundError if a stage that runs alone starts with weights that are not there.

    A stage that names none begins without the one before it: that is only logged.
    """
    for name, stage in config.selected_stages().items():
        named = stage.start and config.start_of(name)
        # In a whole run it is made before its turn.
        if not named or named in config.selected_stages():
            continue
        done = workdir / named / "done"
        if not done.exists():
            raise FileNotFoundError(
                f"{name}.start is {named!r}, and there is no {done}; run --config.stage={named} "
                f"first, or name {name}.start = 'init', the initial weights"
            )


def check_answering(config: Run, workdir: Path) -> None:
    """Raises FileNotFoundError if a stage that runs alone is measured with weights not there."""
    for name in config.selected_stages():
        entry = config.evaluate.after_stage(name)
        if entry is None or not entry.of or entry.of in config.selected_stages():
            continue
        done = workdir / entry.of / "done"
        if not done.exists():
            raise FileNotFoundError(
                f"Evaluate.after asks {entry.of!r} when {name} is done, and there is no {done}; "
                f"run --config.stage={entry.of} first"
            )


def check_rows(config: Run, name: str, workdir: Path | None) -> None:
    """Raises FileNotFoundError if a stage that runs alone reads rows that are not there.

    It does if the sets that are asked when it is done are made of such rows, too.
    """
    readers = [config.stages[name]]
    entry = config.evaluate.after_stage(name)
    if entry is not None:
        readers += [source for _, source in config.evaluate.asked(entry).sets]
    missing = [
        stage
        for reader in readers
        for stage in not_made(reader)
        if stage not in config.selected_stages()
    ]
    if missing and workdir is not None:
        raise FileNotFoundError(
            f"{name} reads the rows of stage {missing[0]!r}, which are not in {workdir}; run "
            f"--config.stage={missing[0]} first"
        )


def last_word(field: str) -> str:
    """Returns the last word of a field: "lr" of "grpo.optimizer.lr"."""
    return field.rpartition(".")[2]


def part_of(field: str) -> str:
    """Returns the first word of a field: "grpo" of "grpo.optimizer.lr"."""
    return field.partition(".")[0]


def only(fields: dict, parts: set[str]) -> dict:
    """Returns the fields that belong to some parts."""
    return {key: value for key, value in fields.items() if part_of(key) in parts}


def check_init(config: Run) -> None:
    """Raises ValueError naming every field in which `config.model` is not the model of
    `init_from`.
    """
    directory = Path(config.init_from)
    saved = model_fields(checkpoint_config(directory))
    wanted = model_fields(config.model)
    # A field that only one side has is a difference too: a tower where there was none.
    differing = [
        f"{name} is {saved.get(name)!r} there and {wanted.get(name)!r} here"
        for name in {**saved, **wanted}
        if saved.get(name) != wanted.get(name) and last_word(name) not in CHOICES
    ]
    if differing:
        raise ValueError(
            f"{directory} is not the model of this config: {'; '.join(differing)}; change "
            "config.model, or start from another checkpoint"
        )
    if config.write_tokenizer is None:
        tokenizer = load(tokenizer_of(directory), text_only=config.model.vision is None)
        tokenizer.check_model(config.model)


def model_fields(config: ModelConfig) -> dict:
    """Returns the fields of all three parts as {"text.layers": 24, ...}."""
    whole = dataclasses.asdict(config)
    text = whole.pop("text")
    vision = whole.pop("vision") or {}
    return {
        **{f"text.{key}": value for key, value in text.items()},
        **{f"vision.{key}": value for key, value in vision.items()},
        **whole,
    }
