"""Real runs of the launcher, to be killed: three short stages of the digits task."""

import dataclasses
import fcntl
import hashlib
import json
import shutil
import socket
import time
from pathlib import Path

import commands

CONFIG = """
import dataclasses
from r1v3_jax.config import Optimizer, load_config

replace = dataclasses.replace
smoke = load_config("digits_smoke")
config = replace(
    smoke,
    name="faults",
    stages={
        # Enough that some answers have the right form: rewards differ, and there is something to
        # lose.
        "cold_start": replace(
            smoke.stages["cold_start"],
            steps=60,
            rows=6,
            tiles=30,
            validate_every=20,
            checkpoint_every=10,
            patience=0,
            optimizer=Optimizer(lr=4e-3, warmup_steps=5, schedule="cosine", weight_decay=0.05),
        ),
        "grpo": replace(
            smoke.stages["grpo"],
            steps=10,
            prompts=8,
            tiles=8,
            checkpoint_every=3,
            evaluate_every=5,
            rollouts_every=1,
        ),
        "connector": replace(
            smoke.stages["connector"],
            steps=10,
            checkpoint_every=5,
            validate_every=5,
            patience=0,
        ),
    },
    evaluate=replace(smoke.evaluate, sets=(), pooled=(), answer_prior=(), after=()),
)
"""


@dataclasses.dataclass
class Place:
    """Where the runs of some tests lie."""

    directory: Path
    config: Path | None = None  # None: CONFIG

    def __post_init__(self):
        if self.config is None:
            self.config = self.directory / "faults.py"
            self.config.write_text(CONFIG)

    def start(
        self,
        workdir: Path,
        *flags: str,
        devices: int = 1,
        processes: int = 1,
        **how,
    ) -> list:
        """Starts the launcher, as so many processes of one run; they print to WORKDIR.I.out.

        how: see `commands.start`.
        """
        # Compiled once, run in many processes.
        environment = commands.environment(devices, JAX_DISABLE_MOST_OPTIMIZATIONS="0")
        command = [*commands.LAUNCHER, f"--config={self.config}"]
        command += [f"--workdir={workdir}", *flags]
        if processes > 1:
            command += [
                f"--coordinator=localhost:{free_port()}",
                f"--num_processes={processes}",
            ]
        started = []
        for i in range(processes):
            number = [f"--process_id={i}"] if processes > 1 else []
            started.append(
                commands.start(
                    *command,
                    *number,
                    output=output(workdir, i),
                    env=environment,
                    **how,
                )
            )
        return started

    def run(self, workdir: Path, *flags: str, code: int = 0, **how) -> float:
        """Runs the same to its end; returns the seconds it took."""
        began = time.monotonic()
        for i, process in enumerate(self.start(workdir, *flags, **how)):
            found = process.wait(timeout=600)
            assert found == code, (found, said(workdir, i)[-4000:])
        return time.monotonic() - began


def made_once(tmp_path_factory, name: str, make) -> Path:
    """Returns a directory that the first process of pytest makes which needs it; the others wait.

    make(directory): fills it.
    """
    base = tmp_path_factory.getbasetemp()
    if base.name.startswith("popen-"):  # of one process of several
        base = base.parent
    directory = base / name
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "made").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            (directory / "made").touch()
    return directory


def copy_cold_start(whole: Path, workdir: Path) -> Path:
    """Copies what a run leaves after its cold start, and nothing else, to a new workdir."""
    shutil.copytree(whole / "cold_start", workdir / "cold_start")
    shutil.copytree(whole / "tokenizer", workdir / "tokenizer")
    shutil.copy(whole / "run.json", workdir)
    return workdir


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def output(workdir: Path, process: int = 0) -> Path:
    return workdir.with_name(f"{workdir.name}.{process}.out")


def said(workdir: Path, process: int = 0) -> str:
    return output(workdir, process).read_text(errors="replace")


def lines(workdir: Path, stage: str = "") -> list[dict]:
    """The whole lines of metrics.jsonl so far, without what measures time."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    return [
        {k: v for k, v in row.items() if not k.endswith(("_s", "_per_s"))}
        for row in rows
        if not stage or row["stage"] == stage
    ]


def wait_for_line(
    workdir: Path, processes, stage: str, step: int, timeout: float = 300
) -> None:
    """Until a step of a stage is logged."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if any(row["step"] >= step for row in lines(workdir, stage)):
            return
        assert all(p.poll() is None for p in processes), said(workdir)[-4000:]
        time.sleep(0.05)
    raise TimeoutError(said(workdir)[-4000:])


def fingerprint(workdir: Path) -> dict:
    """All a run leaves that may not depend on when it was killed: hashes of the final weights and
    of every rollout (token ids, rewards, images), and each line of the metrics.
    """
    files = [
        workdir / "export" / "model.safetensors",
        *sorted(workdir.glob("rollouts/*.jsonl")),
        *sorted(workdir.glob("rollouts/images/*")),
    ]
    found = {
        path.relative_to(workdir).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in files
        if path.exists()
    }
    return found | {"metrics": lines(workdir)}
