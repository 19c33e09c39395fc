"""Looks a run's directory over and says what to do: its checkpoints, its metrics, the environment.

    python tools/doctor.py WORKDIR [--config=NAME]

Reads everything, changes nothing. Exit code 0 if the run can go on as it is, 1 if something is
damaged or in the way. With --config also whether that config, as its file says it, would go on
here, and whether the data it names is as tools/convert_data.py wrote it.
"""

import importlib.metadata
import shutil
import sys
from pathlib import Path

from absl import app, flags

from r1v3_jax import checksums, files
from r1v3_jax.config import load_config
from r1v3_jax.pipeline import preflight
from r1v3_jax.run import metrics
from r1v3_jax.run.checkpoints import States

CONFIG = flags.DEFINE_string("config", None, "A config to compare the run with.")


def main(argv: list[str]) -> None:
    if len(argv) != 2 or not Path(argv[1]).is_dir():
        sys.exit(
            "error: wanted one argument, the directory of a run: tools/doctor.py runs/digits"
        )
    workdir, wrong = Path(argv[1]), []
    for title, check in (
        ("checkpoints", checkpoints),
        ("metrics", lines),
        ("what is left over", leftovers),
        ("environment", environment),
    ):
        print(title)
        for well, text in check(workdir):
            print(f"  {'ok ' if well else 'BAD'}  {text}")
            wrong += [] if well else [text]
    if CONFIG.value:
        print("config")
        try:
            config = load_config(CONFIG.value)
            preflight.check(config, workdir)
            print(f"  ok   {CONFIG.value} goes on here")
            for stage in config.stages.values():
                path = getattr(stage.train, "path", "")
                if path and Path(path, "SHA256SUMS").is_file():
                    checksums.check_sums(path)
                    print(f"  ok   {path}: the data verifies")
        except (ValueError, OSError) as error:
            print(f"  BAD  {error}")
            wrong.append(str(error))
    print(f"{len(wrong)} things to mend" if wrong else "the run can go on")
    sys.exit(bool(wrong))


def checkpoints(workdir: Path):
    """(well, what is said) of every state, and of the weights that finished stages left."""
    found = False
    for directory in sorted(workdir.glob("*/states")) + sorted(
        workdir.glob("*/candidates")
    ):
        name, good = directory.relative_to(workdir), []
        for step in States(directory).steps():
            found = True
            if problems := checksums.check_manifest(directory / str(step)):
                yield False, f"{name}/{step} is damaged: {'; '.join(problems)}"
            else:
                good.append(step)
                version = checksums.read_manifest(directory / str(step))["version"]
                yield True, f"{name}/{step} verifies (written by version {version})"
        if directory.name == "candidates":
            continue
        if good:
            yield True, f"{name}: the stage would go on from step {good[-1]}"
        elif States(directory).steps():
            yield False, f"{name} has no good step: remove it to begin the stage anew"
        else:
            yield True, f"{name}: no save was finished, the stage would begin anew"
    for weights in sorted(workdir.glob("*/done/weights")):
        found, name = True, weights.parent.relative_to(workdir)
        try:
            checksums.check_sums(weights)
            yield True, f"{name} verifies"
        except (ValueError, OSError) as error:
            yield (
                False,
                f"{error}, or remove {name}: the stage goes on from its newest state",
            )
    if not found:
        yield True, "none yet"


def lines(workdir: Path):
    """Whether metrics.jsonl has each step of each stage once, none missing."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        yield True, "none yet"
        return
    try:
        rows = metrics.read(workdir)
    except ValueError as error:
        yield False, str(error)
        return
    stages = {}
    for row in rows:
        stages.setdefault(row["stage"], []).append(row["step"])
    for stage, steps in stages.items():
        if steps == list(range(len(steps))):
            yield True, f"{stage}: steps 0 to {len(steps) - 1}, each once"
        else:
            odd = next(i for i, step in enumerate(steps) if step != i)
            yield (
                False,
                f"{stage}: line {odd + 1} of the stage is of step {steps[odd]}, not {odd}",
            )
    skipped = sum(row.get("skipped", 0) > 0 for row in rows)
    if skipped:
        yield (
            True,
            f"{skipped} lines come after steps that were not finite: see not_finite/",
        )


def leftovers(workdir: Path):
    """What a kill left behind: harmless, written over by the next run."""
    names = [
        p
        for end in ("*.partial", "*.orbax-checkpoint-tmp*")
        for p in workdir.rglob(end)
    ]
    for path in sorted(names):
        yield (
            True,
            f"{path.relative_to(workdir)} is of a write that was cut short; it may go",
        )
    if not names:
        yield True, "nothing"


def environment(workdir: Path):
    for package in (
        "jax",
        "flax",
        "optax",
        "orbax-checkpoint",
        "numpy",
        "transformers",
    ):
        try:
            yield True, f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{package} is not installed; pip install -e ."
    summary = workdir / "summary.json"
    if summary.exists():
        there = files.read_json(summary)["versions"]
        changed = [
            f"{name} {there[name]}"
            for name in ("jax", "jaxlib", "flax", "optax")
            if there[name] != importlib.metadata.version(name)
        ]
        if changed:
            yield True, f"the run was made with {', '.join(changed)}: bits may differ"
    free = shutil.disk_usage(workdir).free
    states = sorted(workdir.glob("*/states/*/state"))
    size = (
        sum(p.stat().st_size for p in states[-1].rglob("*") if p.is_file())
        if states
        else 0
    )
    text = f"{free / 2**30:.1f} GiB free, a state takes {size / 2**30:.3f}"
    yield free > 3 * size, text + ("" if free > 3 * size else ": make room for three")


if __name__ == "__main__":
    app.run(main)
