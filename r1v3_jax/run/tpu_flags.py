"""Reads the options of the TPU compiler and passes them to a TPU's runtime.

The options, each with its reason, are in data_files/tpu_flags.txt.
"""

import os
from pathlib import Path

FLAGS = Path(__file__).parent.parent / "data_files" / "tpu_flags.txt"


def flags() -> dict[str, str]:
    """Returns the options as {name: value}; "#" starts a comment in their file."""
    options = {}
    for line in FLAGS.read_text().splitlines():
        code = line.partition("#")[0].strip()
        if code:
            name, _, value = code.partition("=")
            options[name.strip()] = value.strip()
    return options


def set_init_args() -> None:
    """Adds the options to the environment variable LIBTPU_INIT_ARGS.

    To be called before the TPU's runtime starts. An option that the variable has already keeps its
    value.
    """
    users = os.environ.get("LIBTPU_INIT_ARGS", "")
    options = [
        f"--{name}={value}"
        for name, value in flags().items()
        if f"--{name}=" not in users
    ]
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([*options, users]).strip()
