"""Real runs of the launcher, to be killed: three short stages of the digits task."""

import dataclasses
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
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
            steps=15,
            prompts=8,
            tiles=8,
            checkpoint_every=3,
            evaluate_every=5,
            rollouts_every=1,
        ),
        "connector": replace(
            smoke.stages["connector"],
            steps=20,
            checkpoint_every=5,
            validate_every=10,
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
        limit=None,
    ) -> list[subprocess.Popen]:
        """The launcher, as so many processes of one run; what they print goes to WORKDIR.I.out.
        limit: called in the child before the program starts.
        """
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/helpers/one_cache'}",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",  # compiled once, run in many processes
        }
        command = [sys.executable, "-m", "r1v3_jax.launch", f"--config={self.config}"]
        command += [f"--workdir={workdir}", *flags]
        if processes > 1:
            command += [
                f"--coordinator=localhost:{free_port()}",
                f"--num_processes={processes}",
            ]
        started = []
        for i in range(processes):
            number = [f"--process_id={i}"] if processes > 1 else []
            with output(workdir, i).open("ab") as file:
                started.append(
                    subprocess.Popen(
                        [*command, *number], cwd=ROOT, env=environment, stdout=file,
                        stderr=subprocess.STDOUT, preexec_fn=limit, start_new_session=True,
                    )
                )  # fmt: skip
        return started

    def run(self, workdir: Path, *flags: str, code: int = 0, **how) -> float:
        """The same to its end; the seconds it took."""
        began = time.monotonic()
        for i, process in enumerate(self.start(workdir, *flags, **how)):
            found = process.wait(timeout=600)
            assert found == code, (found, said(workdir, i)[-4000:])
        return time.monotonic() - began


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def output(workdir: Path, process: int = 0) -> Path:
    return workdir.with_name(f"{workdir.name}.{process}.out")


def said(workdir: Path, process: int = 0) -> str:
    return output(workdir, process).read_text(errors="replace")


def kill(processes: list[subprocess.Popen], number=signal.SIGKILL) -> None:
    """All of them, with what they started (the verifiers' processes)."""
    for process in processes:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
    for process in processes:
        process.wait(timeout=60)


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
    of every rollout (token ids, rewards), and each line of the metrics.
    """
    files = [
        workdir / "export" / "model.safetensors",
        *sorted(workdir.glob("rollouts/*")),
    ]
    found = {
        path.relative_to(workdir).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in files
        if path.exists()
    }
    return found | {"metrics": lines(workdir)}
