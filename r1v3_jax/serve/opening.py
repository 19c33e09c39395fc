"""Flags of a command that answers with a checkpoint, and the engine that they ask for.

Whatever flags can get wrong is said here, before weights are read.
"""

from absl import flags

from r1v3_jax import cli
from r1v3_jax.engine.checkpoints import Source, open_checkpoint, open_hf
from r1v3_jax.engine.engine import Engine
from r1v3_jax.engine.sizes import EngineSettings, check_room

# Where the flags do not say, and the model has room for as much.
PROMPT_TOKENS = 8192
ANSWER_TOKENS = 16384


def define_engine(slots: int) -> dict[str, flags.FlagHolder]:
    """Defines the flags of a command that answers with a checkpoint. slots: the default."""
    return {
        "checkpoint": flags.DEFINE_string(
            "checkpoint", None, "A checkpoint of ours, a directory."
        ),
        "hf": flags.DEFINE_string("hf", None, "Instead: one of Hugging Face's."),
        "slots": flags.DEFINE_integer("slots", slots, "Answers sampled at a time.", 1),
        "max_prompt_tokens": flags.DEFINE_integer(
            "max_prompt_tokens",
            None,
            f"Of a prompt, images included; default {PROMPT_TOKENS}, or what the model has room "
            "for.",
            1,
        ),
        "max_tokens": flags.DEFINE_integer(
            "max_tokens",
            None,
            f"Of an answer; default {ANSWER_TOKENS}, or what the model has room for.",
            1,
        ),
        "rollout_int8": flags.DEFINE_bool(
            "rollout_int8", False, "The language model's matrices in 8 bits."
        ),
        "mesh": cli.define_mesh(),
        "rope_impl": cli.define_rope_impl(),
    }


def open_source(holders: dict[str, flags.FlagHolder]) -> Source:
    """Returns the checkpoint of the flags; weights are not read. ValueError, OSError."""
    checkpoint = holders["checkpoint"].value
    directory = holders["hf"].value
    if bool(checkpoint) == bool(directory):
        raise ValueError(
            "give either --checkpoint=DIR or --hf=DIR, a checkpoint of Hugging Face"
        )
    if checkpoint:
        return open_checkpoint(checkpoint)
    return open_hf(directory, rope_impl=holders["rope_impl"].value)


def settings_of(
    holders: dict[str, flags.FlagHolder], source: Source, queue: int
) -> EngineSettings:
    """Returns what the engine is to have room for. ValueError if the model has not.

    What the flags leave open is what the model has room for: with 512 positions and neither flag
    256 tokens each, with --max_tokens=100 alone prompts of 412.
    """
    room = source.config.text.max_positions
    prompt = holders["max_prompt_tokens"].value
    answer = holders["max_tokens"].value
    if prompt is None:
        prompt = min(PROMPT_TOKENS, room - (answer or min(ANSWER_TOKENS, room // 2)))
    if answer is None:
        answer = min(ANSWER_TOKENS, room - prompt)
    if min(prompt, answer) < 1:
        raise ValueError(
            f"--max_prompt_tokens and --max_tokens need more than the model's {room} positions "
            f"together; {room // 2} and {room - room // 2} would do"
        )
    settings = EngineSettings(
        slots=holders["slots"].value,
        max_prompt_tokens=prompt,
        max_tokens=answer,
        queue=queue,
        int8=holders["rollout_int8"].value,
    )
    check_room(source.config, settings)
    return settings


def make_engine(
    holders: dict[str, flags.FlagHolder], source: Source, settings: EngineSettings
) -> Engine:
    """Returns an engine on the mesh of the flags, not started. ValueError if it has no such one."""
    with cli.set_mesh(holders["mesh"]):
        return Engine(source, settings)
