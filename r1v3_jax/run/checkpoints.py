"""Training states: saved by Orbax behind the loop, sealed with checksums, restored bitwise.

A state is all that a stage goes on from. What a stage hands on, the weights alone, is `weights.py`.
"""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from r1v3_jax import checksums
from r1v3_jax.files import first_process

_saving: list["States"] = []  # whose save is under way, at most one


@functools.cache
def _background() -> tuple[ocp.AsyncCheckpointer, ThreadPoolExecutor]:
    """Returns what saves in the background: one of each in a process."""
    saver = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
    return saver, ThreadPoolExecutor(1, "save")


@dataclasses.dataclass(frozen=True)
class Base:
    """The weights that a stage of adapters leaves as they are: its states name them, no more."""

    origin: str  # where they are from: "runs/a/cold_start/done", "random weights"
    checksum: str  # of their bits
    holds: Callable[[str], bool]  # whether an array, by its name, is one of them


class States:
    """Training states of one stage: `directory`/STEP, each with what it takes to trust it.

    STEP/
      state/      Orbax; written while training goes on
      manifest/   I-of-N.json by process I of N, once Orbax is done: the checksums of its share of
                  the files, the names, shapes and dtypes of the arrays, what run and stage they
                  are of, and `extra`, JSON of the caller: the position in the data, say

    A step is good when its manifest verifies. Random keys are functions of seed and step, so there
    is no other state. Of all States of a process one save is under way at a time. Every process of
    a run calls every method.
    """

    failed = 0  # saves of this process that failed, where on_error is "warn"

    def __init__(
        self,
        directory,
        *,
        about: dict[str, str] | None = None,
        accept_changes: bool = False,
        keep: int = 2,
        keep_every: int = 0,
        on_error: str = "stop",
        base: Base | None = None,
    ):
        """Opens the states in `directory`.

        about: {field: value} of the run. A state with other values is refused, except with
        accept_changes. keep, keep_every, on_error: see `config.Checkpoints`. base: weights that are
        not saved, and that restoring takes as they are; a state of another base is always refused.
        """
        self.directory = Path(directory)
        self.about = about or {}
        self.accept_changes = accept_changes
        self.keep = keep
        self.keep_every = keep_every
        self.on_error = on_error
        self.base = base
        self.chosen: set[int] = set()  # steps that are kept whatever their age
        self._pending = None

    def steps(self) -> list[int]:
        """Returns the steps whose save was finished, in order.

        Whether their files are as they were written is checked by `newest` and `restore`.
        """
        finished = filter(checksums.has_manifest, self._directories())
        return sorted(int(path.name) for path in finished)

    def _directories(self) -> list[Path]:
        paths = self.directory.iterdir() if self.directory.is_dir() else ()
        return [path for path in paths if path.name.isdigit()]

    def save(self, step: int, state, extra: dict) -> None:
        """Starts to write `state`, a pytree of arrays: they may be donated once this returns.

        Waits for the save before it, whose error surfaces here or in `check`, whichever comes
        first. If a directory of this step already exists, from an unfinished save or one that was
        skipped as damaged, it is replaced.
        """
        # One save at a time, of all states of this process: the disk is shared.
        for other in list(_saving):
            other.wait()
        target = self.directory / str(step)
        arrays = self._saved(state)
        with self._errors():
            first_process_does(lambda: (_remove(target), target.mkdir(parents=True)))
            saver, thread = _background()
            # Orbax gets the leaves by number: names of modules may change, numbers do not.
            leaves = {str(i): leaf for i, leaf in enumerate(arrays.values())}
            saver.save(target.resolve() / "state", args=ocp.args.StandardSave(leaves))
            self._pending = thread.submit(
                self._finish, saver, target, shapes_of(arrays), extra
            )
            _saving.append(self)

    def _finish(self, saver, target: Path, shapes: dict, extra: dict) -> None:
        """Waits for Orbax, seals the step, and removes the steps that are no longer kept."""
        saver.wait_until_finished()  # all processes
        body = {"arrays": shapes, "about": self.about, "extra": extra}
        if self.base is not None:
            body["base"] = {"origin": self.base.origin, "checksum": self.base.checksum}
        checksums.write_manifest(target, body)
        if not first_process():
            return
        step = int(target.name)
        earlier = [s for s in self.steps() if s <= step]
        kept = {s for s in earlier if self.keep_every and s % self.keep_every == 0}
        # This step too: the other processes' parts of its manifest may still be missing.
        kept |= {step, *self.chosen, *earlier[-self.keep :]}
        # Later steps go too: they were skipped as damaged, or are of a run that was cut off.
        for path in self._directories():
            if int(path.name) not in kept:
                _remove(path)

    def check(self) -> None:
        """Raises the error of a save that has ended in the meantime. Call it once a step."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits until no save of these states is under way."""
        # Forgotten first: if the save failed, the error is raised once.
        pending = self._pending
        self._pending = None
        if pending is not None:
            _saving.remove(self)
            with self._errors():
                pending.result()

    @contextlib.contextmanager
    def _errors(self):
        """Turns any error of a save into an OSError, or into a warning, as `on_error` says."""
        try:
            yield
        except Exception as error:  # Orbax raises whatever it meets
            problem = f"{self.directory}: the state was not saved ({error})"
            if self.on_error == "stop":
                raise OSError(
                    f"{problem}; steps that can be restored: {self.steps()}"
                ) from error
            States.failed += 1
            logging.warning("%s; trying again at the next save", problem)

    def newest(self, like) -> tuple[int, object, dict] | None:
        """Returns (step, state, extra) of the newest good step; None if none was ever saved.

        Steps that are skipped are logged with the reason. ValueError if all are damaged, or if the
        newest good one is of another run.
        """
        steps = self._agreed_steps()
        for path in self._directories():
            if int(path.name) not in steps:
                logging.warning("%s: its save was not finished; passed over", path)
        damaged = []
        for step in reversed(steps):
            problems = self._problems(step)
            if not problems:
                state, extra = self._restore(step, like)
                return step, state, extra
            damaged.append(f"{self.directory / str(step)} is damaged: {problems}")
            logging.warning("%s; passed over", damaged[-1])
        if damaged:
            raise ValueError(
                f"{'; '.join(damaged)}; there is no other step. Remove {self.directory} to begin "
                "the stage anew, or put back a copy"
            )
        return None

    def restore(self, step: int, like):
        """Returns the state of `step` and its extra.

        like: a state of the same shapes, on the devices where the arrays go. ValueError if a file
        has changed or is gone, or if it is another run's.
        """
        problems = self._problems(step)
        if problems:
            raise ValueError(f"{self.directory / str(step)} is damaged: {problems}")
        return self._restore(step, like)

    def _agreed_steps(self) -> list[int]:
        """Returns the steps that process 0 sees: a shared disk may show them to others later."""
        # A broadcast needs one shape on all processes: the newest 64, with -1 for no step.
        newest = np.full(64, -1, np.int64)
        steps = self.steps()[-len(newest) :]
        newest[: len(steps)] = steps
        if jax.process_count() > 1:
            newest = multihost_utils.broadcast_one_to_all(newest)
        return [int(step) for step in newest if step >= 0]

    def _problems(self, step: int) -> str:
        """Returns the problems of a step's files; the processes share the work, and agree."""
        problems = "; ".join(checksums.check_manifest(self.directory / str(step)))
        if jax.process_count() == 1:
            return problems
        # Each process has checked a share of the files; if any found a problem, all skip the step.
        anywhere = multihost_utils.process_allgather(np.int32(bool(problems))).any()
        return problems or ("found by another process" if anywhere else "")

    def _restore(self, step: int, like):
        path = self.directory / str(step)
        body = checksums.read_manifest(path)
        if not self.accept_changes:
            check_same(path, body["about"], self.about)
        self._check_base(path, body.get("base"))
        arrays = self._saved(like)
        # Orbax casts to another dtype without a word: shapes and dtypes are compared before.
        check_same(path, body["arrays"], shapes_of(arrays))
        abstract = {
            str(i): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for i, x in enumerate(arrays.values())
        }
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(path.resolve() / "state", abstract)
        read = {name: restored[str(i)] for i, name in enumerate(arrays)}
        leaves = [read.get(name, array) for name, array in named_leaves(like).items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), body["extra"]

    def _saved(self, state) -> dict[str, jax.Array]:
        """Returns the arrays of a state that are saved, by name."""
        arrays = named_leaves(state)
        if self.base is None:
            return arrays
        return {name: x for name, x in arrays.items() if not self.base.holds(name)}

    def _check_base(self, path: Path, saved: dict | None) -> None:
        """Raises ValueError if the state at `path` holds adapters of another base."""
        if (
            self.base is None
            or saved is None
            or saved["checksum"] == self.base.checksum
        ):
            return
        raise ValueError(
            f"{path} holds adapters for the weights of {saved['origin']}, checksum "
            f"{saved['checksum']}, and this stage begins with {self.base.origin}, checksum "
            f"{self.base.checksum}; put those weights back, or choose another --workdir"
        )


