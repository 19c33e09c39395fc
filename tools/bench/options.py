"""The flags that every kind of measurement shares, and the shape that they select."""

import dataclasses

from absl import flags
from shapes import SHAPES, Shape

from r1v3_jax.config.model import check_attention

SHAPE = flags.DEFINE_enum("shape", "tunix", list(SHAPES), "What is run.")
RUNS = flags.DEFINE_integer("runs", 5, "Of each part, after the one that compiles.", 1)
VOCAB = flags.DEFINE_integer("vocab", None, "Vocabulary, instead of the shape's.", 1024)
SLOTS = flags.DEFINE_integer(
    "slots", 0, "Rows of a continuous batch; 0: all rows at once.", 0
)
ATTENTION = flags.DEFINE_enum(
    "attention",
    "reference",
    ["reference", "splash", "cudnn"],
    "splash: a TPU's. cudnn: a GPU's.",
)
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Of the computation, instead of the shape's.",
)


def selected_shape() -> Shape:
    """Returns the shape that the flags name. ValueError if its attention does not take it."""
    shape = SHAPES[SHAPE.value]
    dtype = DTYPE.value or shape.compute.dtype
    compute = dataclasses.replace(shape.compute, attention=ATTENTION.value, dtype=dtype)
    check_attention(shape.model, compute)
    shape = dataclasses.replace(shape, compute=compute)
    if VOCAB.value is None:
        return shape
    return shape.with_vocabulary(VOCAB.value)
