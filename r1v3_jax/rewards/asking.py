"""Asks an endpoint many questions at once, with retries and a cache (`Asker`)."""

import functools
import hashlib
import json
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from r1v3_jax.rewards.helpers import Endpoint
from r1v3_jax.rewards.verifiers.chat_endpoint import ChatEndpoint, Unavailable
from r1v3_jax.rewards.verifiers.model import BACKOFF_S, MAX_REPLY
from r1v3_jax.rewards.verifiers.routing import describe


class Asker:
    """An endpoint, and the replies that it has given."""

    def __init__(self, settings: Endpoint):
        self.settings = settings
        self.endpoint = ChatEndpoint(settings.url, settings.timeout_s, MAX_REPLY)
        self.lock = threading.Lock()  # of what is known and its file
        self.cache = settings.cache
        self.known = _read_cache(settings.cache)  # by a hash of the request
        # A run that was killed may have left half a line, which no reply may be joined to.
        self.before = "\n" if _ends_in_half_a_line(settings.cache) else ""

    def ask_all(self, prompts: Sequence[str], max_tokens: int) -> list[tuple[str, str]]:
        """Returns (reply, problem) of each prompt, in order; one of the two is empty.

        What occurs twice is sent once. Raises nothing.
        """
        unique = list(dict.fromkeys(prompts))
        ask = functools.partial(self._ask, max_tokens=max_tokens)
        with ThreadPoolExecutor(self.settings.requests) as threads:
            replies = dict(zip(unique, threads.map(ask, unique), strict=True))
        return [replies[prompt] for prompt in prompts]

    def _ask(self, prompt: str, max_tokens: int) -> tuple[str, str]:
        """Returns the reply to one prompt, or why there is none."""
        request = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0.0,
            "max_tokens": max_tokens,
        }
        body = json.dumps(request).encode()
        key = hashlib.sha256(body).hexdigest()
        if key in self.known:
            return self.known[key], ""
        for attempt in range(self.settings.retries + 1):
            if attempt:
                time.sleep(BACKOFF_S * 2 ** (attempt - 1))
            try:
                reply = _content(self.endpoint.post(body))
            except Unavailable as error:
                problem = str(error)
            except Exception as error:  # the endpoint is a foreign program
                return "", describe(error)
            else:
                # Outside the try: what this raises is not the endpoint's failure.
                self._keep(key, reply)
                return reply, ""
        return "", problem

    def _keep(self, key: str, reply: str) -> None:
        with self.lock:
            self.known[key] = reply
            if not self.cache:
                return
            try:
                with open(self.cache, "a", encoding="utf-8") as file:
                    line = json.dumps({"key": key, "reply": reply})
                    file.write(f"{self.before}{line}\n")
                    self.before = ""
            except OSError as error:  # a full disk costs the file, not the reply
                warnings.warn(f"replies are no longer kept: {error}", stacklevel=2)
                self.cache = ""


def _content(reply: bytes) -> str:
    """Returns the text of a chat completion, after any thinking. Unavailable if it has none.

    ValueError for thoughts that were cut off: to ask again would not help.
    """
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
        text = content.rpartition("</think>")[2].strip()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unavailable(f"no chat completion: {reply[:100]!r}") from error
    if text.startswith("<think>"):
        raise ValueError(
            f"the reply ends inside its thoughts, {text[:60]!r}; raise the term's max_tokens"
        )
    if not text:
        raise Unavailable(f"an empty reply: {reply[:100]!r}")
    return text


def _ends_in_half_a_line(path: str) -> bool:
    if not path or not Path(path).exists():
        return False
    return Path(path).read_bytes()[-1:] not in (b"", b"\n")


def _read_cache(path: str) -> dict[str, str]:
    if not path or not Path(path).exists():
        return {}
    known = {}
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            known[row["key"]] = str(row["reply"])
        except (ValueError, LookupError, TypeError):  # a line that was cut off
            continue
    return known


@functools.cache
def get(settings: Endpoint) -> Asker:
    """Returns this process's asker with these settings."""
    return Asker(settings)
