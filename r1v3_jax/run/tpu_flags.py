"""Chooses the options of the TPU compiler for a chip and a version of the compiler.

The options are in data_files/tpu_flags.txt, each with its reason, the chips that it is meant for
and, if not for all, the program and the versions of the compiler (the package libtpu). A dry run
passes them to each compilation. A run passes what holds for all programs to the TPU's runtime, and
a program's own to its jit (`own_options`).
"""

import importlib.metadata
import importlib.util
import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path

import jax

from r1v3_jax.config.topology import KINDS

FLAGS = Path(__file__).parent.parent / "data_files" / "tpu_flags.txt"

# The oldest compiler that every config was compiled with.
OLDEST_LIBTPU = "0.0.42.1"

# "xla_x = true for v5p v5e of decode, libtpu >= 0.0.43, libtpu <= 0.0.50.1": a name, a value,
# chips, a program, limits.
LINE = re.compile(
    r"(xla_\w+) = (\S+) for (v\w+(?: v\w+)*)(?: of (\w+))?((?:, libtpu [<>]= [\d.]+)*)"
)
LIMIT = re.compile(r"libtpu ([<>])= ([\d.]+)")

# What chips call themselves, `device_kind` of jax.
DEVICE_KINDS = {
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


# -------------------------------------------------------------------------------------------------
# the file


@dataclass(frozen=True)
class Flag:
    """One line of the file: an option of the compiler, and where it is meant."""

    name: str
    value: str
    chips: tuple[str, ...]  # "v5p", ...
    program: str  # the name of a jitted function, "decode"; "" for all
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
                f"{FLAGS}, line {number}: {code!r} is not NAME = VALUE for CHIPS [of PROGRAM]; "
                f"chips are {' '.join(KINDS)}, as in: xla_enable_async_all_gather = true for v5p "
                "v5e of decode, libtpu <= 0.0.42.1"
            )
        program = match[4] or ""
        limits = tuple(LIMIT.findall(match[5]))
        flags.append(Flag(match[1], match[2], tuple(chips), program, limits, number))
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


def options(kind: str, libtpu: str | None = None, program: str = "") -> dict[str, str]:
    """Returns the compiler's options, {name: value}, for chips of a kind, as "v5p".

    libtpu: the compiler's version; default: the one that is installed. program: the name of a
    jitted function, whose own values then stand in place of those for all. An option that the user
    has set in LIBTPU_INIT_ARGS is left out: the user's value holds.
    """
    flags = chosen_flags(kind, libtpu)
    for_all = {flag.name: flag.value for flag in flags if not flag.program}
    own = {flag.name: flag.value for flag in flags if flag.program == program}
    return for_all | own


def own_options(program: str, device: jax.Device) -> dict[str, str]:
    """Returns the options that one program has in a run, beside those of the runtime.

    device: one of those that it runs on; only a TPU has options.
    """
    kind = kind_of(device)
    flags = chosen_flags(kind) if kind else []
    return {flag.name: flag.value for flag in flags if flag.program == program}


def chosen_flags(kind: str, libtpu: str | None = None) -> list[Flag]:
    """Returns the lines of the file for a kind of chip and a compiler, of every program.

    Without those whose option the user has set. What `set_init_args` has set is no user's.
    """
    libtpu = libtpu or installed_libtpu()
    flags = [flag for flag in read_flags() if flag.is_for(kind, libtpu)]
    for_all = {flag.name: flag.value for flag in flags if not flag.program}
    set_by_user = set()
    for name, value in _init_args().items():
        if name not in for_all or value != for_all[name]:
            set_by_user.add(name)
    return [flag for flag in flags if flag.name not in set_by_user]


def _init_args() -> dict[str, str]:
    """Returns the options in LIBTPU_INIT_ARGS, {name: value}; "" for one without a value."""
    return dict(
        re.findall(r"--(\w+)(?:=(\S*))?", os.environ.get("LIBTPU_INIT_ARGS", ""))
    )


def kind_of(device: jax.Device) -> str:
    """Returns the kind of a chip, "v5p"; "" for a device that is no TPU that we know."""
    return DEVICE_KINDS.get(device.device_kind, "")


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
    present = _init_args()
    added = [
        f"--{flag.name}={flag.value}"
        for flag in flags
        if not flag.program and flag.name not in present
    ]
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


def refused_flag(message: str, kind: str, program: str = "") -> str | None:
    """Returns a sentence about the flag that a compiler's error names, with its line; or None.

    program: that was compiled; a line of its own stands in place of the one for all.
    "No such compile option: 'xla_x'", "Failed to parse 'a' into flag xla_x: ...", "... enabled on
    platform viperfish ... set xla_x=false".
    """
    phrases = ("No such compile option", "Failed to parse", "FAILED_PRECONDITION")
    reason = next(
        (line for line in message.splitlines() if any(p in line for p in phrases)), ""
    )
    named = re.findall(r"xla_\w+", reason)
    flags = [flag for flag in chosen_flags(kind) if flag.program in ("", program)]
    for flag in sorted(flags, key=lambda flag: not flag.program):  # its own first
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
