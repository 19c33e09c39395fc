"""A whole run: the stages in order, what each achieves, the report and the export at the end.

A finished stage leaves its weights and its account in WORKDIR/STAGE/done; the same run started
again goes on after it.
"""

import dataclasses
import shutil
import time
from pathlib import Path

import jax
from absl import logging
from jax.experimental import multihost_utils

from r1v3_jax import hf
from r1v3_jax.config import After, Run
from r1v3_jax.data.made import bind, made_in
from r1v3_jax.evaluate.held_out import accuracies, accuracy_without_images
from r1v3_jax.fields import flatten_fields
from r1v3_jax.files import (
    atomic_directory,
    first_process,
    partial_directory,
    read_json,
    write_json,
)
from r1v3_jax.hf.peft import save_adapters
from r1v3_jax.models.build import without_adapters
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.pipeline.preflight import identity
from r1v3_jax.pipeline.start import (
    first_weights,
    make_processor,
    origin_of,
    set_chat,
    write_tokenizer,
)
from r1v3_jax.processing.tokenizer import export_template
from r1v3_jax.report import page, plots
from r1v3_jax.run.context import Context
from r1v3_jax.run.metrics import peak_rss_gib, versions
from r1v3_jax.run.platforms import check_platform, warn_of_int8
from r1v3_jax.run.preemption import leave_if_preempted
from r1v3_jax.run.trackers import trackers_of
from r1v3_jax.run.weights import load_weights, save_weights
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages.kinds import kind_of
from r1v3_jax.train.adapters import adapted, base_of
from r1v3_jax.train.optimizer import what_learns
from r1v3_jax.train.update import release

# The jitted functions of a run. Each is compiled once a shape: `update` once a stage and bucket,
# `prefill` and `decode` for rollouts, for the probe and for the held-out questions, ...
PROGRAMS = (
    "update",
    "reshard",
    "encode_images",
    "prefill",
    "decode",
    "score",
    "follow",
    "step_scores",
    "validation_loss",
)


def run(
    config: Run, workdir: Path, *, quiet: bool = False, accept_changes: bool = False
) -> dict:
    """Runs the stages of `config` in `workdir`; `check` has seen both.

    Returns the summary, which is also in summary.json. ValueError for settings of another kind of
    device than this machine has, before anything is on one.
    """
    check_platform(config.compute, jax.default_backend())
    if any(
        getattr(x, "rollout_int8", False) for x in config.selected_stages().values()
    ):
        warn_of_int8(jax.default_backend())
    context = prepare(config, workdir, quiet, accept_changes)
    config = context.run
    # The first process writes for all.
    projects = {"wandb": config.wandb, "trackio": config.trackio}
    about = {"name": config.name, "config": flatten_fields(config, "config")}
    if not first_process():
        projects = {}
    with (
        trackers_of(projects, workdir, about) as trackers,
        jax.set_mesh(make_mesh(config.mesh, slices=config.slices)),
    ):
        context = dataclasses.replace(context, trackers=trackers)
        summary = run_stages(context)
        for tracker in trackers:
            tracker.summary(accuracy_numbers(summary))
    if first_process():
        draw(workdir)
    return summary


def run_stages(context: Context) -> dict:
    """Runs the stages and exports what they made; returns and writes the summary."""
    started = time.time()
    config = context.run
    summary = {"name": config.name, "seed": config.seed, "accuracy": {}}
    accounts = {}

    # 1. The stages, each from the weights that it starts with.
    model = None
    previous = ""  # the stage whose weights `model` has; "" for the initial ones
    for name in config.selected_stages():
        if model is None or config.start_of(name) != previous:
            if model is not None:
                release(model)
            model = first_weights(context, name)
        model, account = run_stage(context, name, model)
        previous = config.weights_of(name)
        if "accuracy" in account:
            summary["accuracy"][name] = account.pop("accuracy")
        accounts[name] = account
        # At the top is the account of the last stage that has one.
        summary |= account

    # 2. How much of the accuracy needs the images. A language model sees none.
    if config.evaluate.sets:
        if config.model.vision is not None and config.evaluate.without_images:
            summary["blind"] = accuracy_without_images(context, model)
        summary["answer_prior"] = dict(config.evaluate.answer_prior)

    # 3. The weights for other programs.
    export(context, model)
    summary |= {
        "stages": accounts,
        "wall_s": round(time.time() - started, 1),
        "peak_rss_gib": round(peak_rss_gib(), 3),
        "compiles_after_warmup": context.compiles.after_warmup,
        "programs": context.compiles.programs(PROGRAMS),
        "versions": versions(),
    }
    write_json(context.workdir / "summary.json", summary)
    return summary


def accuracy_numbers(summary: dict) -> dict[str, float]:
    """Returns {"accuracy/STAGE/SET": share of right answers} of a summary, for trackers."""
    return {
        f"accuracy/{stage}/{name}": float(measured["mean"])
        for stage, sets in summary["accuracy"].items()
        for name, measured in sets.items()
    }


