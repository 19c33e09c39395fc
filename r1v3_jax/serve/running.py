"""Runs the server: from an open port to exit code 0 or 1.

The port answers from the beginning: /health says 503 while the engine reads weights and compiles,
200 afterwards, and 503 again from SIGTERM on. Running requests then have DRAIN_S seconds to end.
When the engine fails, running requests get an error, and the process ends with code 1: a supervisor
starts it again.
"""

import asyncio
import contextlib
import errno
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable

import uvicorn

from r1v3_jax.serve.app import App
from r1v3_jax.serve.connections import MAX_HEAD, BoundedProtocol
from r1v3_jax.serve.problems import Problem

DRAIN_S = 10.0
LOOK_S = 0.2  # between two looks at the engine
GRACE_S = 1.0  # for errors to reach their clients
BACKLOG = 4096
# An idle connection stays open longer than clients keep theirs (5 to 60 s): one that the server
# closes just as a client sends its next request would lose that request.
IDLE_S = 75


def open_port(host: str, port: int) -> socket.socket:
    """Returns a bound socket. ValueError if the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
        # A server that has just ended leaves its port in a state that this passes over.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        in_use = getattr(error, "errno", None) == errno.EADDRINUSE
        reason = "it is in use" if in_use else str(error)
        raise ValueError(
            f"--host={host} --port={port}: the port cannot be had, {reason}; choose another, as "
            f"--port={port + 1 if 0 < port < 65535 else 8000}"
        ) from None
    return opened


def address_of(opened: socket.socket) -> str:
    """Returns where a socket listens, as it stands in a URL: 127.0.0.1:8000, [::1]:8000."""
    host, port = opened.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def run(app: App, opened: socket.socket) -> int:
    """Starts the engine, and serves until a signal or a failure; returns the exit code.

    Raises what the engine could not start with.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))
    return asyncio.run(_Run(app, opened).serve())


class Server(uvicorn.Server):
    """uvicorn with this program's bounds; it leaves signals alone."""

    def __init__(self, app: App):
        super().__init__(
            uvicorn.Config(
                app.asgi,
                interface="asgi3",
                proxy_headers=False,
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="error",
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=IDLE_S,
                h11_max_incomplete_event_size=MAX_HEAD,
                timeout_graceful_shutdown=2,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self):
        yield


class _Run:
    """One run of the server."""

    def __init__(self, app: App, opened: socket.socket):
        self.app = app
        self.engine = app.engine
        self.opened = opened
        self.server = Server(app)

    async def serve(self) -> int:
        """Serves to the end, and returns the exit code."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        serving = asyncio.create_task(self.server.serve(sockets=[self.opened]))
        failing = asyncio.create_task(self.watch())
        signalled = asyncio.create_task(stopping.wait())
        await asyncio.wait(
            {serving, failing, signalled}, return_when=asyncio.FIRST_COMPLETED
        )
        if signalled.done():
            await self.drain()
        else:
            await asyncio.sleep(GRACE_S)
        self.server.should_exit = True
        await serving
        if failing.done():
            failing.result()  # raises what the engine could not start with
        return 0 if signalled.done() else 1

    async def watch(self) -> None:
        """Starts the engine; returns when it has failed, after that was told."""
        self.engine.start()
        await in_thread(self.engine.wait_until_ready)
        address = address_of(self.opened)
        print(
            f"ready: http://{address}/v1 serves {', '.join(self.app.names)}",
            flush=True,
        )
        while self.engine.failed is None:
            await asyncio.sleep(LOOK_S)
        print(
            f"error: the engine failed: {self.engine.failed!r}",
            file=sys.stderr,
            flush=True,
        )
        # It tells running requests itself; this is for those it cannot tell any more.
        await asyncio.sleep(LOOK_S)
        self.app.completions.give_up(
            Problem(500, "the engine failed", code="engine_failed")
        )

    async def drain(self) -> None:
        """Lets running requests end, for DRAIN_S seconds; then they get an error."""
        completions = self.app.completions
        completions.draining = True
        print("stopping: no new requests", flush=True)
        if self.engine.ready:
            await in_thread(self.engine.drain, DRAIN_S)
        problem = Problem(503, "the server is shutting down", code="shutting_down")
        completions.give_up(problem)
        # Other processes end with the engine. While it reads weights it does not listen.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(in_thread(self.engine.stop), GRACE_S)


async def in_thread(function: Callable, *arguments):
    """Returns what a function returns that takes long, or raises what it raises.

    In a thread that the end of the process does not wait for, as a signal may come meanwhile.
    """
    loop = asyncio.get_running_loop()
    result = loop.create_future()

    def tell(setter: Callable, value) -> None:
        # The loop may have ended, and the future with it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: result.done() or setter(value))

    def work() -> None:
        try:
            value = function(*arguments)
        except BaseException as error:
            tell(result.set_exception, error)
        else:
            tell(result.set_result, value)

    threading.Thread(target=work, daemon=True, name=function.__name__).start()
    return await result
