"""Checks a run's directory and says what to do: its checkpoints, its metrics, the environment.

    python tools/doctor.py WORKDIR [--config=NAME]

Reads everything, changes nothing. Exit code 0 if the run can go on as it is, 1 if something is
damaged or in the way. With --config also checks whether that config, as its file has it, would go
on here, and whether the data it names is as tools/convert_data.py wrote it.
"""

import dataclasses
import importlib.metadata
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags

from r1v3_jax import checksums, files
from r1v3_jax.config import load_config
from r1v3_jax.pipeline import preflight
from r1v3_jax.run import metrics
from r1v3_jax.run.checkpoints import States

CONFIG = flags.DEFINE_string("config", None, "A config to compare the run with.")
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report."""

    good: bool
    text: str

    def __str__(self) -> str:
        return f"  {'ok ' if self.good else 'BAD'}  {self.text}"


def good(text: str) -> Finding:
    return Finding(True, text)


def bad(text: str) -> Finding:
    return Finding(False, text)


def main(argv: list[str]) -> None:
    if len(argv) != 2 or not Path(argv[1]).is_dir():
        sys.exit(
            "error: wanted one argument, the directory of a run: tools/doctor.py runs/digits"
        )
    workdir = Path(argv[1])
    # Title in the report -> the function that yields its lines.
    checks = {
        "checkpoints": checkpoints,
        "metrics": metrics_lines,
        "what is left over": leftovers,
        "environment": environment,
    }
    if CONFIG.value:
        checks["config"] = config
    problems = 0
    for title, check in checks.items():
        print(title)
        for finding in check(workdir):
            print(finding)
            problems += not finding.good
    print(f"{problems} things to mend" if problems else "the run can go on")
    sys.exit(bool(problems))


# -------------------------------------------------------------------------------------------------
# checkpoints


def checkpoints(workdir: Path) -> Iterator[Finding]:
    """Checks every state, and the weights that finished stages left."""
    states = sorted(workdir.glob("*/states"))
    candidates = sorted(workdir.glob("*/candidates"))
    weights = sorted(workdir.glob("*/done/weights"))
    count = len(weights)
    for directory in states + candidates:
        name = directory.relative_to(workdir)
        steps = States(directory).steps()
        count += len(steps)
        good_steps = []
        for step in steps:
            finding = checked_state(name, directory, step)
            yield finding
            if finding.good:
                good_steps.append(step)
        if directory in states:  # a stage does not go on from a candidate
            yield resumption(name, steps, good_steps)
    for directory in weights:
        yield checked_weights(directory, directory.parent.relative_to(workdir))
    if not count:
        yield good("none yet")


def checked_state(name: Path, directory: Path, step: int) -> Finding:
    """Checks one state against its manifest."""
    state = directory / str(step)
    problems = checksums.check_manifest(state)
    if problems:
        return bad(f"{name}/{step} is damaged: {'; '.join(problems)}")
    version = checksums.read_manifest(state)["version"]
    return good(f"{name}/{step} verifies (written by version {version})")


def resumption(name: Path, steps: list[int], good_steps: list[int]) -> Finding:
    """Tells where a stage would go on."""
    if good_steps:
        return good(f"{name}: the stage would go on from step {good_steps[-1]}")
    if steps:
        return bad(f"{name} has no good step: remove it to begin the stage anew")
    return good(f"{name}: no save was finished, the stage would begin anew")


def checked_weights(directory: Path, name: Path) -> Finding:
    """Checks the exported weights of a finished stage."""
    try:
        checksums.check_sums(directory)
    except (ValueError, OSError) as error:
        return bad(
            f"{error}, or remove {name}: the stage goes on from its newest state"
        )
    return good(f"{name} verifies")


# -------------------------------------------------------------------------------------------------
# the rest of the directory


def metrics_lines(workdir: Path) -> Iterator[Finding]:
    """Checks whether metrics.jsonl has each step of each stage once, and none is missing."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        yield good("none yet")
        return
    try:
        rows = metrics.read(workdir)
    except ValueError as error:
        yield bad(str(error))
        return
    stages = {}
    for row in rows:
        stages.setdefault(row["stage"], []).append(row["step"])
    for stage, steps in stages.items():
        # The lines of a stage must be those of its steps 0, 1, 2, ...
        wrong_lines = [line for line, step in enumerate(steps) if step != line]
        if wrong_lines:
            line = wrong_lines[0]
            yield bad(
                f"{stage}: line {line + 1} of the stage is of step {steps[line]}, not {line}"
            )
        else:
            yield good(f"{stage}: steps 0 to {len(steps) - 1}, each once")
    skipped = sum(row.get("skipped", 0) > 0 for row in rows)
    if skipped:
        yield good(
            f"{skipped} lines come after steps that were not finite: see not_finite/"
        )


def leftovers(workdir: Path) -> Iterator[Finding]:
    """Lists what a kill left behind: harmless, the next run overwrites it."""
    paths = []
    for pattern in ("*.partial", "*.orbax-checkpoint-tmp*"):
        paths += workdir.rglob(pattern)
    for path in sorted(paths):
        name = path.relative_to(workdir)
        yield good(f"{name} is of a write that was cut short; it may go")
    if not paths:
        yield good("nothing")


# -------------------------------------------------------------------------------------------------
# this machine, and a config


def environment(workdir: Path) -> Iterator[Finding]:
    """Checks the installed packages, those that the run was made with, and the disk."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "transformers")
    for package in packages:
        try:
            yield good(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            yield bad(f"{package} is not installed; pip install -e .")
    # Other versions are no fault: the run goes on, but perhaps not to the bit.
    summary = workdir / "summary.json"
    if summary.exists():
        versions = files.read_json(summary)["versions"]
        changed = [
            f"{name} {versions[name]}"
            for name in ("jax", "jaxlib", "flax", "optax")
            if versions[name] != importlib.metadata.version(name)
        ]
        if changed:
            yield good(f"the run was made with {', '.join(changed)}: bits may differ")
    yield disk(workdir)


def disk(workdir: Path) -> Finding:
    """Checks whether there is room for three more states."""
    free = shutil.disk_usage(workdir).free
    # A save needs room beside the states that are kept.
    states = sorted(workdir.glob("*/states/*/state"))
    size = 0
    if states:
        stored = states[-1].rglob("*")
        size = sum(path.stat().st_size for path in stored if path.is_file())
    text = f"{free / GIB:.1f} GiB free, a state takes {size / GIB:.3f}"
    if free > 3 * size:
        return good(text)
    return bad(f"{text}: make room for three")


def config(workdir: Path) -> Iterator[Finding]:
    """Checks whether the config would go on in this directory, and its data."""
    try:
        run = load_config(CONFIG.value)
        preflight.check(run, workdir)
        yield good(f"{CONFIG.value} goes on here")
        for stage in run.stages.values():
            path = getattr(stage.train, "path", "")
            if path and Path(path, "SHA256SUMS").is_file():
                checksums.check_sums(path)
                yield good(f"{path}: the data verifies")
    except (ValueError, OSError) as error:
        yield bad(str(error))


if __name__ == "__main__":
    app.run(main)
