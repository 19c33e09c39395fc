"""Weights & Biases and Trackio: what they are sent, and that nothing there can stop a run."""

import dataclasses
import importlib.util
import io
import json
import math
import os
import time
import warnings
from pathlib import Path

import pytest
from PIL import Image

from r1v3_jax.config import load_config
from r1v3_jax.pipeline import preflight
from r1v3_jax.run import trackers
from r1v3_jax.run.metrics import Logger
from r1v3_jax.run.trackers import ShownSample, Tracker, check_installed, trackers_of

# A module with the calls that `to_wandb.py` makes. It writes each into a file; FAULT makes it fail.
WANDB = """
import json, os, subprocess, sys, time

def note(*call):
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps(call, default=repr) + "\\n")

def fault(name):
    if os.environ.get("FAULT") == name:
        # As wandb's own server does: it outlives the process that has started it.
        subprocess.Popen(["sleep", "40"], start_new_session=True)
        raise ConnectionError("no network, says the stand-in")
    if os.environ.get("FAULT") == f"hang in {name}":
        # A copy of the process, which has its pipes.
        if os.fork() == 0:
            time.sleep(40)
            os._exit(0)
        time.sleep(1000)

class Run:
    url = "https://wandb.invalid/run"
    dir = "folder/files"
    summary = type("Summary", (), {"update": lambda self, values: note("summary", values)})()
    def define_metric(self, *names, **options): note("define_metric", *names)
    def log(self, values):
        fault("log")
        note("log", {k: v.rows if isinstance(v, Table) else v for k, v in values.items()})

class Table:
    def __init__(self, columns): self.rows = [columns]
    def add_data(self, *cells): self.rows.append(cells)

class Image:
    def __init__(self, image): self.size = image.size
    def __repr__(self): return f"image {self.size}"

def Settings(**options): return options

def init(**options):
    global run
    print("a library may print")
    fault("init")
    note("init", {k: options[k] for k in ("project", "name", "id", "resume", "config")})
    run = Run()
    return run

def finish(exit_code):
    fault("finish")
    note("finish", exit_code)
"""
TRACKIO = """
import wandb

class Table:
    def __init__(self, data): self.rows = data

def Image(image): return f"image {image.size}"

def init(**options): wandb.note("init", options)

def log(values, step=None):
    wandb.note("log", {k: getattr(v, "rows", v) for k, v in values.items()}, step)

def finish(): wandb.note("finish")
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """calls(): what the stand-ins were called with, so far."""
    folder = tmp_path / "stand_ins"
    folder.mkdir()
    (folder / "wandb.py").write_text(WANDB)
    (folder / "trackio.py").write_text(TRACKIO)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv("CALLS", str(path))
    return lambda: [json.loads(x) for x in path.read_text().splitlines()]


def sample() -> ShownSample:
    """A right answer about a picture of 4 x 2 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (4, 2), "teal").save(file, "PNG")
    texts = {"id": "7", "prompt": "Add.", "wanted": "6", "completion": "6"}
    return ShownSample(
        **texts, verdict="right", reward=1.0, picture=file.getvalue(), size=(4, 2)
    )


def run(workdir, package="wandb", steps=2) -> None:
    """A stage that logs some steps and shows a sample, as a run does."""
    about = {"name": "digits", "config": {"config.seed": "0"}}
    with trackers_of({package: "maths", "other": ""}, workdir, about) as services:
        with Logger(
            workdir, total_steps=steps, stage="grpo", quiet=True, trackers=services
        ) as logger:
            for step in range(steps):
                logger.log(step, {"reward": step / 2, "kl": math.inf})
            logger.show(steps - 1, [sample()])
        for service in services:
            service.summary({"accuracy/grpo/easy": 0.5})


def test_wandb_is_sent_curves_samples_and_the_end(tmp_path, calls, capsys):
    """Proves: an example written out; the same run goes on under the same id."""
    run(tmp_path / "run")
    init, *rest = calls()
    run_id = init[1].pop("id")
    assert init == [
        "init",
        {
            "project": "maths",
            "name": "digits",
            "resume": "allow",
            "config": {"config.seed": "0"},
        },
    ]
    assert rest == [
        ["define_metric", "grpo/step"],
        ["define_metric", "grpo/*"],
        ["log", {"grpo/step": 0, "grpo/reward": 0.0, "grpo/kl": math.inf}],
        ["log", {"grpo/step": 1, "grpo/reward": 0.5, "grpo/kl": math.inf}],
        [
            "log",
            {
                "grpo/step": 1,
                "grpo/samples": [
                    "step id image prompt wanted completion verdict reward".split(),
                    [1, "7", "image (4, 2)", "Add.", "6", "6", "right", 1.0],
                ],
            },
        ],
        ["summary", {"accuracy/grpo/easy": 0.5}],
        ["finish", 0],
    ]
    # What the library prints is in its log; where to look is told.
    assert capsys.readouterr().out == "wandb: https://wandb.invalid/run\n"
    log = (tmp_path / "run" / "trackers" / "wandb.log").read_text()
    assert "a library may print" in log
    run(tmp_path / "run")
    assert [call[1]["id"] for call in calls() if call[0] == "init"] == [run_id] * 2


