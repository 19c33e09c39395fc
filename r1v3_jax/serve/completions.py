"""Answers POST /v1/chat/completions: reads a request, asks the engine, sends what it tells.

The engine has a thread of its own, and tells chunks there; they are handed to the event loop. A
client that leaves, streaming or not, gives its slots back.
"""

import asyncio
import contextlib
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor

from r1v3_jax.engine.requests import (
    Answering,
    BadRequest,
    Chunk,
    EngineStopped,
    Prepared,
    QueueFull,
)
from r1v3_jax.serve import fields, json_body
from r1v3_jax.serve.answers import DONE, KEEP_ALIVE, Reply, event
from r1v3_jax.serve.bodies import Bodies, ClientLeft, refuse, send_body
from r1v3_jax.serve.fields import ChatRequest, Limits
from r1v3_jax.serve.metrics import Metrics
from r1v3_jax.serve.problems import Problem

KEEP_ALIVE_S = 15.0  # between two signs of life of a stream that waits
STALL_S = 60.0  # that a client may not read its stream
READERS = 2  # threads that read requests; an image of 50 million pixels takes 200 MB
MAX_RETRY_AFTER_S = 60
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # of nginx, which would hold a stream back
]
_log = logging.getLogger(__name__)


class ChatCompletions:
    """The endpoint, as an ASGI application."""

    def __init__(
        self,
        engine: Answering,
        names: tuple[str, ...],
        limits: Limits,
        metrics: Metrics,
    ):
        """names: of the model, the first one in replies."""
        self.engine = engine
        self.names = names
        self.limits = limits
        self.metrics = metrics
        self.bodies = Bodies()
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        self.draining = False
        self.reading = 0  # requests that are being read
        self.seconds = 1.0  # that a request took, lately
        self.active: set[asyncio.Queue] = set()

    async def __call__(self, scope, receive, send) -> None:
        exchange = _Exchange(receive, send)
        try:
            await self.answer(scope, exchange)
        except ClientLeft:
            self.metrics.aborted += 1
        except Problem as problem:
            await self.fail(exchange, problem)
        except Exception:
            _log.exception("a request failed")
            await self.fail(
                exchange, Problem(500, "the server failed", code="internal")
            )
        else:
            self.metrics.replies[200] += 1

    async def fail(self, exchange: "_Exchange", problem: Problem) -> None:
        """Tells a client what is wrong: as a reply, or within a stream that has begun."""
        self.metrics.replies[problem.status] += 1
        if exchange.has_begun:
            tail = event({"error": problem.error()}) + DONE
            await exchange.send_piece(tail, last=True)
        else:
            await refuse(
                exchange.receive,
                exchange.send,
                problem,
                body_is_read=exchange.body_is_read,
            )

    def check_open(self) -> None:
        """Problem, status 503, if no request is taken now."""
        if self.engine.failed is not None:
            raise Problem(
                503, "the engine has failed; start the server again", code="failed"
            )
        if self.draining:
            raise Problem(
                503,
                "the server is shutting down",
                code="shutting_down",
                retry_after_s=10,
            )
        if not self.engine.ready:
            raise Problem(503, "the model is loading", code="loading", retry_after_s=5)

    def overloaded(self) -> Problem:
        """Returns the refusal of a request that there is no room for; says when there may be."""
        numbers = self.engine.numbers()
        rounds = (numbers.waiting + 1) / max(1, numbers.slots)
        seconds = min(MAX_RETRY_AFTER_S, max(1, math.ceil(rounds * self.seconds)))
        return Problem(
            429,
            f"{numbers.waiting} samples wait already; try again in {seconds} s",
            code="overloaded",
            retry_after_s=seconds,
        )

    async def answer(self, scope, exchange: "_Exchange") -> None:
        """Answers one request."""
        began = time.monotonic()
        # 1. Is there room at all? Then its body may be read.
        self.check_open()
        _check_kind(scope)
        if self.reading + len(self.active) >= self.limits.queue + self.limits.slots:
            raise self.overloaded()
        self.reading += 1
        try:
            async with self.bodies.read(scope, exchange.receive) as body:
                exchange.body_is_read = True
                loop = asyncio.get_running_loop()
                asked, prepared = await loop.run_in_executor(
                    self.readers, self.read, body
                )
                del body
        finally:
            self.reading -= 1
        self.metrics.ignored(asked.unknown)

        # 2. Ask the engine, which keeps the images until it has read the prompt.
        self.check_open()
        images = sum(len(image.source) for image in asked.request.images)
        with self.bodies.keep(images):
            await self.ask(asked, prepared, exchange, began)

    async def ask(
        self,
        asked: ChatRequest,
        prepared: Prepared,
        exchange: "_Exchange",
        began: float,
    ) -> None:
        """Asks the engine, and passes on what it tells."""
        # 1. Ask.
        loop = asyncio.get_running_loop()
        chunks = asyncio.Queue()

        def tell(said: Chunk | Exception) -> None:
            # At the end of the process the loop may be closed before the engine's thread ends.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(chunks.put_nowait, said)

        try:
            ticket = self.engine.submit(prepared, tell)
        except QueueFull:
            raise self.overloaded() from None
        except EngineStopped:
            raise Problem(
                503, "the server is shutting down", code="shutting_down"
            ) from None
        reply = Reply(
            asked,
            self.names[0],
            prepared.prompt_tokens,
            self.engine.thinks_first(asked.request.thinking),
            self.engine.token_text,
        )

        # 2. Pass on what it tells, unless the client leaves.
        self.active.add(chunks)
        leaving = asyncio.create_task(_watch(exchange.receive, chunks))
        try:
            await self.pass_on(reply, chunks, exchange, began)
        finally:
            leaving.cancel()
            self.active.discard(chunks)
            if not reply.is_done:
                ticket.cancel()
        self.seconds += 0.1 * (time.monotonic() - began - self.seconds)

    def read(self, body: bytes) -> tuple[ChatRequest, Prepared]:
        """Returns a request, understood and encoded. Problem. In a thread of its own."""
        parsed = json_body.parse(body)
        fields.check_model(parsed.fields, self.names)
        asked = fields.read_request(parsed, self.limits)
        try:
            return asked, self.engine.prepare(asked.request)
        except BadRequest as error:
            param = _field_of(error.param)
            raise Problem(400, str(error), param=param, code="invalid_value") from None

    async def pass_on(
        self, reply: Reply, chunks: asyncio.Queue, exchange: "_Exchange", began: float
    ) -> None:
        """Sends the reply as its chunks come. ClientLeft, Problem."""
        stream = reply.asked.stream
        if stream:
            await exchange.begin_stream()
            await exchange.send_piece(reply.begin())
        first = None
        while not reply.is_done:
            said = await _take(chunks, exchange if stream else None)
            events = []
            for chunk in said:
                # Whatever comes after the end, as that the client left, changes nothing.
                if reply.is_done:
                    break
                if isinstance(chunk, ClientLeft | Problem):
                    raise chunk
                if isinstance(chunk, Exception):
                    _log.error("the engine failed at a request: %r", chunk)
                    raise Problem(500, "the engine failed", code="engine_failed")
                if first is None and chunk.tokens:
                    first = time.monotonic()
                    self.metrics.to_first_token.add(first - began)
                events.append(reply.add(chunk))
            if stream and any(events):
                await exchange.send_piece(b"".join(events))
        tokens = sum(sample.tokens for sample in reply.samples)
        if first is not None and tokens > 1:
            self.metrics.per_token.add((time.monotonic() - first) / (tokens - 1))
        if stream:
            await exchange.send_piece(reply.end(), last=True)
        else:
            await send_body(exchange.send, 200, reply.whole(), "application/json")

    def give_up(self, problem: Problem) -> None:
        """Ends the requests that still run with an error."""
        for chunks in list(self.active):
            chunks.put_nowait(problem)


