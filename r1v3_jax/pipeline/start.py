"""What a run starts with: its tokenizer, its processor, its first weights."""

from pathlib import Path

import jax
from absl import logging

from r1v3_jax.config import Run
from r1v3_jax.hf import processor_files
from r1v3_jax.models import build
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing import tokenizer_files
from r1v3_jax.processing.chat import chat_template
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.run.context import Context
from r1v3_jax.run.weights import load_weights
from r1v3_jax.stages.reference import load_checkpoint


def write_tokenizer(config: Run, directory: Path) -> None:
    """Fills a directory with the files of the run's tokenizer."""
    if config.write_tokenizer is not None:
        config.write_tokenizer(directory)
    else:
        source = tokenizer_files.tokenizer_of(config.init_from)
        tokenizer_files.copy_tokenizer(source, directory)
    set_chat(config, directory)


def set_chat(config: Run, directory: Path) -> None:
    """Writes the run's system turn and opening into the chat template of a tokenizer."""
    if not (config.system or config.opening):
        return
    current = load(directory, text_only=config.model.vision is None).chat
    wanted = current.override(config.system, config.opening)
    # Unchanged templates are left as the checkpoint has them, byte for byte.
    if wanted != current:
        processor_files.replace_template(directory, chat_template(wanted))


def make_processor(config: Run, directory: Path) -> Processor:
    """Returns the processor of a run, with the tokenizer in `directory`."""
    tokenizer = load(directory, text_only=config.model.vision is None)
    tokenizer.check_model(config.model)
    # A model that never writes </think> gets no reward for its format, and may never learn to.
    opening = tokenizer.chat.opening
    is_rewarded = any(stage.IS_REWARDED for stage in config.selected_stages().values())
    if is_rewarded and "<think>" not in opening:
        logging.warning(
            "The assistant's turn begins with %r, not with <think>; a reward asks for </think> and "
            "a box behind it. Unless the model was taught to write that, set --config.opening="
            "$'<think>\\n' and say so in --config.system, or begin with a cold start.",
            opening,
        )
    return Processor(config.model, tokenizer)


def origin_of(context: Context, stage: str) -> Path | None:
    """Returns the checkpoint that `stage` begins with; None for random numbers."""
    config = context.run
    # What an earlier stage left in this directory. One that `start` names is there:
    # `preflight.check_starts` has looked.
    previous = config.start_of(stage)
    if previous:
        done = context.workdir / previous / "done"
        if done.exists():
            return done
        logging.warning(
            "%s begins with %s: %s was not done in %s",
            stage,
            config.init_from or "random weights",
            previous,
            context.workdir,
        )
    return Path(config.init_from) if config.init_from else None


def first_weights(context: Context, stage: str) -> R1V3:
    """Returns the weights that `stage` begins with, read from the workdir or from `init_from`."""
    config = context.run
    origin = origin_of(context, stage)

    # 1. Random numbers: a run that starts from nothing.
    if origin is None:
        return build.init(config.model, config.compute, seed=config.seed)

    # 2. What an earlier stage left in this directory.
    if origin.is_relative_to(context.workdir):
        mesh = jax.sharding.get_mesh()
        return load_weights(origin, compute=config.compute, mesh=mesh)

    # 3. A checkpoint, ours or Hugging Face's. Its shapes were compared in `preflight.check_init`.
    return load_checkpoint(config.init_from, config.model, config.compute)