def test_trackio_is_sent_the_same(tmp_path, calls):
    """Proves: numbers that are not finite are left out, and samples are a table."""
    run(tmp_path, "trackio")
    init, *rest = calls()
    assert init[1]["project"] == "maths"
    assert init[1]["name"].startswith("digits-")
    row = {"id": "7", "prompt": "Add.", "wanted": "6", "completion": "6"}
    row |= {"verdict": "right", "reward": 1.0, "image": "image (4, 2)"}
    assert rest == [
        ["log", {"grpo/reward": 0.0}, 0],
        ["log", {"grpo/reward": 0.5}, 1],
        ["log", {"grpo/samples": [row]}, 1],
        ["log", {"accuracy/grpo/easy": 0.5}, None],
        ["finish"],
    ]


@pytest.mark.parametrize("fault", ["init", "log", "finish"])
def test_an_error_there_is_told_once_and_the_run_goes_on(
    tmp_path, calls, monkeypatch, fault
):
    """Proves: every step is in metrics.jsonl; one warning, with what the service said; nobody
    waits for what the service has started.
    """
    monkeypatch.setenv("FAULT", fault)
    started = time.monotonic()
    with pytest.warns(UserWarning, match="no more wandb: .*says the stand-in") as told:
        run(tmp_path, steps=400)
    assert len(told) == 1, [str(x.message) for x in told]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 400
    assert time.monotonic() - started < 35


@pytest.mark.parametrize("fault", ["hang in init", "hang in log", "hang in finish"])
def test_a_service_that_hangs_does_not_hang_the_run(
    tmp_path, calls, monkeypatch, fault
):
    """Proves: a step is not slowed down, the end waits as long as it says, the process is ended,
    and what it has started costs nothing; more messages than there is room for are counted.
    """
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setattr(trackers, "PATIENCE_S", 4.0)
    monkeypatch.setattr(trackers, "ROOM", 8)
    started = time.monotonic()
    # Large enough to fill the pipe, which holds 64 KiB.
    values = {f"number_{i}": float(i) for i in range(4000)}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        service = Tracker("wandb", "maths", tmp_path, {"name": "a", "config": {}})
        for step in range(40):
            service.log("grpo", step, values)
        logged = time.monotonic() - started
        service.close()
    assert logged < 2
    assert time.monotonic() - started < 4 + 4
    assert service._process.poll() is not None
    messages = [str(x.message) for x in told]
    assert any("did not end within 4 s" in x for x in messages)
    is_full = fault != "hang in finish"
    assert service.lost >= 20 * is_full
    assert (
        any("messages of this run are not there" in x for x in messages) or not is_full
    )


def test_a_run_that_fails_says_so_there_and_leaves_at_once(tmp_path, calls):
    """Proves: the error is the run's own, and the service is told of exit code 1."""
    with pytest.raises(FloatingPointError, match="loss nan"):
        with trackers_of({"wandb": "x"}, tmp_path, {"name": "a", "config": {}}):
            raise FloatingPointError("loss nan")
    deadline = time.monotonic() + 20
    while ["finish", 1] not in calls() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert calls()[-1] == ["finish", 1]


def test_a_package_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    """Proves: a folder of that name, as wandb itself leaves one, is no package."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "nothing_of_that_name").mkdir()
    check_installed("nothing_of_that_name", "")
    for package in ("nothing_of_that_name", "nothing_at_all"):
        with pytest.raises(
            ValueError, match=f"pip install {package}, or leave"
        ) as told:
            check_installed(package, "maths")
        assert "\n" not in str(told.value)


def test_a_run_looks_for_the_packages_before_it_starts(monkeypatch):
    """Proves: both switches of a config are asked about where the host's mistakes are found."""
    asked = []
    monkeypatch.setattr(preflight, "check_installed", lambda *pair: asked.append(pair))
    config = dataclasses.replace(load_config("digits_smoke"), wandb="maths")
    preflight.check(config)
    assert asked == [("wandb", "maths"), ("trackio", "")]
    # Where a run is shown does not make it another run.
    assert "wandb" not in " ".join(config.identity("grpo"))


def test_a_folder_that_cannot_be_made_is_told_and_survived(tmp_path):
    (tmp_path / "trackers").write_text("a file where the directory should be")
    with pytest.warns(UserWarning, match="no more wandb"):
        service = Tracker("wandb", "maths", tmp_path, {"name": "a", "config": {}})
    service.log("grpo", 0, {"reward": 1.0})
    service.close()


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="no wandb: pip install wandb"
)
def test_the_real_wandb_offline(tmp_path, monkeypatch, capsys):
    """Proves: the package takes what it is sent, and its file on disk has it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path)
    assert "wandb: offline, in" in capsys.readouterr().out
    (written,) = (tmp_path / "trackers").rglob("run-*.wandb")
    content = written.read_bytes()
    for word in (b"grpo/reward", b"accuracy/grpo/easy", b"table-file"):
        assert word in content, word
    assert list((tmp_path / "trackers").rglob("*.table.json"))


@pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None,
    reason="no trackio: pip install trackio",
)
def test_the_real_trackio_in_a_local_folder(tmp_path, monkeypatch):
    """Proves: the package takes what it is sent, and its own reader gives it back."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path / "run", "trackio")
    paths = [str(path) for path in Path(tmp_path / "store").rglob("*")]
    assert any(path.endswith(".db") for path in paths), paths
    contents = b"".join(Path(x).read_bytes() for x in paths if os.path.isfile(x))
    for word in (b"grpo/reward", b"grpo/samples", b"accuracy/grpo/easy"):
        assert word in contents, word
