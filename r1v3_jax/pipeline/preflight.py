"""All that can be refused before a device is touched."""

import contextlib
import dataclasses
from pathlib import Path

from absl import logging

from r1v3_jax import checksums, files
from r1v3_jax.config import ModelConfig, Run, Verify
from r1v3_jax.data.mixtures import with_chains
from r1v3_jax.data.sources import CHECKED
from r1v3_jax.hf.load import Checkpoint
from r1v3_jax.models import build
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards import verify
from r1v3_jax.rewards.verifiers import routing
from r1v3_jax.run.checkpoints import check_same
from r1v3_jax.run.weights import read_config
from r1v3_jax.sharding import abstract_mesh
from r1v3_jax.types import DroppedRow


def identity(config: Run, workdir: Path) -> dict:
    """What makes the run in `workdir` what it is, for the stages that were begun there: see
    `Run.identity`; run.json.
    """
    stages = [name for name in config.pipeline if (workdir / name).is_dir()]
    named = {
        key: value for name in stages for key, value in config.identity(name).items()
    }
    return {**named, "tokenizer": checksums.digest(workdir / "tokenizer")}


def check_workdir(config: Run, workdir: Path, accept_changes: bool = False) -> None:
    """ValueError naming every field in which the run that was begun in `workdir` is another one. Of
    stages that are done it is only said: nothing will be computed with what changed.
    """
    path = workdir / "run.json"
    if not path.exists():
        return
    there, here = files.read_json(path), identity(config, workdir)
    part = lambda key: key.partition(".")[0]  # noqa: E731
    both = set(map(part, there)) & set(
        map(part, here)
    )  # not a stage that is new, or was removed
    done = {name for name in both if (workdir / name / "done").exists()}
    for parts in (done, both - done):
        pair = [{k: v for k, v in x.items() if part(k) in parts} for x in (there, here)]
        try:
            check_same(path, *pair)
        except ValueError as error:
            if parts is not done and not accept_changes:
                raise
            why = "a stage that is done stays as it is" if parts is done else "accepted"
            logging.warning("%s (%s)", error, why)


def check(
    config: Run, workdir: Path | None = None, *, accept_changes: bool = False
) -> None:
    """ValueError or FileNotFoundError for what is wrong with a run and can be seen on the host: the
    checkpoint it starts from, its data, a mesh that does not divide the model, another run in
    `workdir` (of which it is only said with accept_changes).
    """
    if config.init_from:
        check_init(config)
    verify.check_functions(config.verify)
    for name in (config.stage,) if config.stage else config.pipeline:
        stage_config = getattr(config, name)
        sources = [stage_config.train, getattr(stage_config, "validation", None)]
        if name == "grpo" and stage_config.evaluate_every:
            sources.append(config.evaluate.probe)
        for source in sources + [source for _, source in config.evaluate.sets]:
            if hasattr(source, "check"):
                source.check()
        if chains := getattr(stage_config, "chains", ""):
            with contextlib.suppress(
                DroppedRow
            ):  # a bad row is left out when its turn comes
                with_chains(stage_config.train, chains)(0)
        if name == "grpo" and hasattr(stage_config.train, "check"):
            check_verifiers(stage_config.train, config.verify)
    if workdir is not None:  # it reads the files that were looked for above
        check_workdir(config, workdir, accept_changes)
    mesh = abstract_mesh(config.mesh)
    for compute in (config.compute, build.decode_compute(config.compute)):
        build.abstract(config.model, compute, mesh)


def check_verifiers(source, how: Verify) -> None:
    """ValueError if one of the first rows names a function or a model that the run does not have:
    its samples would all be errors.
    """
    for index in range(CHECKED):
        with contextlib.suppress(DroppedRow):
            example = source(index)
            try:
                verify.check_allowed(routing.parse(example.verifier), how)
            except ValueError as error:
                raise ValueError(f"{example.source}, {example.id}: {error}") from error


def tokenizer_of(checkpoint: str | Path) -> Path:
    """Where a checkpoint's tokenizer lies: beside the weights, in one of ours in its own place."""
    directory = Path(checkpoint)
    return directory / "tokenizer" if (directory / "tokenizer").is_dir() else directory


# Fields in which a run may differ from the checkpoint it starts from: choices, not shapes. The
# run's are taken; of ties, and of padding in a checkpoint of ours, those of the weights.
CHOICES = "max_tiles architecture pad_token_id vocab_multiple rope_impl tie_embeddings".split()


def check_init(config: Run) -> None:
    """ValueError naming every field in which `config.model` is not the model in `init_from`."""
    directory = Path(config.init_from)
    ours = (directory / "model.json").exists()
    if ours:
        found = read_config(directory)[0]
    else:
        found = Checkpoint.open(directory).config  # and the headers of the weights
    there, here = _fields(found), _fields(config.model)
    differing = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name) and name.rpartition(".")[2] not in CHOICES
    ]
    if differing:
        raise ValueError(
            f"{directory} is not the model of this config: {'; '.join(differing)}; change "
            "config.model, or start from another checkpoint"
        )
    if config.write_tokenizer is None:
        tokenizer = load(tokenizer_of(directory), text_only=config.model.vision is None)
        tokenizer.check_model(config.model)


def _fields(config: ModelConfig) -> dict:
    """{"text.layers": 24, ...}, of all three parts."""
    whole = dataclasses.asdict(config)
    text, vision = whole.pop("text"), whole.pop("vision") or {}
    parts = (("text.", text), ("vision.", vision), ("", whole))
    return {
        f"{prefix}{key}": value for prefix, part in parts for key, value in part.items()
    }
