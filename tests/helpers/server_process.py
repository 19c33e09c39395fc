"""The server as a process of its own: started as a user does, watched, and ended."""

import contextlib
import dataclasses
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import commands
import tokenizers_for_tests
from random_models import random_model
from requests_for_tests import get, wait_until
from small_checkpoints import CONFIG

from r1v3_jax.run.weights import save_weights

READY_S = 600


@dataclasses.dataclass
class Server:
    """A server that listens."""

    process: object
    log: Path
    url: str

    def number(self, name: str) -> float:
        """Reads one of its numbers."""
        text = get(self.url, "/metrics")[1]
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])

    def replies(self, status: int) -> int:
        """Returns how many requests were answered with a status."""
        text = get(self.url, "/metrics")[1]
        found = re.search(
            rf'^r1v3_replies_total{{status="{status}"}} (\d+)$', text, re.MULTILINE
        )
        return int(found[1]) if found else 0

    def is_idle(self) -> bool:
        names = ("r1v3_samples_running", "r1v3_samples_waiting")
        return not any(map(self.number, names))

    def end(self, seconds: float = 30) -> int:
        """Ends it as a supervisor does; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def write_checkpoint(work: Path) -> Path:
    """Writes a random model with a tokenizer of bytes: it says anything, also halves of letters."""
    (work / "tokenizer").mkdir(parents=True)
    tokenizers_for_tests.write_tiny_tokenizer(work / "tokenizer")
    save_weights(work / "model", random_model(CONFIG), tokenizer=work / "tokenizer")
    return work / "model"


@contextlib.contextmanager
def started(log: Path, *arguments, devices: int = 1) -> Iterator[Server]:
    """Starts a command that listens, and yields it as soon as its port is known."""
    process = commands.start(*arguments, output=log, env=commands.environment(devices))
    try:
        assert wait_until(
            lambda: "loading: http" in _text(log) or process.poll() is not None, 120
        )
        found = re.search(r"loading: (http://[^,\s]+),", _text(log))
        assert found, _text(log)
        yield Server(process, log, found[1])
    finally:
        commands.kill([process])


@contextlib.contextmanager
def served(
    checkpoint: Path, log: Path, *arguments, devices: int = 1
) -> Iterator[Server]:
    """Yields a server of a checkpoint that is ready."""
    command = (
        "-m",
        "r1v3_jax.serve",
        f"--checkpoint={checkpoint}",
        "--port=0",
        *arguments,
    )
    with started(log, *command, devices=devices) as server:
        end = time.monotonic() + READY_S
        while get(server.url, "/health")[0] != 200:
            assert time.monotonic() < end and server.process.poll() is None, _text(log)
            time.sleep(0.1)
        yield server


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
