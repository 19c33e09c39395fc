"""Checkpoints to answer with: config and tokenizer at once, weights when they are wanted."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from r1v3_jax import hf
from r1v3_jax.config import Compute, ModelConfig
from r1v3_jax.hf.checkpoint import Checkpoint
from r1v3_jax.models.build import decode_compute, for_decoding
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.tokenizer import Tokenizer, load
from r1v3_jax.run import weights
from r1v3_jax.run.platforms import warn_of_int8


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint whose description and tokenizer were read, and whose weights were not yet."""

    config: ModelConfig
    tokenizer: Tokenizer
    dtype: str  # of the weights, and of the computation
    read: Callable[[Compute], R1V3]  # onto the current mesh

    @property
    def compute(self) -> Compute:
        """How the model answers on this machine."""
        compute = Compute(dtype=self.dtype, param_dtype=self.dtype)
        if jax.default_backend() == "tpu":
            compute = dataclasses.replace(compute, attention="splash")
        return decode_compute(compute)

    def load(self, *, int8: bool = False) -> R1V3:
        """Reads the weights, right into the layout in which they are used."""
        if int8:
            warn_of_int8(jax.default_backend())
        model = self.read(self.compute)
        return for_decoding(model, int8=True) if int8 else model


def open_checkpoint(directory: str) -> Source:
    """Opens a checkpoint of this program. ValueError or OSError if anything is wrong with it."""
    config, dtype = weights.read_config(directory)
    tokenizer = read_tokenizer(f"{directory}/tokenizer", config)

    def read(compute: Compute) -> R1V3:
        return weights.load_weights(directory, compute=compute)

    return Source(config, tokenizer, dtype, read)


def open_hf(directory: str, *, rope_impl: str = "hf") -> Source:
    """Opens a Hugging Face checkpoint. rope_impl: of TextConfig, which no config.json has.

    ValueError or OSError if anything is wrong with it.
    """
    checkpoint = Checkpoint.open(Path(directory))
    text = dataclasses.replace(checkpoint.config.text, rope_impl=rope_impl)
    config = dataclasses.replace(checkpoint.config, text=text)
    tokenizer = read_tokenizer(directory, config)

    def read(compute: Compute) -> R1V3:
        return hf.load(checkpoint, compute=compute, rope_impl=rope_impl)

    return Source(config, tokenizer, str(jnp.dtype(checkpoint.dtype())), read)


def read_tokenizer(directory: str, config: ModelConfig) -> Tokenizer:
    """Reads the tokenizer of a model. ValueError if it is another model's."""
    tokenizer = load(directory, text_only=config.vision is None)
    tokenizer.check_model(config)
    return tokenizer
