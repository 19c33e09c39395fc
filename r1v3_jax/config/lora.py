"""Low-rank adapters in place of whole matrices (`LoRA`), and what can be refused about them."""

import dataclasses
from typing import Annotated

from r1v3_jax.config.fit import parts_of
from r1v3_jax.config.model import ModelConfig
from r1v3_jax.fields import PositiveFloat, at_least, check

# The parts of a model whose layers are adapted. The connector, two matrices that often begin as
# random numbers, learns whole.
ADAPTED = ("llm", "vision")


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Low-rank adapters, LoRA (arXiv 2106.09685): W + (alpha / rank) A B with W as it was.

    Of `trainable`, the matrices in the layers of the language model and of the tower are adapted;
    their embeddings, heads, norms and biases stay as they are. A connector learns whole.
    """

    rank: Annotated[int, at_least(1, "lora = None trains whole matrices")] = 16
    alpha: PositiveFloat = 32.0
    # W of the language model in 8 bits (`models.int8`): half the bytes of bfloat16. What the stage
    # hands on is those rounded matrices with their adapters added. Before the first step and after
    # the last there are both on the devices, W in 8 bits and in `param_dtype`.
    base_int8: bool = False

    __post_init__ = check


def adapted_parts(trainable: str) -> tuple[str, ...]:
    """Returns the parts that a stage with LoRA adapts: ("llm",) of "llm+connector"."""
    return tuple(part for part in ADAPTED if part in parts_of(trainable))


def smallest_side(model: ModelConfig, part: str) -> int:
    """Returns the shortest side of the matrices that are adapted in a part."""
    if part == "vision":
        return min(model.vision.embed, model.vision.mlp)
    text = model.text
    # q and out are embed x all query heads, k and v are embed x all kv heads.
    return min(text.embed, text.kv_heads * text.head_dim, text.mlp)


def check_lora(name: str, stage, run) -> None:
    """Raises ValueError for adapters that stage `name` of `run` cannot have."""
    if stage.lora is None:
        return
    model = run.model
    parts = adapted_parts(stage.trainable)
    if model.vision is None:
        parts = tuple(part for part in parts if part == "llm")
    if not parts:
        raise ValueError(
            f"{name}.lora adapts {' and '.join(ADAPTED)}, and {name}.trainable is "
            f"{stage.trainable!r}, which learns whole; lora = None would do, or trainable = "
            "'llm+connector'"
        )
    has_connector = model.vision is not None
    learns_whole = has_connector and "connector" in parts_of(stage.trainable)
    if learns_whole and run.compute.param_dtype != "float32":
        raise ValueError(
            f"{name}.trainable is {stage.trainable!r}, and a connector learns whole, by steps that "
            f"compute.param_dtype = {run.compute.param_dtype!r} rounds away; trainable = "
            f"{'+'.join(parts)!r} would do, or 'float32'"
        )
    for part in parts:
        side = smallest_side(model, part)
        if stage.lora.rank > side:
            raise ValueError(
                f"{name}.lora.rank = {stage.lora.rank} is larger than the smallest matrix of "
                f"{part}, one side of which is {side}; {min(16, side)} would do"
            )
    if getattr(stage, "follows", False):
        raise ValueError(
            f"{name}.reference_decay = {stage.reference_decay} averages weights, and the mean of "
            f"two products A B is not the product of the means; reference_decay = 1.0 would do, "
            f"or {name}.lora = None"
        )
