"""A vision tower and a language model -> one checkpoint of ours, joined by a connector.

python tools/assemble.py --vision=InternVL3-1B --language=Qwen3-0.6B --out=checkpoints/joined

Each is a directory with a checkpoint, Hugging Face's or ours, of which one part is taken. --vision
may also be a tower alone, InternViT or DINOv2. --connector=random is to be trained; --connector=DIR
takes one that was trained with another language model of the same width.
"""

import functools
import math
import tempfile
from pathlib import Path

from absl import flags, logging

from r1v3_jax import cli, hf
from r1v3_jax.files import empty_directory
from r1v3_jax.hf import halves
from r1v3_jax.hf.assemble import assemble, is_same_tower
from r1v3_jax.hf.checkpoint import Checkpoint
from r1v3_jax.hf.halves import (
    Tower,
    Whole,
    check_is_visual,
    is_tower,
    tower_of,
    whole_checkpoint,
    whole_model,
)
from r1v3_jax.processing import tokenizer
from r1v3_jax.processing.new_tokens import NewTokens, plan_tokens, write_tokens
from r1v3_jax.processing.tokenizer_files import tokenizer_of
from r1v3_jax.run.weights import load_weights, read_config, save_weights
from r1v3_jax.stages.reference import is_ours

VISION = flags.DEFINE_string("vision", None, "Takes the tower of this.", required=True)
LANGUAGE = flags.DEFINE_string(
    "language",
    None,
    "Takes the language model and the tokenizer of this.",
    required=True,
)
CONNECTOR = flags.DEFINE_string(
    "connector", "random", "Takes the connector of this directory; random: a new one."
)
OUT = flags.DEFINE_string("out", None, "Checkpoint directory to write.", required=True)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Pixels a side of a tile; default: the tower's own.", 1
)
SEED = flags.DEFINE_integer("seed", 0, "Of a random connector.")
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Of the weights; default: as stored."
)
ROPE_IMPL = cli.define_rope_impl()
MESH = cli.define_mesh()


def main():
    # 1. Everything that can be refused is refused before a weight is read.
    empty_directory(OUT.value)
    tower = open_tower(VISION.value)
    language = open_whole(LANGUAGE.value)
    connector = None
    if CONNECTOR.value != "random":
        connector = with_vision("--connector", CONNECTOR.value).part("connector")
    words = tokenizer_of(LANGUAGE.value)
    new = plan_tokens(words)
    rope = language.config.text.rope_impl
    if ROPE_IMPL.present:
        rope = ROPE_IMPL.value

    # 2. The tokenizer, and all parts together.
    with tempfile.TemporaryDirectory() as directory, cli.set_mesh(MESH):
        write_tokens(words, Path(directory), new)
        written = tokenizer.load(directory)
        ids = written.control_ids
        assembly = assemble(tower, connector, language, new, ids, seed=SEED.value)
        written.check_model(assembly.config)
        if connector is not None:
            warn_of_another_tower(tower)
        model = hf.load(assembly, DTYPE.value, rope_impl=rope)
        save_weights(OUT.value, model, tokenizer=directory)
    report(tower, language, new)
    print(f"{OUT.value}: {hf.describe(model)}")


@functools.cache
def open_whole(directory: str) -> Whole:
    """Opens a checkpoint, ours or Hugging Face's; no weight is read."""
    if directory.endswith(".gguf"):
        raise ValueError(
            f"{directory}: a GGUF file; convert it first, with "
            f"python tools/import_gguf.py --gguf={directory} --out=DIR, and give DIR"
        )
    if not is_ours(directory):
        return whole_checkpoint(Checkpoint.open(directory))
    config, dtype = read_config(directory)
    return whole_model(config, dtype, lambda: load_weights(directory), directory)


def open_tower(directory: str) -> Tower:
    """Opens the vision tower of a model, or one alone; no weight is read."""
    if not is_ours(directory):
        check_is_visual(Path(directory))
        if is_tower(Path(directory)):
            return halves.open_tower(Path(directory), IMAGE_SIZE.value)
    return tower_of(with_vision("--vision", directory), IMAGE_SIZE.value)


def warn_of_another_tower(tower: Tower) -> None:
    """Logs a warning if the connector was trained with another tower than the one here."""
    theirs = with_vision("--connector", CONNECTOR.value).part("vision")
    if not is_same_tower(theirs, tower.part):
        logging.warning(
            "the connector in %s was trained with another tower than that in %s; train it again "
            "before it is used",
            CONNECTOR.value,
            VISION.value,
        )


def with_vision(flag: str, directory: str) -> Whole:
    """Opens a model that has a tower. ValueError if it is a language model alone."""
    whole = open_whole(directory)
    if whole.config.vision is None:
        raise ValueError(
            f"{flag}={directory} holds a language model alone, with neither tower nor connector; "
            "give the checkpoint of a vision-language model"
        )
    return whole


def report(tower: Tower, language: Whole, new: NewTokens) -> None:
    """Prints what became of the parts, where they are not as they were."""
    # 1. The tower.
    side = math.isqrt(tower.config.patches)
    if side != tower.side:
        print(f"positions: {tower.side} x {tower.side} resampled to {side} x {side}")
    if tower.final_norm is not None:
        becomes = "the start of the connector's"
        if CONNECTOR.value != "random":
            becomes = "left out, the connector's is there"
        print(f"the tower's final norm: {becomes}")
    if tower.dropped:
        print(f"left out: {', '.join(tower.dropped)}, which only its training used")

    # 2. Words.
    rows = language.config.text.vocab_size
    if new.ids:
        names = ", ".join(new.ids)
        print(f"tokens {new.kept} to {new.kept + len(new.ids) - 1} are new: {names}")
    if new.ids and rows > new.kept:
        print(f"{rows - new.kept} rows without a token made room for them")
    if new.chatml:
        print(
            f"{' and '.join(new.chatml)} were missing: the model has to be taught its turns"
        )
    if new.chat_is_new:
        print("there was no chat template of ChatML: R1V3's takes its place")


if __name__ == "__main__":
    cli.run(main)
