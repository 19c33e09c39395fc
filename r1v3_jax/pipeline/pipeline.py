"""A whole run: the stages in a row, what each achieves, the report and the export at the end.

A finished stage leaves its weights and its account in WORKDIR/STAGE/done; running again goes on
after it.
"""

import shutil
import time
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from r1v3_jax import files, hf
from r1v3_jax.config import Run
from r1v3_jax.evaluate.held_out import accuracies, accuracy_without_images
from r1v3_jax.files import first_process
from r1v3_jax.models import r1v3
from r1v3_jax.pipeline.preflight import identity
from r1v3_jax.pipeline.start import make_processor, set_chat, start, write_tokenizer
from r1v3_jax.processing.tokenizer import export_template
from r1v3_jax.report import plots
from r1v3_jax.run.context import Context
from r1v3_jax.run.metrics import peak_rss_gib, versions, write_json
from r1v3_jax.run.preemption import leave_if_preempted
from r1v3_jax.run.weights import load_weights, save_weights
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages import grpo, sft

# The jitted functions of a run. Each is compiled once a shape: `update` once a stage and bucket,
# `prefill` and `decode` for rollouts, for the probe and for the held-out questions, ...
PROGRAMS = tuple(
    "update reshard encode_images prefill decode score validation_loss".split()
)


def run(
    config: Run, workdir: Path, *, quiet: bool = False, accept_changes: bool = False
) -> dict:
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
            summary["blind"] = accuracy_without_images(context, model)
            summary["answer_prior"] = dict(config.evaluate.answer_prior)
        export = workdir / "export"
        if first_process():
            shutil.rmtree(export, ignore_errors=True)
        multihost_utils.sync_global_devices("no export is there")
        tokenizer = workdir / "tokenizer"
        # A language model alone has no images to mark.
        template = (
            None if config.model.vision is None else export_template(tokenizer, "hf")
        )
        hf.save(model, export, "hf", tokenizer=tokenizer, chat_template=template)
    summary |= {
        "wall_s": round(time.time() - started, 1),
        "peak_rss_gib": round(peak_rss_gib(), 3),
    }
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
    processor = make_processor(config, directory)
    return Context(
        config, workdir, processor, quiet=quiet, accept_changes=accept_changes
    )


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
