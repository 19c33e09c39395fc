"""Asks a model behind an OpenAI-compatible server the questions of a benchmark.

Each request has a seed of its own, made of the question and the run: a server that honours seeds
gives different runs, and the same answer again after a kill. Images are sent as they are stored.
"""

import base64
import dataclasses
import hashlib
import io
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from r1v3_jax.evaluate.samples import Item, Sample
from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.rewards.verifiers.chat_endpoint import ChatEndpoint, Refused, Unavailable

MAX_REPLY = 16 << 20  # bytes
BACKOFF_S = 0.5  # before the first retry; doubled with each one, up to
MAX_BACKOFF_S = 30.0
# A refusal of one question's own: too long, too large, not understood. Others concern all.
OF_ONE_ROW = (400, 413, 422)
# Beginnings of the files that servers read.
KINDS = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


@dataclasses.dataclass(frozen=True)
class ServerModel:
    """A model behind a server, and how it is to sample."""

    url: str  # as http://host:8000/v1
    name: str
    temperature: float
    max_tokens: int
    seed: int
    requests: int = 32  # at a time
    timeout_s: float = (
        3600.0  # for a whole answer; the time in the server's queue counts too
    )
    retries: int = 5

    def ask(self, items: list[Item], runs: int, done) -> Iterator[list[Sample]]:
        """Yields the samples that are missing, as they come in. ValueError if some do not.

        done(run, index): whether a sample is there. Items with a problem are not asked.
        """
        endpoint = ChatEndpoint(self.url, self.timeout_s, MAX_REPLY)
        missing = [
            (item, run)
            for item in items
            for run in range(runs)
            if not item.problem and not done(run, item.question.index)
        ]
        failures = []
        in_a_row = 0
        waiting = iter(missing)
        with ThreadPoolExecutor(self.requests, thread_name_prefix="ask") as threads:
            # One more request for each thread waits, so that no thread does; a kill loses no more
            # than twice the requests at a time.
            pending = {
                threads.submit(self.sample, endpoint, *pair)
                for pair in itertools.islice(waiting, 2 * self.requests)
            }
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                samples = []
                for future in finished:
                    try:
                        samples.append(future.result())
                        in_a_row = 0
                    except Unavailable as error:
                        failures.append(str(error))
                        in_a_row += 1
                    except ValueError:  # a refusal that concerns all
                        threads.shutdown(wait=False, cancel_futures=True)
                        raise
                # The server is gone: the rest would only wait for it.
                if in_a_row < self.requests:
                    for pair in itertools.islice(waiting, len(finished)):
                        pending.add(threads.submit(self.sample, endpoint, *pair))
                if samples:
                    yield samples
        if failures:
            raise ValueError(
                f"{self.url}: no answer to {len(failures)} of {len(missing)} requests "
                f"({failures[0]}); the same command asks for them again"
            )

    def sample(self, endpoint: ChatEndpoint, item: Item, run: int) -> Sample:
        """Returns one sample. Unavailable if the server does not answer; Refused if it never will.

        What it refuses because of the question itself is a sample with a problem.
        """
        start = time.monotonic()
        request = json.dumps(self.request(item, run)).encode()
        for attempt in range(self.retries + 1):
            try:
                reply = read_reply(endpoint.post(request))
                break
            except Refused as error:
                if error.status not in OF_ONE_ROW:
                    raise
                reply = {"problem": f"the server refused it: {error}"[:300]}
                break
            except Unavailable:
                if attempt == self.retries:
                    raise
                time.sleep(min(BACKOFF_S * 2**attempt, MAX_BACKOFF_S))
        return Sample(
            run=run,
            index=item.question.index,
            prompt=item.asked.text,
            images=[list(image.size) for image in item.question.images],
            seconds=round(time.monotonic() - start, 3),
            **reply,
        )

    def request(self, item: Item, run: int) -> dict:
        """Returns the body of a request."""
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {
                "type": "image_url",
                "image_url": {"url": data_uri(item.question.images[part])},
            }
            for part in item.asked.parts
        ]
        return {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": seed_of(self.seed, item.question.index, run),
        }


def seed_of(seed: int, index: str, run: int) -> int:
    """Returns a seed of 31 bits for one sample."""
    digest = hashlib.sha256(f"{seed}/{run}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def data_uri(image: StoredImage) -> str:
    """Returns an image as a data: URI, its bytes unchanged; what servers do not read as PNG."""
    data = image.read()
    kinds = [kind for head, kind in KINDS.items() if data.startswith(head)]
    if not kinds:
        buffer = io.BytesIO()
        image.decode().save(buffer, "PNG")
        data = buffer.getvalue()
        kinds = ["png"]
    return f"data:image/{kinds[0]};base64,{base64.b64encode(data).decode()}"


def read_reply(reply: bytes) -> dict:
    """Returns {text, tokens, ended} of a chat completion; Unavailable if it is none.

    A server that parts thoughts from the answer has them in `reasoning` or `reasoning_content`, and
    an answer that was cut among the thoughts has no content at all: both are joined again.
    """
    try:
        body = json.loads(reply)
        choice = body["choices"][0]
        message = choice["message"]
        content = message.get("content")
        thoughts = message.get("reasoning") or message.get("reasoning_content")
        usage = body.get("usage") or {}
        tokens = usage.get("completion_tokens")
        reason = choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Unavailable(f"no chat completion: {reply[:100]!r}") from None
    if not isinstance(content, str | None) or not isinstance(thoughts, str | None):
        raise Unavailable(f"no text in the reply: {reply[:100]!r}")
    if content is None and thoughts is None:
        raise Unavailable(f"neither content nor thoughts in the reply: {reply[:100]!r}")
    text = content or ""
    if thoughts:
        # Cut among the thoughts: they never ended.
        text = f"{thoughts}</think>{text}" if content else thoughts
    ended = reason != "length"
    return {
        "text": text,
        "tokens": tokens if isinstance(tokens, int) else None,
        "ended": ended,
    }
