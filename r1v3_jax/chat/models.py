"""Who answers in a chat: a checkpoint on this machine's devices, or a server elsewhere."""

import dataclasses
import http.client
import json
import os
import queue
import ssl
import urllib.parse
from collections.abc import Iterator
from typing import Protocol

from r1v3_jax.engine.requests import (
    Answering,
    BadRequest,
    Request,
    RequestSettings,
    Turn,
)
from r1v3_jax.evaluate.server_answers import data_uri
from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.serve.thoughts import Splitter

MAX_LINE = 16 << 20  # bytes of one event of a stream


@dataclasses.dataclass(frozen=True)
class Question:
    """A chat whose last turn is to be answered."""

    turns: tuple[Turn, ...]
    images: tuple[StoredImage, ...]
    thinking: bool = True


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How answers are sampled."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None  # None: a fresh one


@dataclasses.dataclass(frozen=True)
class Piece:
    """What came of an answer."""

    thoughts: str
    answer: str
    tokens: int
    finish_reason: str | None = None  # "stop", "length"; None: it goes on


class Unavailable(Exception):
    """A server did not answer, and may do so later."""


class Model(Protocol):
    """Who answers. Closing what `ask` returns ends the answer."""

    def ask(self, question: Question, sampling: Sampling) -> Iterator[Piece]:
        """Yields an answer as it comes. ValueError if it cannot be asked, Unavailable."""


class LocalModel:
    """A checkpoint on this machine's devices."""

    def __init__(self, engine: Answering):
        self.engine = engine

    def ask(self, question: Question, sampling: Sampling) -> Iterator[Piece]:
        """See `Model`."""
        request = Request(
            turns=question.turns,
            images=question.images,
            settings=RequestSettings(**dataclasses.asdict(sampling)),
            thinking=question.thinking,
        )
        told = queue.Queue()
        ticket = self.engine.submit(self.engine.prepare(request), told.put)
        splitter = Splitter(self.engine.thinks_first(question.thinking))
        has_ended = False
        try:
            while not has_ended:
                said = told.get()
                if isinstance(said, Exception):
                    raise said
                has_ended = said.finish_reason is not None
                thoughts, answer = splitter.feed(said.text, has_ended)
                yield Piece(thoughts, answer, len(said.tokens), said.finish_reason)
        finally:
            if not has_ended:
                ticket.cancel()


class RemoteModel:
    """A server with the OpenAI API. A key is read from the environment, OPENAI_API_KEY."""

    def __init__(self, url: str, name: str, timeout_s: float):
        """url: as http://host:8000/v1. timeout_s: without a sign of life."""
        address = urllib.parse.urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(
                f"--endpoint={url}: wanted an address as http://host:8000/v1"
            )
        try:
            _ = address.port
        except ValueError as error:
            raise ValueError(
                f"--endpoint={url}: {error}; wanted an address as http://host:8000/v1"
            ) from None
        self.address = address
        self.path = address.path.rstrip("/") + "/chat/completions"
        self.name = name
        self.timeout_s = timeout_s

    def ask(self, question: Question, sampling: Sampling) -> Iterator[Piece]:
        """See `Model`."""
        connection = self._connect()
        try:
            try:
                reply = self._send(connection, question, sampling)
                yield from _pieces(reply)
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
                raise Unavailable(
                    f"{self.address.netloc} does not answer: {reason}"
                ) from error
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        where = (self.address.hostname, self.address.port)
        if self.address.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                *where, timeout=self.timeout_s, context=context
            )
        return http.client.HTTPConnection(*where, timeout=self.timeout_s)

    def _send(self, connection, question: Question, sampling: Sampling):
        """Sends a question, and returns the open reply."""
        body = {
            "model": self.name,
            "messages": messages_of(question),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "separate_reasoning": True,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if not question.thinking:
            body["chat_template_kwargs"] = {"enable_thinking": False}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        connection.request("POST", self.path, json.dumps(body).encode(), headers)
        reply = connection.getresponse()
        if reply.status == 200:
            return reply
        problem = f"status {reply.status}: {_message(reply.read(1 << 20))}"
        may_recover = reply.status >= 500 or reply.status in (408, 429)
        raise Unavailable(problem) if may_recover else BadRequest(problem)


def messages_of(question: Question) -> list[dict]:
    """Returns a question as the messages of a request."""
    messages = []
    for turn in question.turns:
        parts = []
        for part in turn.parts:
            if isinstance(part, int):
                url = {"url": data_uri(question.images[part])}
                parts.append({"type": "image_url", "image_url": url})
            elif part:
                parts.append({"type": "text", "text": part})
        is_text = len(parts) == 1 and isinstance(turn.parts[0], str)
        messages.append(
            {"role": turn.role, "content": turn.parts[0] if is_text else parts}
        )
    return messages


def _pieces(reply) -> Iterator[Piece]:
    """Yields what the events of a stream hold. Unavailable if it breaks off.

    How many tokens there were is said behind the text; the last piece has what is missing. Without
    it every event with text counts as one.
    """
    splitter = Splitter(opens_thought=False)
    ended = None  # the finish reason, once it was told
    counted = 0  # tokens of the pieces so far
    total = None  # tokens of the answer
    while True:
        line = reply.readline(MAX_LINE)
        data = line.strip().removeprefix(b"data:").strip()
        if ended and (not line or data == b"[DONE]"):
            yield Piece("", "", (total or counted) - counted, ended)
            return
        if not line:
            raise Unavailable("the answer breaks off")
        if not line.startswith(b"data:") or data == b"[DONE]":
            continue
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                raise Unavailable(str(chunk["error"].get("message"))[:300])
            usage = chunk.get("usage") or {}
            total = int(usage.get("completion_tokens") or 0) or total
            choice = next(iter(chunk.get("choices") or []), None)
            if choice is None:
                continue
            delta = choice.get("delta") or {}
            reason = choice.get("finish_reason")
            thoughts = delta.get("reasoning") or delta.get("reasoning_content") or ""
            content = delta.get("content") or ""
        except (ValueError, AttributeError, TypeError) as error:
            raise Unavailable(f"no event of a chat: {data[:100]!r}") from error
        more_thoughts, answer = splitter.feed(content, reason is not None)
        has_text = bool(thoughts or content)
        counted += has_text
        yield Piece(thoughts + more_thoughts, answer, int(has_text))
        ended = ended or reason


def _message(body: bytes) -> str:
    """Returns the sentence of an error."""
    try:
        return str(json.loads(body)["error"]["message"])[:300]
    except (ValueError, LookupError, TypeError):
        return repr(body[:100])
