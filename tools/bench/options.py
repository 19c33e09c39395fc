"""The flags that every kind of measurement shares, and the shape that they select."""

import dataclasses

from absl import flags
from shapes import SHAPES, Shape

SHAPE = flags.DEFINE_enum("shape", "tunix", list(SHAPES), "What is run.")
RUNS = flags.DEFINE_integer("runs", 5, "Of each part, after the one that compiles.", 1)
VOCAB = flags.DEFINE_integer("vocab", None, "Vocabulary, instead of the shape's.", 1024)
SLOTS = flags.DEFINE_integer(
    "slots", 0, "Rows of a continuous batch; 0: all rows at once.", 0
)
ATTENTION = flags.DEFINE_enum(
    "attention", "reference", ["reference", "splash"], "splash: a TPU's."
)


def selected_shape() -> Shape:
    """Returns the shape that the flags name."""
    shape = SHAPES[SHAPE.value]
    compute = dataclasses.replace(shape.compute, attention=ATTENTION.value)
    shape = dataclasses.replace(shape, compute=compute)
    if VOCAB.value is None:
        return shape
    return shape.with_vocabulary(VOCAB.value)
