"""Compiled programs are kept from one run of the tests to the next.

Compiling is a third of what the tests cost, and most programs are those of the last run.
`bash tests/run.sh --cold` begins without any: a cache must not hide an error of a compiler.
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
import time
from pathlib import Path

UNUSED_DAYS = 14  # then an entry is deleted
DAY = 24 * 3600


def root() -> Path:
    """Returns $XDG_CACHE_HOME/r1v3_jax/tests."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "r1v3_jax" / "tests"


def cpu_programs() -> Path:
    """Returns the directory of what was compiled for this CPU.

    Its programs are machine code: another CPU, or another compiler, has a directory of its own.
    """
    identity = f"{importlib.metadata.version('jaxlib')} {_cpu()}"
    return root() / f"cpu-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def tpu_programs() -> Path:
    """Returns the directory of what the TPU compiler said; each file's name tells the compiler."""
    return root() / "tpu"


def _cpu() -> str:
    """Returns what tells this CPU from others that cannot run its programs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()} {platform.platform()}"
    names = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    told = {line for line in lines if line.split("\t")[0].strip() in names}
    return f"{platform.machine()} {sorted(told)}"


def use() -> None:
    """Has JAX keep every program it compiles, in this process and in its children."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cpu_programs())
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    cpu_programs().mkdir(parents=True, exist_ok=True, mode=0o700)


def remove_unused(now: float | None = None) -> None:
    """Deletes what was not read for `UNUSED_DAYS`; once a day, or looking would cost more."""
    now = now or time.time()
    stamp = root() / "looked"
    if stamp.exists() and now - stamp.stat().st_mtime < DAY:
        return
    stamp.touch()
    os.utime(stamp, (now, now))
    for path in root().rglob("*"):
        try:
            status = path.stat()
            # Most file systems write down a read once a day, some never.
            used = max(status.st_atime, status.st_mtime)
            if path.is_file() and now - used > UNUSED_DAYS * DAY:
                path.unlink()
        except FileNotFoundError:  # another run of the tests was faster
            pass


if __name__ == "__main__":
    if sys.argv[1:] != ["--empty"]:
        sys.exit("usage: kept_programs.py --empty")
    shutil.rmtree(root(), ignore_errors=True)