def check_same(path, saved: dict, current: dict, advice: str = "") -> None:
    """Raises ValueError naming every field in which a checkpoint and this run differ.

    saved: what the checkpoint at `path` holds. current: the same of this run.
    """
    differing = [
        f"{name} is {saved.get(name, 'missing')} there and {current.get(name, 'missing')} here"
        for name in {**saved, **current}
        if saved.get(name) != current.get(name)
    ]
    if differing:
        # Eight fields are enough to see what kind of run it was.
        more = f" and {len(differing) - 8} more" if len(differing) > 8 else ""
        advice = advice or (
            "Put them back, choose another --workdir, or --accept_changes"
        )
        raise ValueError(
            f"{path} is of another run: {'; '.join(differing[:8])}{more}. {advice}"
        )


def named_leaves(state) -> dict[str, jax.Array]:
    """Returns {".model.language.blocks.q": array}, in the order of the leaves."""
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def shapes_of(arrays: dict[str, jax.Array]) -> dict[str, list]:
    """Returns {name: [shape, dtype]} as JSON has it."""
    return {name: [list(x.shape), x.dtype.name] for name, x in arrays.items()}


def _remove(directory: Path) -> None:
    """Removes a step, its manifest first: what a kill leaves of it does not look damaged."""
    for part in ("manifest", ""):
        if (directory / part).exists():
            shutil.rmtree(directory / part)


def first_process_does(work: Callable[[], object]) -> None:
    """Runs `work` on process 0 while the others wait; if it fails all of them raise.

    Process 0 raises its own OSError or ValueError, the others an OSError that points to it.
    """
    error = None
    if first_process():
        try:
            work()
        except (OSError, ValueError) as caught:
            error = caught
    failed = error is not None
    if jax.process_count() > 1:
        failed = bool(multihost_utils.process_allgather(np.int32(failed)).any())
    if error is not None:
        raise error
    if failed:
        raise OSError("process 0 could not prepare a directory; its own error says why")
