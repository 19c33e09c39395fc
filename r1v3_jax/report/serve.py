"""Shows a report on this machine alone, and writes it again while its run goes on."""

import http.server
import threading
import time
from collections.abc import Callable
from pathlib import Path

from r1v3_jax.report.page import POLICY

PAUSE_S = 10.0  # between two looks at a run
ADDRESS = "127.0.0.1"


def make_server(report: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Returns a server of the files below `report`, for this machine; port 0: a free one.

    ValueError if the port cannot be had.
    """

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(report))

        def do_GET(self):
            if self._is_for_us():
                super().do_GET()

        def do_HEAD(self):
            if self._is_for_us():
                super().do_HEAD()

        def _is_for_us(self) -> bool:
            """Refuses requests to another name: a page elsewhere may have it point here."""
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host in (ADDRESS, "localhost"):
                return True
            self.send_error(403)
            return False

        def end_headers(self):
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-cache")
            super().end_headers()

        def list_directory(self, path):
            self.send_error(404)

        def log_message(self, *_):
            """Keeps the terminal quiet."""

    try:
        return http.server.ThreadingHTTPServer((ADDRESS, port), Handler)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--serve={port}: the port cannot be had ({error}); choose another, as --serve=8123"
        ) from None


def serve_in_background(server: http.server.ThreadingHTTPServer) -> None:
    """Answers requests in a thread that ends with the program."""
    threading.Thread(target=server.serve_forever, daemon=True).start()


def watch(
    write: Callable[[], object], state: Callable[[], object], pause: float = PAUSE_S
) -> None:
    """Calls `write` whenever `state()` has changed, until it is interrupted."""
    seen = state()
    while True:
        time.sleep(pause)
        now = state()
        if now != seen:
            began = time.monotonic()
            write()
            # A report that takes long is written less often.
            time.sleep(max(0.0, 2 * (time.monotonic() - began) - pause))
            seen = now


def state_of(workdirs: list[Path]) -> list[tuple]:
    """Returns names, sizes and times of the files that a report is made of."""
    found = []
    for workdir in workdirs:
        paths = [workdir / "metrics.jsonl", workdir / "summary.json"]
        for path in [*paths, *sorted((workdir / "rollouts").glob("*.jsonl"))]:
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return found
