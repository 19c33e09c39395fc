"""A whole run: the stages in a row, what each achieves, the report and the export at the end.

A finished stage leaves its weights and its account in WORKDIR/STAGE/done; running again goes on
after it.
"""

import contextlib
import dataclasses
import shutil
import time
from pathlib import Path

import jax
from absl import logging
from jax.experimental import multihost_utils

from r1v3_jax import checksums, files, hf
from r1v3_jax.config import ModelConfig, Run, Verify
from r1v3_jax.data.mixtures import with_chains
from r1v3_jax.data.sources import CHECKED
from r1v3_jax.evaluate.held_out import accuracies, blind
from r1v3_jax.files import first_process
from r1v3_jax.hf import processor_files
from r1v3_jax.hf.load import Checkpoint
from r1v3_jax.models import build, r1v3
from r1v3_jax.processing import tokenizer_files
from r1v3_jax.processing.chat import chat_template
from r1v3_jax.processing.processor import Encoder
from r1v3_jax.processing.tokenizer import export_template, load
from r1v3_jax.report import plots
from r1v3_jax.rewards import verify
from r1v3_jax.rewards.verifiers import routing
from r1v3_jax.run.checkpoints import check_same
from r1v3_jax.run.context import Context
from r1v3_jax.run.metrics import peak_rss_gib, versions, write_json
from r1v3_jax.run.preemption import leave_if_preempted
from r1v3_jax.run.weights import load_weights, read_config, save_weights
from r1v3_jax.sharding import abstract_mesh, make_mesh
from r1v3_jax.stages import grpo, sft
from r1v3_jax.types import Dropped

# The jitted functions of a run. Each is compiled once a shape: `update` once a stage and bucket,
# `prefill` and `decode` for rollouts, for the probe and for the held-out questions, ...
PROGRAMS = tuple("update reshard encode_images prefill decode score validation_loss".split())


def run(config: Run, workdir: Path, *, quiet: bool = False, accept_changes: bool = False) -> dict:
    """Runs the pipeline of `config` (or its one stage), which `check` has seen, in `workdir`;
    returns the summary, also in summary.json.
    """
    started = time.time()
    context = prepare(config, workdir, quiet, accept_changes)
    with jax.set_mesh(make_mesh(config.mesh)):
        stages = (config.stage,) if config.stage else config.pipeline
        model = start(context, before=stages[0])
        summary = {"name": config.name, "seed": config.seed, "accuracy": {}}
        for name in stages:
            model, account = stage(context, name, model)
            if "accuracy" in account:
                summary["accuracy"][name] = account.pop("accuracy")
            summary |= account
        if config.evaluate.sets:
            summary["blind"] = blind(context, model)
            summary["answer_prior"] = dict(config.evaluate.answer_prior)
        export = workdir / "export"
        if first_process():
            shutil.rmtree(export, ignore_errors=True)
        multihost_utils.sync_global_devices("no export is there")
        tokenizer = workdir / "tokenizer"
        # A language model alone has no images to mark.
        template = None if config.model.vision is None else export_template(tokenizer, "hf")
        hf.save(model, export, "hf", tokenizer=tokenizer, chat_template=template)
    summary |= {"wall_s": round(time.time() - started, 1), "peak_rss_gib": round(peak_rss_gib(), 3)}
    summary["compiles_after_warmup"] = context.compiles.after_warmup
    summary["programs"] = context.compiles.programs(PROGRAMS)
    summary["versions"] = versions()
    write_json(workdir / "summary.json", summary)
    if first_process():
        plots.plot_run(workdir)
    return summary


def prepare(
    config: Run, workdir: Path, quiet: bool = False, accept_changes: bool = False
) -> Context:
    """The directory, the tokenizer and the encoder of a run."""
    directory = workdir / "tokenizer"
    if first_process():
        workdir.mkdir(parents=True, exist_ok=True)
        if not directory.exists():
            partial = files.partial_directory(directory)
            write_tokenizer(config, partial)
            partial.rename(directory)
        set_chat(config, directory)  # of a run that was begun with another one
    multihost_utils.sync_global_devices("the tokenizer is there")
    encoder = make_encoder(config, directory)
    return Context(config, workdir, encoder, quiet=quiet, accept_changes=accept_changes)


def identity(config: Run, workdir: Path) -> dict:
    """What makes the run in `workdir` what it is, for the stages that were begun there: see
    `Run.identity`; run.json.
    """
    stages = [name for name in config.pipeline if (workdir / name).is_dir()]
    named = {key: value for name in stages for key, value in config.identity(name).items()}
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
    both = set(map(part, there)) & set(map(part, here))  # not a stage that is new, or was removed
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


