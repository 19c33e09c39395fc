"""Reads bodies of requests within bounds of size, time and memory, and sends replies."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from r1v3_jax.serve.problems import Problem

MAX_BODY = 48 << 20  # bytes: an image of the largest size, in base64
BODIES = 64 << 20  # bytes of all bodies that are held at a time
IMAGES = 256 << 20  # bytes of the images of all requests that wait or are answered
PAUSE_S = 10.0  # that a client may take between two pieces of its body
WHOLE_S = 120.0  # for a whole one
LINGER_S = 5.0  # that a refused body is still read, and thrown away


class ClientLeft(Exception):
    """The client closed its connection."""


class Bodies:
    """The memory that bodies may take, all requests together."""

    def __init__(self):
        self.held = 0
        self.kept = 0

    @contextlib.asynccontextmanager
    async def read(self, scope, receive) -> AsyncIterator[bytes]:
        """Yields the body of a request; its bytes count as held until the end of the block.

        Problem: 408, 413, 429. ClientLeft.
        """
        taken = 0
        pieces = []
        try:
            declared = _declared_length(scope)
            if declared > MAX_BODY:
                raise _too_large(f"{declared} bytes")
            deadline = time.monotonic() + WHOLE_S
            more = True
            while more:
                message = await _next(receive, deadline)
                piece = message.get("body", b"")
                more = message.get("more_body", False)
                taken += len(piece)
                self.held += len(piece)
                if taken > MAX_BODY:
                    raise _too_large(f"more than {MAX_BODY} bytes")
                if self.held > BODIES:
                    raise _too_many()
                pieces.append(piece)
            body = b"".join(pieces)
            pieces.clear()
            yield body
        finally:
            self.held -= taken

    @contextlib.contextmanager
    def keep(self, size: int) -> Iterator[None]:
        """Counts the images of a request as kept until the end of the block. Problem: 429."""
        if self.kept + size > IMAGES:
            raise _too_many()
        self.kept += size
        try:
            yield
        finally:
            self.kept -= size


def _too_many() -> Problem:
    return Problem(
        429,
        "too many large requests at a time; try again",
        code="overloaded",
        retry_after_s=2,
    )


def _declared_length(scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and len(value) < 20:
            return int(value)
    return 0


def _too_large(given: str) -> Problem:
    return Problem(
        413,
        f"the body has {given}, wanted at most {MAX_BODY}; scale the images down",
        code="request_too_large",
    )


async def _next(receive, deadline: float) -> dict:
    """Returns the next piece of a body. Problem 408 if it does not come in time."""
    patience = min(PAUSE_S, deadline - time.monotonic())
    try:
        async with asyncio.timeout(max(patience, 0.0)):
            message = await receive()
    except TimeoutError:
        raise Problem(
            408, "the body did not come in time; send it at once", code="timeout"
        ) from None
    if message["type"] == "http.disconnect":
        raise ClientLeft
    return message


async def send_body(
    send, status: int, body: bytes, kind: str, headers=(), last=True
) -> None:
    """Sends a whole reply; with `last` false the exchange stays open, although all is there."""
    described = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": described})
    await send({"type": "http.response.body", "body": body, "more_body": not last})


async def refuse(receive, send, problem: Problem, *, body_is_read: bool) -> None:
    """Sends an error. If the client is still sending, goes on reading for a while.

    Otherwise the connection would be closed while the client sends, and it would see that in place
    of the reply.
    """
    headers = problem.headers()
    if body_is_read:
        await send_body(
            send, problem.status, problem.body(), "application/json", headers
        )
        return
    headers.append((b"connection", b"close"))
    await send_body(
        send, problem.status, problem.body(), "application/json", headers, last=False
    )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get(
                    "more_body", False
                ):
                    break
    await send({"type": "http.response.body", "body": b"", "more_body": False})
