"""Options of the TPU compiler, each with its reason."""

import os
from pathlib import Path

FLAGS = Path(__file__).parent.parent / "data_files" / "tpu_flags.txt"


def flags() -> dict[str, str]:
    """Options of the TPU compiler, from data_files/tpu_flags.txt."""
    lines = [line.partition("#")[0].strip() for line in FLAGS.read_text().splitlines()]
    pairs = (line.partition("=") for line in lines if line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def set_init_args() -> None:
    """Gives the options to a TPU's runtime, through LIBTPU_INIT_ARGS, before it starts. What the
    variable says already stays, and wins.
    """
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    ours = [
        f"--{name}={value}"
        for name, value in flags().items()
        if f"--{name}=" not in given
    ]
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([*ours, given]).strip()
