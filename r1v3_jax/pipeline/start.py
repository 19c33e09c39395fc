"""Tokenizer and first weights."""

import dataclasses
from pathlib import Path

import jax
from absl import logging

from r1v3_jax import hf
from r1v3_jax.config import Run
from r1v3_jax.hf import processor_files
from r1v3_jax.models import build, r1v3
from r1v3_jax.pipeline.preflight import tokenizer_of
from r1v3_jax.processing import tokenizer_files
from r1v3_jax.processing.chat import chat_template
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.run.context import Context
from r1v3_jax.run.weights import load_weights


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
        if (chat := found.override(config.system, config.opening)) != found:
            processor_files.replace_template(directory, chat_template(chat))


def make_processor(config: Run, directory: Path) -> Processor:
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
    return Processor(config.model, tokenizer)


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
        **{
            name: getattr(wanted, name)
            for name in ("max_tiles", "architecture", "pad_token_id")
        },
    )
    return build.with_config(model, chosen)
