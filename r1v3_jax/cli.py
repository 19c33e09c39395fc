"""How a command of this program starts and fails: absl flags in, one line out for a mistake."""

import os
import signal
import sys
import traceback
from logging import getLogger
from typing import NoReturn

import jax
from absl import app, flags, logging

from r1v3_jax.run import tpu_flags
from r1v3_jax.run.preemption import PREEMPTED
from r1v3_jax.sharding import make_mesh
from r1v3_jax.types import DroppedRow

# What a user can cause: one line without a traceback.
MISTAKES = (ValueError, OSError, ImportError, FloatingPointError, DroppedRow)


def run(main) -> None:
    """Runs `main()` after the flags are parsed.

    A user's mistake (ValueError, OSError, ImportError) and bad numbers (FloatingPointError) end in
    one message and exit code 1, without a traceback. Libraries log warnings only, unless
    --verbosity asks for more.
    """

    def guarded(argv):
        # absl leaves what is no flag: a forgotten -- or a space instead of =.
        if len(argv) > 1:
            end(1, f"error: unexpected argument {argv[1]!r}; see --help")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
            # It warns of a config.json of our layouts when the tokenizer beside it is read.
            getLogger("transformers.configuration_utils").setLevel("ERROR")
        try:
            main()
        except MISTAKES as error:
            end(1, f"error: {error}")
        except KeyboardInterrupt:
            end(128 + signal.SIGINT)
        except SystemExit as leaving:
            if leaving.code != PREEMPTED:
                raise
            # The first process to leave without this would end the others.
            try:
                jax.distributed.shutdown()
            finally:
                # The interpreter's own exit takes seconds of a short grace time.
                end(PREEMPTED)
        except Exception:
            end(1, traceback.format_exc())

    app.run(guarded)


def end(code: int, message: str = "") -> NoReturn:
    """Prints why, and exits at once, without exit handlers.

    With several processes those would wait for the others, which wait for this one in the middle of
    a step: a deadlock. It also keeps library threads from printing after our message.
    """
    if message:
        print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def define_sampling(samples: int) -> dict[str, flags.FlagHolder]:
    """Defines the flags of a tool that asks a checkpoint questions, for `distill.ask`.

    samples: the default number of samples of each question.
    """
    return {
        "samples": flags.DEFINE_integer("samples", samples, "Samples of each.", 1),
        "batch": flags.DEFINE_integer("batch", 64, "Questions at a time.", 1),
        "temperature": flags.DEFINE_float("temperature", 1.0, "Of the samples.", 0.0),
        "seed": flags.DEFINE_integer("seed", 0, "Of the samples."),
    }


def define_rope_impl() -> flags.FlagHolder:
    """Defines the flag --rope_impl, which no config.json of a checkpoint answers."""
    return flags.DEFINE_enum(
        "rope_impl",
        "hf",
        ["hf", "vllm_static"],
        "What a dynamic RoPE scaling means below the maximal length: nothing, or what vLLM makes "
        "of it.",
    )


def define_mesh() -> flags.FlagHolder:
    """Defines the flag --mesh=8,1,1, for `set_mesh`."""
    return flags.DEFINE_list(
        "mesh",
        ["1", "1", "1"],
        "Devices along data,fsdp,tensor, over which the weights are split.",
    )


def mesh_shape(flag: flags.FlagHolder) -> tuple[int, ...]:
    """Returns the sizes of the flag. ValueError if they are none."""
    if not all(size.isdecimal() for size in flag.value):
        raise ValueError(
            f"--mesh={','.join(flag.value)}: wanted three whole numbers, data,fsdp,tensor, "
            "such as --mesh=8,1,1"
        )
    return tuple(map(int, flag.value))


def set_mesh(flag: flags.FlagHolder):
    """Returns a context in which the mesh of the flag is the current one.

    ValueError if there is no such mesh.
    """
    shape = mesh_shape(flag)
    tpu_flags.set_init_args(tpu_flags.kind_of_this_machine())
    return jax.set_mesh(make_mesh(shape))