def check(config: Run, workdir: Path | None = None, *, accept_changes: bool = False) -> None:
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
            with contextlib.suppress(Dropped):  # a bad row is left out when its turn comes
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
        with contextlib.suppress(Dropped):
            example = source(index)
            try:
                verify.check_allowed(routing.parse(example.verifier), how)
            except ValueError as error:
                raise ValueError(f"{example.source}, {example.id}: {error}") from error


def write_tokenizer(config: Run, directory: Path) -> None:
    """Fills a directory with the files of the run's tokenizer."""
    if config.write_tokenizer is not None:
        config.write_tokenizer(directory)
    else:
        tokenizer_files.copy_tokenizer(tokenizer_of(config.init_from), directory)
    set_chat(config, directory)


def set_chat(config: Run, directory: Path) -> None:
    """Lets the tokenizer in `directory` speak as the run says."""
    if config.system or config.opening:
        found = load(directory, text_only=config.model.vision is None).chat
        if (chat := found.but(config.system, config.opening)) != found:
            processor_files.replace_template(directory, chat_template(chat))


def tokenizer_of(checkpoint: str | Path) -> Path:
    """Where a checkpoint's tokenizer lies: beside the weights, in one of ours in its own place."""
    directory = Path(checkpoint)
    return directory / "tokenizer" if (directory / "tokenizer").is_dir() else directory


def make_encoder(config: Run, directory: Path) -> Encoder:
    """The encoder of a run, with the tokenizer in `directory`."""
    tokenizer = load(directory, text_only=config.model.vision is None)
    tokenizer.check_model(config.model)
    opening = tokenizer.chat.opening
    if (
        "grpo" in ((config.stage,) if config.stage else config.pipeline)
        and "<think>" not in opening
    ):
        logging.warning(
            "The assistant's turn begins with %r, not with <think>; a reward asks for </think> and "
            "a box behind it. Unless the model was taught to write that, set --config.opening="
            "$'<think>\\n' and say so in --config.system, or begin with a cold start.",
            opening,
        )
    return Encoder(config.model, tokenizer)


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
    return {f"{prefix}{key}": value for prefix, part in parts for key, value in part.items()}


def start(context: Context, before: str) -> r1v3.R1V3:
    """The model that stage `before` begins with, in this order: what the stage in front of it in
    the pipeline left in this directory; `init_from`; random weights.
    """
    config, mesh = context.run, jax.sharding.get_mesh()
    place = config.pipeline.index(before) if before in config.pipeline else 0
    if place:
        done = context.workdir / config.pipeline[place - 1] / "done"
        if done.exists():
            return load_weights(done, compute=config.compute, mesh=mesh)
        logging.warning(
            "%s begins with %s: %s was not done in %s",
            before,
            config.init_from or "random weights",
            config.pipeline[place - 1],
            context.workdir,
        )
    if not config.init_from:
        return build.init(config.model, config.compute, seed=config.seed)
    wanted = config.model
    if (Path(config.init_from) / "model.json").exists():
        model = load_weights(config.init_from, compute=config.compute, mesh=mesh)
    else:
        multiple = wanted.text.vocab_multiple
        model = hf.load(
            config.init_from, compute=config.compute, mesh=mesh, vocab_multiple=multiple
        )
    chosen = dataclasses.replace(
        model.config,
        text=dataclasses.replace(model.config.text, rope_impl=wanted.text.rope_impl),
        **{name: getattr(wanted, name) for name in ("max_tiles", "architecture", "pad_token_id")},
    )
    return build.with_config(model, chosen)


def stage(context: Context, name: str, model: r1v3.R1V3) -> tuple[r1v3.R1V3, dict]:
    """One stage, or what it left behind if it is done: the model after it, and its account."""
    done = context.workdir / name / "done"
    if done.exists():
        mesh = jax.sharding.get_mesh()
        model = load_weights(done, compute=context.run.compute, mesh=mesh)
        return model, files.read_json(context.directory(name) / "account.json")
    stage_config = getattr(context.run, name)
    context.directory(name)
    write_json(context.workdir / "run.json", identity(context.run, context.workdir))
    if name == "grpo":
        model, account = grpo.run(context, name, stage_config, model)
    else:
        model, account = sft.run(context, name, stage_config, model), {}
    leave_if_preempted(name)
    if name in context.run.evaluate.after:
        account["accuracy"] = accuracies(context, model)
    write_json(context.directory(name) / "account.json", account)
    save_weights(done, model, tokenizer=context.workdir / "tokenizer")
    leave_if_preempted(name)
    return model, account