def draw(workdir: Path) -> None:
    """Writes WORKDIR/plots and WORKDIR/report.

    Both are views of a run that is whole by now: what fails is logged, and costs neither the run
    nor the other view.
    """
    views = {"plots": plots.plot_run, "report": page.write_report}
    for name, write in views.items():
        try:
            write(workdir)
        except Exception as error:  # any: of a library, of a full disk
            logging.warning(
                "%s/%s was not written: %r. The run is complete; python -m r1v3_jax.report %s "
                "tries again",
                workdir,
                name,
                error,
                workdir,
            )


def prepare(
    config: Run, workdir: Path, quiet: bool = False, accept_changes: bool = False
) -> Context:
    """Makes the directory, the tokenizer and the processor of a run."""
    directory = workdir / "tokenizer"
    if first_process():
        workdir.mkdir(parents=True, exist_ok=True)
        if not directory.exists():
            partial = partial_directory(directory)
            write_tokenizer(config, partial)
            partial.rename(directory)
        # An older run in this directory may have been started with another system turn.
        set_chat(config, directory)
    multihost_utils.sync_global_devices("the tokenizer is there")
    processor = make_processor(config, directory)
    return Context(
        bind(config, workdir),
        workdir,
        processor,
        quiet=quiet,
        accept_changes=accept_changes,
    )


def run_stage(context: Context, name: str, model: R1V3) -> tuple[R1V3, dict]:
    """Runs one stage, or reads what it left if it is done.

    Returns the model after it, and its account.
    """
    # 1. Done in an earlier run of this directory: nothing is computed again.
    config = context.run.stages[name]
    done = context.workdir / name / "done"
    if done.exists():
        if config.HAS_WEIGHTS:
            mesh = jax.sharding.get_mesh()
            model = load_weights(done, compute=context.run.compute, mesh=mesh)
        return model, read_json(context.directory(name) / "account.json")

    # 2. The stage. What it reads of stages of this run is there now, and is looked at.
    context.directory(name)
    write_json(context.workdir / "run.json", identity(context.run, context.workdir))
    if any(made_in(config)):
        kind_of(config).check(context.run, config)
    if getattr(config, "lora", None):
        model, account = run_with_adapters(context, name, model)
    else:
        model, account = kind_of(config).run(context, name, config, model)
    leave_if_preempted(name)

    # 3. What it achieves, and the account.
    entry = context.run.evaluate.after_stage(name)
    if entry is not None:
        account["accuracy"] = measure(context, name, entry, model)
    write_json(context.directory(name) / "account.json", account)

    # 4. What it hands on comes last: that says that the stage is done.
    if config.HAS_WEIGHTS:
        save_weights(done, model, tokenizer=context.workdir / "tokenizer")
    else:
        with atomic_directory(done) as (partial, _):
            write_json(partial / "account.json", account)
    leave_if_preempted(name)
    return model, account


def run_with_adapters(context: Context, name: str, model: R1V3) -> tuple[R1V3, dict]:
    """Runs a stage that trains low-rank adapters, and writes them into WORKDIR/STAGE/adapters.

    Returns the model with its adapters merged: what follows begins with whole matrices.
    """
    config = context.run.stages[name]
    origin = str(origin_of(context, name) or "random weights")
    base = base_of(config, model, origin)
    model = adapted(context.run, name, model)
    of_stage = dataclasses.replace(context, base=base)
    model, account = kind_of(config).run(of_stage, name, config, model)
    has_connector = context.run.model.vision is not None
    save_adapters(
        model,
        context.directory(name) / "adapters",
        base=origin,
        with_connector=has_connector and what_learns(config)(("connector",), None),
    )
    model = without_adapters(model)
    # Its program is compiled once a stage, and is no work of what is measured next.
    context.compiles.after(f"{name}/merge")
    return model, account


def measure(context: Context, name: str, entry: After, model: R1V3) -> dict:
    """Returns the accuracies that `Evaluate.after` wants after a stage.

    Each question's verdicts are kept, so that two runs are compared question by question.
    """
    answering = model
    if entry.of and entry.of != context.run.weights_of(name):
        done = context.workdir / entry.of / "done"
        mesh = jax.sharding.get_mesh()
        answering = load_weights(done, compute=context.run.compute, mesh=mesh)
    run = context.run
    run = dataclasses.replace(run, evaluate=run.evaluate.asked(entry))
    asked = dataclasses.replace(context, run=run)
    verdicts = context.directory(name) / "verdicts.jsonl"
    measured = accuracies(asked, answering, verdicts=verdicts)
    if answering is not model:
        release(answering)
    return measured


def export(context: Context, model: R1V3) -> None:
    """Writes the weights as Hugging Face safetensors into WORKDIR/export."""
    directory = context.workdir / "export"
    if first_process():
        shutil.rmtree(directory, ignore_errors=True)
    multihost_utils.sync_global_devices("no export is there")
    tokenizer = context.workdir / "tokenizer"
    template = None
    if context.run.model.vision is not None:  # a language model has no images to mark
        template = export_template(tokenizer, "hf")
    hf.save(model, directory, "hf", tokenizer=tokenizer, chat_template=template)
