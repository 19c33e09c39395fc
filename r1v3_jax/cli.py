"""How a command of this program starts and fails: absl flags in, one line out for a mistake."""

import sys
from logging import getLogger

import jax
from absl import app, flags, logging

from r1v3_jax.sharding import make_mesh


def run(main) -> None:
    """Runs `main()` after the flags are parsed.

    A user's mistake (ValueError, OSError, ImportError) ends in one message and exit code 1, without
    a traceback. Libraries log warnings only, unless --verbosity asks for more.
    """

    def guarded(argv):
        if len(argv) > 1:
            sys.exit(f"error: unexpected argument {argv[1]!r}; see --help")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
            # It warns of a config.json of our layouts when the tokenizer beside it is read.
            getLogger("transformers.configuration_utils").setLevel("ERROR")
        try:
            main()
        except (ValueError, OSError, ImportError) as error:
            sys.exit(f"error: {error}")

    app.run(guarded)


def define_rope_impl() -> flags.FlagHolder:
    """The flag --rope_impl, of a Hugging Face checkpoint: its config.json does not say it."""
    return flags.DEFINE_enum(
        "rope_impl",
        "hf",
        ["hf", "vllm_static"],
        "What a dynamic RoPE scaling means below the maximal length: nothing, or what vLLM makes "
        "of it.",
    )


def define_mesh() -> flags.FlagHolder:
    """The flag --mesh=1,8,1, for `set_mesh`."""
    return flags.DEFINE_list(
        "mesh", ["1", "1", "1"], "Devices along data,fsdp,tensor, over which the weights are split."
    )


def set_mesh(flag: flags.FlagHolder):
    """A context in which the mesh of the flag is the current one. ValueError if there is no such
    mesh.
    """
    if not all(size.isdecimal() for size in flag.value):
        raise ValueError(
            f"--mesh={','.join(flag.value)}: wanted three whole numbers, data,fsdp,tensor, "
            "such as --mesh=1,8,1"
        )
    return jax.set_mesh(make_mesh(tuple(map(int, flag.value))))
