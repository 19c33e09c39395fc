"""Connections that nobody can hold open or break: a request's head has a time and a size.

uvicorn waits forever for a head, and answers what is no HTTP in plain text.
"""

import asyncio
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from r1v3_jax.serve.problems import Problem

HEAD_S = 10.0  # for the head of a request, from the connection on
MAX_HEAD = 32 << 10  # bytes


class BoundedProtocol(H11Protocol):
    """HTTP/1.1, with a time for each head and errors of the API's form."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.head_timer = self.loop.call_later(HEAD_S, self.head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self.head_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # an answer to what was no HTTP is on its way
            return
        super().data_received(data)
        # The head is whole when the state of the other side is no longer IDLE.
        if self.conn.their_state is not h11.IDLE:
            self.head_timer.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The next head on this connection. Before its first byte the connection is merely idle.
        self.head_timer.cancel()
        if not self.transport.is_closing():
            self.head_timer = self.loop.call_later(
                self.timeout_keep_alive + HEAD_S, self.head_is_late
            )

    def head_is_late(self) -> None:
        """Ends a connection whose head does not come."""
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.refuse(
                Problem(
                    408, "the head of the request did not come in time", code="timeout"
                )
            )

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, or a head that is too long."""
        self.refuse(
            Problem(
                400, "this is no HTTP request, or its head is too long", code="no_http"
            )
        )

    def refuse(self, problem: Problem) -> None:
        """Sends an error, and closes the connection."""
        body = problem.body()
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            head = (
                f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
                "content-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
