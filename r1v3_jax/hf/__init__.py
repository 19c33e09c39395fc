"""Hugging Face checkpoints in and out: `hf.load`, `hf.save`, `hf.describe`.

`load` and `save` are the functions here; import other names from `r1v3_jax.hf.load` and so on.
"""

from r1v3_jax.hf.load import load
from r1v3_jax.hf.save import describe, save

__all__ = ["describe", "load", "save"]
