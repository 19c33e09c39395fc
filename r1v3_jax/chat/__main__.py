"""Chats with a checkpoint, or with a server, in the terminal; or answers a file of questions.

python -m r1v3_jax.chat --checkpoint=DIR [--image=cat.png]
python -m r1v3_jax.chat --endpoint=http://127.0.0.1:8000/v1
python -m r1v3_jax.chat --checkpoint=DIR --prompts=questions.jsonl --out=answers.jsonl

See docs/serving.md.
"""

import sys
from pathlib import Path

from absl import flags

from r1v3_jax import cli
from r1v3_jax.chat import batches
from r1v3_jax.chat.conversation import Conversation
from r1v3_jax.chat.models import LocalModel, Model, RemoteModel, Sampling
from r1v3_jax.chat.terminal import Terminal
from r1v3_jax.engine.engine import Engine
from r1v3_jax.serve import opening

ENGINE = opening.define_engine(slots=4)
ENDPOINT = flags.DEFINE_string(
    "endpoint", None, "Instead of a checkpoint: a server, as http://host:8000/v1."
)
MODEL = flags.DEFINE_string("model", "r1v3", "The server's name of the model.")
TIMEOUT = flags.DEFINE_float(
    "timeout", 600.0, "Seconds that a server may be silent.", 1.0
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "0: the likeliest tokens.", 0.0, 2.0
)
TOP_P = flags.DEFINE_float(
    "top_p", 1.0, "Of the tokens that are sampled from.", 0.0, 1.0
)
SEED = flags.DEFINE_integer(
    "seed", None, "Of the answers; default: a fresh one, and 0 with --prompts."
)
THINKING = flags.DEFINE_enum(
    "thinking",
    "slow",
    ["slow", "no_think"],
    "As the template says, or without <think>.",
)
SYSTEM = flags.DEFINE_string(
    "system", "", "A system message in place of the template's."
)
IMAGE = flags.DEFINE_multi_string("image", [], "A picture for the first question.")
PROMPTS = flags.DEFINE_string(
    "prompts", None, "A file of questions, a JSON object a line."
)
OUT = flags.DEFINE_string("out", None, "The file of their answers.")


def main() -> None:
    """Checks the flags, then chats, or answers the file."""
    if bool(PROMPTS.value) != bool(OUT.value):
        raise ValueError("--prompts=FILE and --out=FILE go together; give both")
    if PROMPTS.value and IMAGE.value:
        raise ValueError(
            "--image is for a chat; with --prompts each row names its images"
        )
    chat = Conversation(system=SYSTEM.value, thinking=THINKING.value == "slow")
    for path in IMAGE.value:
        chat.attach(path)
    if PROMPTS.value:
        lines = batches.read_lines(Path(PROMPTS.value))
        batches.read_answers(Path(OUT.value), lines)
    model, sampling, at_a_time = open_model()
    if PROMPTS.value:
        failed = batches.run(
            model,
            sampling,
            Path(PROMPTS.value),
            Path(OUT.value),
            at_a_time=at_a_time,
            thinking=chat.thinking,
            system=SYSTEM.value,
            report=lambda problem: print(problem, file=sys.stderr, flush=True),
        )
        print(
            f"{OUT.value}: {len(lines) - failed} answers, {failed} lines without",
            flush=True,
        )
        cli.end(1 if failed else 0)
    for path in chat.attached:
        print(f"({path} goes with the first question)")
    print("(/help for commands)")
    Terminal(model, sampling, chat).run()
    # At once: an answer may still be on the devices.
    cli.end(0)


def open_model() -> tuple[Model, Sampling, int]:
    """Returns who answers, how, and how many questions he is asked at a time."""
    slots = ENGINE["slots"].value
    if ENDPOINT.value:
        if ENGINE["checkpoint"].value or ENGINE["hf"].value:
            raise ValueError("give a checkpoint or --endpoint, not both")
        model = RemoteModel(ENDPOINT.value, MODEL.value, TIMEOUT.value)
        most = ENGINE["max_tokens"].value or opening.ANSWER_TOKENS
        return model, sampling_of(most), slots
    source = opening.open_source(ENGINE)
    # As many as are asked at a time may wait.
    settings = opening.settings_of(ENGINE, source, queue=2 * slots)
    engine = opening.make_engine(ENGINE, source, settings)
    print(f"(loading; {settings.max_tokens} tokens an answer)", flush=True)
    wait_for(engine)
    return LocalModel(engine), sampling_of(settings.max_tokens), 2 * slots


def wait_for(engine: Engine) -> None:
    """Starts the engine, and waits until it answers."""
    engine.start()
    engine.wait_until_ready()


def sampling_of(max_tokens: int) -> Sampling:
    """Returns how answers are sampled."""
    return Sampling(max_tokens, TEMPERATURE.value, TOP_P.value, SEED.value)


if __name__ == "__main__":
    cli.run(main)
