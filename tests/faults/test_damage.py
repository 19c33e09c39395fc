"""Damaged, cut, lost and full: what a checkpoint survives, and what is refused by name."""

import logging as python_logging
import random
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from flax import nnx

from r1v3_jax.config import SFT, TINY, Compute, Optimizer
from r1v3_jax.models import build
from r1v3_jax.run import checkpoints
from r1v3_jax.sharding import TRAIN, make_mesh, shardings
from r1v3_jax.stages import sft
from r1v3_jax.train.optimizer import trainable
from r1v3_jax.train.update import create


def state(step: int) -> dict:
    rng = np.random.default_rng(step)
    return {
        "weights": jnp.asarray(rng.normal(size=(300, 40)).astype(np.float32)),
        "moments": [jnp.asarray(rng.normal(size=(300, 40)), jnp.bfloat16)],
        "step": jnp.int32(step),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("damage") / "states"
    states = checkpoints.States(directory, about={"stage": "grpo"})
    for step in (10, 20):
        states.save(step, state(step), {"cursor": step})
    states.wait()
    return directory


def newest(directory: Path) -> tuple[int, bool]:
    """(step, whether all of it is what was saved) of what is restored."""
    states = checkpoints.States(directory, about={"stage": "grpo"})
    step, restored, extra = states.newest(jax.tree.map(jnp.zeros_like, state(0)))
    pairs = zip(jax.tree.leaves(restored), jax.tree.leaves(state(step)), strict=True)
    same = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
    return step, same and extra == {"cursor": step}


def files(directory: Path, step: str = "20") -> list[Path]:
    return sorted(path for path in (directory / step).rglob("*") if path.is_file())


def test_bit_flips(saved, tmp_path, shows, caplog):
    """A bit anywhere in the newest step: of its arrays, its metadata, its manifest."""
    chance, silent, fell_back, quiet = random.Random(0), 0, 0, 0
    directory = tmp_path / "states"
    shutil.copytree(saved, directory)
    for _ in range(200):
        path = chance.choice(files(directory))
        original = path.read_bytes()
        if not original:
            continue
        data = bytearray(original)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        caplog.clear()
        step, same = newest(directory)
        silent += not same
        fell_back += step == 10
        quiet += step == 10 and "passed over" not in caplog.text
        path.write_bytes(original)
    assert newest(directory) == (20, True)
    shows("8 200 bit flips: wrong restores", silent, 0, silent == 0)
    shows("8 200 bit flips: fell back without a word", quiet, 0, quiet == 0)
    shows("8 200 bit flips: fell back", fell_back, "reported", fell_back > 150)


def test_each_file_cut_zeroed_and_lost(saved, tmp_path, shows, caplog):
    directory, wrong, cases, quiet = tmp_path / "states", 0, 0, 0
    shutil.copytree(saved, directory)
    for path in files(directory):
        original = path.read_bytes()
        for damage in ("cut", "zeroed", "lost"):
            if damage == "cut":
                path.write_bytes(original[: len(original) // 2])
            elif damage == "zeroed":
                path.write_bytes(bytes(len(original)))
            else:
                path.unlink()
            caplog.clear()
            step, same = newest(directory)
            cases += 1
            quiet += step == 10 and "passed over" not in caplog.text
            wrong += not same or (
                step != 10 and path.read_bytes() != original if original else 0
            )
            path.write_bytes(original)
    shows(
        f"9 {cases} files cut, zeroed, lost: wrong or at step 0", wrong, 0, wrong == 0
    )
    shows("9 ... fell back without a word", quiet, 0, quiet == 0)


def test_when_every_step_is_damaged_nothing_begins_anew(saved, tmp_path):
    directory = tmp_path / "states"
    shutil.copytree(saved, directory)
    for step in ("10", "20"):
        largest = max(files(directory, step), key=lambda p: p.stat().st_size)
        largest.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"20 is damaged: .* has changed; .*10 is damaged.*Remove"
    ):
        newest(directory)


def test_a_full_disk(tmp_path, shows):
    """No file may grow beyond 1 MB, so a save of 13 MB cannot be written."""
    place, workdir = runs.Place(tmp_path), tmp_path / "run"
    flags = ["--config.stage=cold_start", "--config.cold_start.validate_every=0"]
    small = ["--config.cold_start.steps=20", "--config.cold_start.checkpoint_every=4"]
    place.run(workdir, *flags, *small)
    for name in ("done", "account.json"):  # as if it had been stopped before its end
        path = workdir / "cold_start" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(workdir / "cold_start" / "states" / "20")
    full = tmp_path / "full"
    shutil.copytree(workdir, full)

    limit = {"file_size": 1_000_000}
    place.run(full, *flags, *small, code=1, **limit)
    said = runs.said(full)
    assert (
        "the state was not saved" in said and "[16]" in said
    )  # what can still be restored
    # Orbax and tensorstore print tracebacks of theirs before it.
    last = said.splitlines()[-1]
    shows(
        "10 full disk: the last line",
        last[:60],
        "error: ...",
        last.startswith("error: "),
    )
    place.run(full, *flags, *small)  # room again
    same = runs.lines(full) == runs.lines(workdir)
    shows("10 room again: every line equal", same, True, same)

    warned = tmp_path / "warned"
    shutil.copytree(workdir, warned)
    more = [
        "--config.cold_start.checkpoint_every=1",
        "--config.checkpoints.on_error=warn",
    ]
    place.run(
        warned, *flags, *small, *more, code=1, **limit
    )  # of the stage's last weights
    row = runs.lines(warned, "cold_start")[-1]
    found = row["step"] + 1, row["save_errors"]
    passed = found[0] == 20 and found[1] >= 2
    shows(
        "10 on_error=warn: steps made, saves that failed",
        found,
        "20, at least 2",
        passed,
    )


def test_another_mesh(shows, tmp_path):
    """Saved on eight devices, restored on four and on one."""
    config = SFT(train=lambda i: None, steps=4, optimizer=Optimizer(lr=1e-2))
    optimizer, update = sft.make_update(config)
    graph, weights = nnx.split(build.init(TINY, Compute(logprob_chunk=6)))
    weights = jax.device_get(weights)  # an update gives the devices' arrays away
    rng = np.random.default_rng(0)
    rows = rng.integers(10, 331, (1, 8, 12)).astype(np.int32)

    def on(shape):
        mesh = make_mesh(shape, jax.devices()[: np.prod(shape)])
        return jax.set_mesh(mesh), mesh

    def fresh(mesh):
        placed = jax.device_put(
            weights, shardings(nnx.merge(graph, weights), TRAIN, mesh)
        )
        return create(nnx.merge(graph, placed), optimizer, trainable("all"))

    def batch(mesh):
        from r1v3_jax.data.placement import place
        from r1v3_jax.types import Batch

        size = 28
        return place(
            Batch(
                tokens=rows,
                positions=np.broadcast_to(np.arange(12, dtype=np.int32), rows.shape),
                segment_ids=np.ones_like(rows),
                loss_weights=np.full(rows.shape, 1 / rows.size, np.float32),
                tiles=rng.normal(size=(1, 8, size, size, 3)).astype(np.float32) * 0,
                image_index=np.full(rows.shape, -1, np.int32),
            ),
            TRAIN,
            mesh,
        )

    context, mesh = on((4, 2, 1))
    with context:
        one = fresh(mesh)
        one, _ = update(one, batch(mesh))
        states = checkpoints.States(tmp_path / "states")
        states.save(1, one, {})
        states.wait()
        kept = [np.asarray(x) for x in jax.device_get(jax.tree.leaves(one))]
        wanted = float(sft.validation_loss(one.model, batch(mesh)))
    equal, worst = True, 0.0
    for shape in ((2, 2, 1), (1, 1, 1)):
        context, mesh = on(shape)
        with context:
            step, restored, _ = states.newest(fresh(mesh))
            found = jax.device_get(jax.tree.leaves(restored))
            equal &= all(
                np.array_equal(np.asarray(a), b)
                for a, b in zip(found, kept, strict=True)
            )
            loss = float(sft.validation_loss(restored.model, batch(mesh)))
            worst = max(worst, abs(loss / wanted - 1))
    shows("11 8 devices to 4 and to 1: weights and moments equal", equal, True, equal)
    shows("11 the next loss, relative", f"{worst:.1e}", 1e-5, worst <= 1e-5)


python_logging.getLogger("absl").propagate = True  # for caplog
