"""The reference model of a stage: what a KL term holds to, and what a student learns from."""

import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from r1v3_jax import hf
from r1v3_jax.config import GRPO, Compute, ModelConfig, Run
from r1v3_jax.hf.checkpoint import Checkpoint
from r1v3_jax.models import build
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.processing.tokenizer_files import tokenizer_files, tokenizer_of
from r1v3_jax.run.weights import load_weights, read_config
from r1v3_jax.sharding import abstract_mesh


def make_reference(run: Run, stage: GRPO, model: R1V3) -> R1V3 | None:
    """Returns the reference on the current mesh; None if the stage needs none.

    model: the weights that the stage begins with.
    """
    if not stage.needs_reference():
        return None
    if stage.reference:
        return load_checkpoint(stage.reference, run.model, run.compute)
    # A copy: the first update donates the arrays of the policy.
    return jax.tree.map(jnp.copy, model)


def reference_config(run: Run, stage: GRPO) -> ModelConfig:
    """Returns the dimensions of the reference, which may be larger or smaller than the model."""
    # `check_reference` refuses a directory that is not there. A dry run without data has none: it
    # counts with the model of the run.
    if not stage.reference or not Path(stage.reference).is_dir():
        return run.model
    config = with_choices(checkpoint_config(stage.reference), run.model)
    if is_ours(stage.reference):
        return config
    # What no config.json has: `load_checkpoint` pads the vocabulary as the run does.
    multiple = run.model.text.vocab_multiple
    text = dataclasses.replace(config.text, vocab_multiple=multiple)
    return dataclasses.replace(config, text=text)


def check_reference(run: Run, stage: GRPO) -> None:
    """Raises FileNotFoundError or ValueError for a reference that cannot judge the run's samples.

    It must read the same tokens and pictures; its layers and widths may be others.
    """
    if not stage.reference:
        return
    if not Path(stage.reference).is_dir():
        raise FileNotFoundError(
            f"GRPO.reference: {stage.reference}: no such directory; give a Hugging Face export or "
            "a checkpoint of this program, as RUN/export or RUN/grpo/done"
        )
    config = reference_config(run, stage)
    there = what_is_read(config)
    here = what_is_read(run.model)
    differing = [
        f"{name} is {there[name]} there and {here[name]} here"
        for name in here
        if there[name] != here[name]
    ]
    if differing:
        raise ValueError(
            f"GRPO.reference: {stage.reference} does not read what this model writes: "
            f"{'; '.join(differing)}. A model of the same family would do"
        )
    if stage.follows and config.text != run.model.text:
        raise ValueError(
            f"GRPO.reference: {stage.reference} has other layers or widths than the policy, which "
            f'it cannot follow (reference_decay = {stage.reference_decay}); reference = "" or '
            "reference_decay = 1.0 would do"
        )
    check_words(run, stage)
    room = stage.max_prompt_tokens + stage.max_completion_tokens
    if room > config.text.max_positions:
        raise ValueError(
            f"GRPO.reference: {stage.reference} has {config.text.max_positions} positions, and "
            f"max_prompt_tokens + max_completion_tokens = {room}; a shorter completion would do"
        )
    # Refuses a mesh that does not divide it.
    mesh = abstract_mesh(run.mesh, slices=run.slices)
    build.abstract(config, run.compute, mesh)


def check_words(run: Run, stage: GRPO) -> None:
    """Raises ValueError if a token of the run is another word to the reference.

    A reference without a tokenizer beside it is believed to have the run's.
    """
    directory = tokenizer_of(stage.reference)
    try:
        tokenizer_files(directory)
    except FileNotFoundError:
        return
    text_only = run.model.vision is None
    there = load(directory, text_only=text_only).hf.get_vocab()
    with tempfile.TemporaryDirectory() as written:
        # As the run begins: see `pipeline.start.write_tokenizer`.
        if run.write_tokenizer is not None:
            run.write_tokenizer(Path(written))
        own = (
            written if run.write_tokenizer is not None else tokenizer_of(run.init_from)
        )
        here = load(own, text_only=text_only).hf.get_vocab()
    differing = sorted(here.items() - there.items(), key=lambda item: item[1])
    if differing:
        word, number = differing[0]
        raise ValueError(
            f"GRPO.reference: {stage.reference} has other words: {len(differing)} of the run's "
            f"{len(here)} tokens, as {number}, {word!r}. A model with the same tokenizer would do"
        )


def what_is_read(config: ModelConfig) -> dict:
    """Returns what decides how a model reads tokens and pictures."""
    vision = config.vision
    return {
        "text.vocab_size": config.text.vocab_size,
        "image_token_id": config.image_token_id,
        "end_token_id": config.end_token_id,
        "vision.image_size": vision and vision.image_size,
        "vision.patch_size": vision and vision.patch_size,
    }


# -------------------------------------------------------------------------------------------------
# checkpoints, ours or Hugging Face's


def is_ours(directory: str | Path) -> bool:
    """Returns whether a directory holds a checkpoint of this program."""
    return (Path(directory) / "model.json").exists()


def checkpoint_config(directory: str | Path) -> ModelConfig:
    """Returns the config of a checkpoint; of Hugging Face's, the headers are read too."""
    if is_ours(directory):
        return read_config(directory)[0]
    return Checkpoint.open(directory).config


def load_checkpoint(
    directory: str | Path, wanted: ModelConfig, compute: Compute
) -> R1V3:
    """Returns the model of a checkpoint on the current mesh; see `with_choices`."""
    mesh = jax.sharding.get_mesh()
    if is_ours(directory):
        model = load_weights(directory, compute=compute, mesh=mesh)
    else:
        model = hf.load(
            directory,
            compute=compute,
            mesh=mesh,
            vocab_multiple=wanted.text.vocab_multiple,
        )
    return build.with_config(model, with_choices(model.config, wanted))


def with_choices(config: ModelConfig, wanted: ModelConfig) -> ModelConfig:
    """Returns a config with what is a choice and no shape taken from `wanted`."""
    text = dataclasses.replace(config.text, rope_impl=wanted.text.rope_impl)
    return dataclasses.replace(
        config,
        text=text,
        max_tiles=wanted.max_tiles,
        architecture=wanted.architecture,
        pad_token_id=wanted.pad_token_id,
    )
