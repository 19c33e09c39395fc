"""Hugging Face checkpoints in and out."""

from r1v3_jax.hf.load import load
from r1v3_jax.hf.save import describe, save

__all__ = ["describe", "load", "save"]