class _Exchange:
    """One request and its reply, with how far they are."""

    def __init__(self, receive, send):
        self.receive = receive
        self.send = send
        self.body_is_read = False
        self.has_begun = False  # a stream

    async def begin_stream(self) -> None:
        self.has_begun = True
        await self.send(
            {"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS}
        )

    async def send_piece(self, piece: bytes, *, last: bool = False) -> None:
        """Sends a part of a stream. ClientLeft if the client does not read for too long."""
        try:
            async with asyncio.timeout(STALL_S):
                await self.send(
                    {"type": "http.response.body", "body": piece, "more_body": not last}
                )
        except TimeoutError:
            raise ClientLeft from None


async def _watch(receive, chunks: asyncio.Queue) -> None:
    """Puts ClientLeft among the chunks when the client closes its connection."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            chunks.put_nowait(ClientLeft())
            return


async def _take(chunks: asyncio.Queue, exchange: _Exchange | None) -> list:
    """Returns all that was told, at least one thing; keeps a stream alive meanwhile."""
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE_S if exchange else None):
                said = [await chunks.get()]
            break
        except TimeoutError:
            await exchange.send_piece(KEEP_ALIVE)
    while not chunks.empty():
        said.append(chunks.get_nowait())
    return said


def _check_kind(scope) -> None:
    """Problem, status 415, unless the body is said to be JSON.

    A page elsewhere can make a browser send other kinds without asking first.
    """
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise Problem(
            415,
            "the body must be JSON; send the header Content-Type: application/json",
            code="unsupported_media_type",
        )


# Fields of a request that have another name in the engine.
_NAMES = {
    "thinking_tokens": "thinking_token_budget",
    "turns": "messages",
    "images": "messages",
}


def _field_of(param: str) -> str | None:
    return _NAMES.get(param, param) or None
