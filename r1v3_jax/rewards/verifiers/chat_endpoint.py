"""Sends chat completions to an OpenAI-compatible endpoint, and says whether another try may help.

The deadline is for a whole reply, however slowly its bytes come in. The key of a hosted endpoint is
read from the environment, OPENAI_API_KEY, and is never logged. Only the standard library.
"""

import http.client
import os
import socket
import threading
import urllib.parse

from r1v3_jax.rewards.verifiers.routing import describe


class Unavailable(Exception):
    """The endpoint did not answer, or not as it should; another try may help."""


class Refused(ValueError):
    """The endpoint refuses a request, and will again. status: of HTTP."""

    def __init__(self, status: int, problem: str):
        super().__init__(problem)
        self.status = status


class ChatEndpoint:
    """An address that takes chat completions, as vLLM, SGLang and hosted models do."""

    def __init__(self, url: str, timeout_s: float, max_reply: int):
        """url: as http://host:8000/v1. max_reply: bytes of a reply that are read."""
        address = urllib.parse.urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(
                f"model endpoint {url!r}: wanted an address as http://host:8000/v1"
            )
        self.address = address
        self.path = address.path.rstrip("/") + "/chat/completions"
        self.timeout_s = timeout_s
        self.max_reply = max_reply

    def post(self, request: bytes) -> bytes:
        """Sends a request and returns the body of the reply.

        Unavailable if another try may help, Refused if not.
        """
        connection = self._connection()
        is_late = threading.Event()
        late_reply = f"no reply in {self.timeout_s:g} s"
        try:
            status, reply = self._exchange(connection, request, is_late)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The timer of the whole reply, or the socket's own, whichever is the faster.
            timed_out = is_late.is_set() or isinstance(error, TimeoutError)
            reason = late_reply if timed_out else describe(error)
            raise Unavailable(reason) from error
        if is_late.is_set():  # cut off in the middle, which looks like its end
            raise Unavailable(late_reply)
        if status != 200:
            problem = f"status {status}: {reply[:100]!r}"
            # A server that is broken, slow or busy may recover. "No such model" stays.
            may_recover = status >= 500 or status in (408, 429)
            raise Unavailable(problem) if may_recover else Refused(status, problem)
        return reply

    def _connection(self) -> http.client.HTTPConnection:
        if self.address.scheme == "https":
            connection_type = http.client.HTTPSConnection
        else:
            connection_type = http.client.HTTPConnection
        return connection_type(
            self.address.hostname, self.address.port, timeout=self.timeout_s
        )

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        request: bytes,
        is_late: threading.Event,
    ) -> tuple[int, bytes]:
        """Returns status and body of a reply; sets `is_late` if it is cut off at the deadline."""
        headers = {"Content-Type": "application/json", "Connection": "close"}
        api_key = os.environ.get("OPENAI_API_KEY")
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        try:
            connection.connect()
            # The socket's own timeout starts again with each byte; this timer does not.
            timer = threading.Timer(
                self.timeout_s, _cut_off, (connection.sock, is_late)
            )
            timer.daemon = True
            timer.start()
            try:
                connection.request("POST", self.path, request, headers)
                response = connection.getresponse()
                return response.status, response.read(self.max_reply)
            finally:
                timer.cancel()
        finally:
            connection.close()


def _cut_off(connected: socket.socket, is_late: threading.Event) -> None:
    is_late.set()
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has just been closed
        pass
