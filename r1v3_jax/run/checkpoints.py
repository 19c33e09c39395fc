"""Checkpoints of our own: weights by Orbax, and what they are the weights of.

CHECKPOINT/
  weights/      Orbax; each device writes and reads its own shards. SHA256SUMS lies with them:
                Orbax restores a damaged file without a word
  tokenizer/    the tokenizer's files, as they came
  model.json    ModelConfig and dtype
"""

import contextlib
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

_under_way: list["States"] = []  # whose save is, at most one


@functools.cache
def _background():
    return ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()), ThreadPoolExecutor(
        1, "save"
    )


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

    failed: saves of this process that went wrong, where on_error is "warn".

    about: {field: value} of the run; a state whose own differ is refused, unless accept_changes.
    on_error: see `config.Checkpoints`.
    """

    failed = 0

    def __init__(
        self,
        directory,
        *,
        about: dict[str, str] | None = None,
        accept_changes: bool = False,
        keep: int = 2,
        keep_every: int = 0,
        on_error: str = "stop",
    ):
        self.directory, self.about = Path(directory), about or {}
        self.accept_changes = accept_changes
        self.keep, self.keep_every, self.on_error = keep, keep_every, on_error
        self.chosen: set[int] = set()  # steps that are kept whatever their age
        self._pending = None

    def steps(self) -> list[int]:
        """Steps whose save was finished, in order; whether their files are as they were written is
        for `newest` and `restore` to see.
        """
        return sorted(
            int(p.name) for p in self._directories() if checksums.has_manifest(p)
        )

    def _directories(self) -> list[Path]:
        paths = self.directory.iterdir() if self.directory.is_dir() else ()
        return [path for path in paths if path.name.isdigit()]

    def save(self, step: int, state, extra: dict) -> None:
        """Begins to write `state`, a pytree of arrays: it may be given away once this returns.

        Waits for the save before it, whose error surfaces here or in `check`, whichever comes
        first. What is there under this number, not finished or passed over, is replaced.
        """
        for other in list(_under_way):
            other.wait()
        target, arrays = self.directory / str(step), _named(state)
        with self._errors():
            _first_process_does(lambda: (_remove(target), target.mkdir(parents=True)))
            saver, thread = _background()
            leaves = {str(i): leaf for i, leaf in enumerate(arrays.values())}
            saver.save(target.resolve() / "state", args=ocp.args.StandardSave(leaves))
            described = {
                name: [list(x.shape), x.dtype.name] for name, x in arrays.items()
            }
            self._pending = thread.submit(self._finish, saver, target, described, extra)
            _under_way.append(self)

    def _finish(self, saver, target: Path, arrays: dict, extra: dict) -> None:
        """Waits for Orbax, then says that the step is good, and drops what is no longer kept."""
        saver.wait_until_finished()  # of all processes
        body = {"arrays": arrays, "about": self.about, "extra": extra}
        checksums.write_manifest(target, body)
        if first_process():
            step = int(target.name)
            steps = [s for s in self.steps() if s <= step]
            kept = {s for s in steps if self.keep_every and s % self.keep_every == 0}
            # This one too: the others' parts of its manifest may be still to come.
            kept |= {step, *self.chosen, *steps[-self.keep :]}
            # Later ones too: they were passed over, or belong to a future that was cut off.
            for path in self._directories():
                if int(path.name) not in kept:
                    _remove(path)

    def check(self) -> None:
        """Raises what a save that has ended in the meantime met with. Call it once a step."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until no save is under way."""
        pending, self._pending = self._pending, None
        if pending is not None:
            _under_way.remove(self)
            with self._errors():
                pending.result()

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except Exception as error:  # Orbax raises what it trips over
            said = f"{self.directory}: the state was not saved ({error})"
            if self.on_error == "stop":
                raise OSError(
                    f"{said}; steps that can be restored: {self.steps()}"
                ) from error
            States.failed += 1
            logging.warning("%s; trying again at the next save", said)

    def newest(self, like) -> tuple[int, object, dict] | None:
        """(step, state, extra) of the newest good step; None if none was ever saved. Says which it
        passed over, and why.

        ValueError if all are damaged, or if the newest good one is of another run.
        """
        steps, damaged = self._agreed_steps(), []
        for path in self._directories():
            if int(path.name) not in steps:
                logging.warning("%s: its save was not finished; passed over", path)
        for step in reversed(steps):
            if problems := self._problems(step):
                damaged.append(f"{self.directory / str(step)} is damaged: {problems}")
                logging.warning("%s; passed over", damaged[-1])
                continue
            return step, *self._restore(step, like)
        if damaged:
            raise ValueError(
                f"{'; '.join(damaged)}; there is no other step. Remove {self.directory} to begin "
                "the stage anew, or put back a copy"
            )
        return None

    def restore(self, step: int, like):
        """The state of `step` on the devices that `like`, a state of the same shapes, lies on; and
        its extra. ValueError if a file has changed or is gone, or if it is another run's.
        """
        if problems := self._problems(step):
            raise ValueError(f"{self.directory / str(step)} is damaged: {problems}")
        return self._restore(step, like)

    def _agreed_steps(self) -> list[int]:
        """The steps that process 0 sees: a shared disk may show others theirs a little later."""
        newest = np.full(64, -1, np.int64)
        steps = self.steps()[-len(newest) :]
        newest[: len(steps)] = steps
        if jax.process_count() > 1:
            newest = multihost_utils.broadcast_one_to_all(newest)
        return [int(step) for step in newest if step >= 0]

    def _problems(self, step: int) -> str:
        """What is wrong with a step's files; the processes share the work, and agree."""
        found = "; ".join(checksums.check_manifest(self.directory / str(step)))
        if jax.process_count() == 1:
            return found
        somewhere = multihost_utils.process_allgather(np.int32(bool(found))).any()
        return found or ("found by another process" if somewhere else "")

    def _restore(self, step: int, like):
        path = self.directory / str(step)
        body = checksums.read_manifest(path)
        if not self.accept_changes:
            check_same(path, body["about"], self.about)
        arrays = _named(like)
        here = {name: [list(x.shape), x.dtype.name] for name, x in arrays.items()}
        check_same(
            path, body["arrays"], here
        )  # Orbax casts to another dtype without a word
        abstract = {
            str(i): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for i, x in enumerate(arrays.values())
        }
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(path.resolve() / "state", abstract)
        leaves = [restored[str(i)] for i in range(len(arrays))]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), body["extra"]


def check_same(what, there: dict, here: dict, advice: str = "") -> None:
    """ValueError naming every field in which `there` (what a checkpoint says) and `here` differ."""
    differing = [
        f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 8} more" if len(differing) > 8 else ""
        raise ValueError(
            f"{what} is of another run: {'; '.join(differing[:8])}{more}. "
            + (advice or "Put them back, choose another --workdir, or --accept_changes")
        )


def _named(state) -> dict[str, jax.Array]:
    """{".model.language.blocks.q": array}, in the order of the leaves."""
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def _remove(directory: Path) -> None:
    """A step, its manifest first: what a kill leaves of it is not taken for a damaged one."""
    for part in ("manifest", ""):
        if (directory / part).exists():
            shutil.rmtree(directory / part)


def _first_process_does(work: Callable[[], object]) -> None:
    """Process 0 does it, the others wait; if it fails all of them raise."""
    error = None
    if first_process():
        try:
            work()
        except OSError as caught:
            error = caught
    failed = error is not None
    if jax.process_count() > 1:
        failed = bool(multihost_utils.process_allgather(np.int32(failed)).any())
    if failed:
        raise OSError(f"process 0 could not prepare the directory ({error})") from error
