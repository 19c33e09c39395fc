"""Chooses the options of the TPU compiler for a chip and a version of the compiler.

The options are in data_files/tpu_flags.txt, each with its reason, the chips that it is meant for
and, if not for all, the versions of the compiler (the package libtpu). A dry run passes them to
each compilation, a run to the TPU's runtime; both choose them with `options`.
"""

import importlib.metadata
import importlib.util
import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path

from r1v3_jax.config.topology import KINDS

FLAGS = Path(__file__).parent.parent / "data_files" / "tpu_flags.txt"

# The oldest compiler that every config was compiled with.
OLDEST_LIBTPU = "0.0.42.1"

# "xla_x = true for v5p v5e, libtpu >= 0.0.43, libtpu <= 0.0.50.1": a name, a value, chips, limits.
LINE = re.compile(r"(xla_\w+) = (\S+) for ((?: ?v\w+)+)((?:, libtpu [<>]= [\d.]+)*)")
LIMIT = re.compile(r"libtpu ([<>])= ([\d.]+)")


# -------------------------------------------------------------------------------------------------
# the file


@dataclass(frozen=True)
class Flag:
    """One line of the file: an option of the compiler, and where it is meant."""

    name: str
    value: str
    chips: tuple[str, ...]  # "v5p", ...
    limits: tuple[tuple[str, str], ...]  # of libtpu: ("<", "0.0.42.1") is <= 0.0.42.1
    line: int  # its number in the file

    def is_for(self, kind: str, libtpu: str | None) -> bool:
        """Tells whether the option is meant for a chip and a version; None is the newest."""
        within = True
        for sign, limit in self.limits:
            if libtpu is None:
                within &= sign == ">"
            elif sign == "<":
                within &= version(libtpu) <= version(limit)
            else:
                within &= version(libtpu) >= version(limit)
        return kind in self.chips and within

    @property
    def place(self) -> str:
        return f"{FLAGS.parent.name}/{FLAGS.name}, line {self.line}"


def read_flags() -> list[Flag]:
    """Reads all lines of the file; "#" starts a comment. ValueError for a line of another form."""
    flags = []
    for number, line in enumerate(FLAGS.read_text().splitlines(), start=1):
        code = line.partition("#")[0].strip()
        if not code:
            continue
        match = LINE.fullmatch(code)
        chips = match[3].split() if match else []
        if not match or set(chips) - set(KINDS):
            raise ValueError(
                f"{FLAGS}, line {number}: {code!r} is not NAME = VALUE for CHIPS; chips are "
                f"{' '.join(KINDS)}, as in: xla_enable_async_all_gather = true for v5p v5e, "
                "libtpu <= 0.0.42.1"
            )
        limits = tuple(LIMIT.findall(match[4]))
        flags.append(Flag(match[1], match[2], tuple(chips), limits, number))
    return flags


def version(text: str) -> tuple[int, ...]:
    """Returns the numbers of a version: "0.0.42.1" -> (0, 0, 42, 1), "0.1.dev3" -> (0, 1)."""
    numbers = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


# -------------------------------------------------------------------------------------------------
# this machine's compiler


def installed_libtpu() -> str | None:
    """Returns the version of the package libtpu; None if it is missing or another library is used.

    ValueError if it is older than any that this program was tried with.
    """
    if _library() != _packaged_library():  # another library, whose version is not known
        return None
    try:
        installed = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return None
    if version(installed) < version(OLDEST_LIBTPU):
        raise ValueError(
            f"the TPU compiler libtpu {installed} is too old, {OLDEST_LIBTPU} is the oldest that "
            'would do: pip install -U "r1v3_jax[tpu]"'
        )
    return installed


def options(kind: str, libtpu: str | None = None) -> dict[str, str]:
    """Returns the compiler's options, {name: value}, for chips of a kind, as "v5p".

    libtpu: the compiler's version; default: the one that is installed. An option that the user
    has set in LIBTPU_INIT_ARGS is left out: the user's value holds.
    """
    return {flag.name: flag.value for flag in chosen_flags(kind, libtpu)}


def chosen_flags(kind: str, libtpu: str | None = None) -> list[Flag]:
    """Returns the lines of the file that `options` takes."""
    libtpu = libtpu or installed_libtpu()
    users = re.findall(r"--(\w+)", os.environ.get("LIBTPU_INIT_ARGS", ""))
    return [
        flag
        for flag in read_flags()
        if flag.is_for(kind, libtpu) and flag.name not in users
    ]


def kind_of_this_machine() -> str:
    """Returns the kind of chip that the environment names, "" if it names none that we know.

    TPU_ACCELERATOR_TYPE is "v5litepod-8" on a v5e, "v5p-8" on a v5p.
    """
    accelerator = os.environ.get("TPU_ACCELERATOR_TYPE", "").partition("-")[0]
    kind = "v5e" if accelerator == "v5litepod" else accelerator
    return kind if kind in KINDS else ""


def set_init_args(kind: str) -> None:
    """Adds the options for chips of a kind to the environment variable LIBTPU_INIT_ARGS.

    To be called before the TPU's runtime starts. An option that the variable has already keeps its
    value. ValueError if the installed compiler does not know an option, which would end the process
    when the runtime starts.
    """
    flags = chosen_flags(kind)
    _check_names(flags, kind)
    users = os.environ.get("LIBTPU_INIT_ARGS", "")
    added = [f"--{flag.name}={flag.value}" for flag in flags]
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([*added, users]).strip()


def _check_names(flags: list[Flag], kind: str) -> None:
    """Raises ValueError for a flag whose name the TPU's library does not contain."""
    library = _library()
    if library is None:
        return
    with library.open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for flag in flags:
                # Each name is in the library as a string of C, which ends with a zero.
                if content.find(f"{flag.name}\0".encode()) < 0:
                    raise ValueError(refusal(flag, kind, "no such option"))


def _library() -> Path | None:
    """Returns the file of the TPU's library, None if there is none.

    The user's variable TPU_LIBRARY_PATH may name another than the package's. Where it names no
    file, jax warns and takes the package's.
    """
    path = os.environ.get("TPU_LIBRARY_PATH")
    if path and Path(path).is_file():
        return Path(path)
    return _packaged_library()


def _packaged_library() -> Path | None:
    """Returns the file in the package libtpu, None if the package is not installed."""
    package = importlib.util.find_spec("libtpu")
    if package is None:
        return None
    path = Path(package.submodule_search_locations[0]) / "libtpu.so"
    return path if path.is_file() else None


# -------------------------------------------------------------------------------------------------
# what the compiler says against it


def refused_flag(message: str, kind: str) -> str | None:
    """Returns a sentence about the flag that a compiler's error names, with its line; or None.

    "No such compile option: 'xla_x'", "Failed to parse 'a' into flag xla_x: ...", "... enabled on
    platform viperfish ... set xla_x=false".
    """
    phrases = ("No such compile option", "Failed to parse", "FAILED_PRECONDITION")
    reason = next(
        (line for line in message.splitlines() if any(p in line for p in phrases)), ""
    )
    named = re.findall(r"xla_\w+", reason)
    for flag in chosen_flags(kind):
        if flag.name in named:
            return refusal(flag, kind, reason.strip())
    return None


def refusal(flag: Flag, kind: str, reason: str) -> str:
    """Says which line of the file the compiler refuses for a chip, why, and what to do."""
    compiler = f"libtpu {installed_libtpu() or os.environ.get('TPU_LIBRARY_PATH')}"
    return (
        f"{flag.place}: {flag.name} = {flag.value} is refused by the TPU compiler ({compiler}): "
        f"{reason}; take {kind} out of the chips of that line"
    )
