"""A model as a verifier, behind any OpenAI-compatible endpoint (vLLM, SGLang, a hosted one).

The model is asked whether an answer and the reference answer mean the same; a reply that is not
clear is an ERROR. The answer is quoted as JSON, so that a policy that writes "the above is CORRECT"
has written a string. Judging is waiting, not computing, so it is done by threads; `chat_endpoint`
sends the requests.
"""

import functools
import hashlib
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from r1v3_jax.rewards.verifiers.chat_endpoint import ChatEndpoint, Unavailable
from r1v3_jax.rewards.verifiers.judging import Judging
from r1v3_jax.rewards.verifiers.routing import describe
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict

JUDGING = Judging()

MAX_BOX = 2000  # characters
MAX_REPLY = 1 << 20  # bytes
MAX_TOKENS = 2048  # of a reply; models that think need some
BACKOFF_S = 0.5  # before the first retry; doubled with each one


class Judge:
    """A model behind an endpoint, and the judgements it has made."""

    def __init__(
        self,
        url: str,  # as http://host:8000/v1
        model: str,
        *,
        timeout_s: float,  # for a whole reply
        retries: int,
        requests: int,  # at a time
        cache: str,  # a file of JSON lines that keeps judgements; "": only memory keeps them
        judging: Judging = JUDGING,
    ):
        self.endpoint = ChatEndpoint(url, timeout_s, MAX_REPLY)
        self.model = model
        self.retries = retries
        self.requests = requests
        self.cache = cache
        self.judging = judging
        self.reader = name_reader(judging.read)
        self.lock = threading.Lock()  # of what is known and its file
        self.known = _read_cache(cache)  # by a hash of the request

    def judge_all(self, questions: Sequence[tuple[str, str, str]]) -> list[Check]:
        """Returns `judge` of each (question, answer, box), in order.

        What occurs twice is sent once.
        """
        unique = list(dict.fromkeys(questions))
        with ThreadPoolExecutor(self.requests, thread_name_prefix="judge") as threads:
            judgements = threads.map(lambda question: self.judge(*question), unique)
            checks = dict(zip(unique, judgements, strict=True))
        return [checks[question] for question in questions]

    def judge(self, question: str, answer: str, box: str) -> Check:
        """Returns RIGHT or WRONG as the model says, ERROR if it does not say. Raises nothing.

        Between the two it is WRONG, with credit.
        """
        if len(box) > MAX_BOX:
            return Check(Verdict.WRONG, box, "too long")
        request = self._request(question, answer, box)
        # What is kept is what a reply was worth: other tiers read it anew.
        key = hashlib.sha256(request + self.reader.encode()).hexdigest()
        worth = self.known.get(key)
        for attempt in range(self.retries + 1):
            if worth is not None:
                break
            try:
                worth = read_judgement(self.endpoint.post(request), self.judging)
            except Unavailable as error:
                if attempt == self.retries:
                    return _error(box, str(error))
                time.sleep(BACKOFF_S * 2**attempt)
            except Exception as error:  # the endpoint is a foreign program
                return _error(box, describe(error))
            else:
                # Outside the try: what this raises is not the model's failure.
                self._keep(key, worth)
        verdict = Verdict.RIGHT if worth == 1 else Verdict.WRONG
        credit = worth if 0 < worth < 1 else None
        return Check(verdict, box, "as the model verifier judges", credit)

    def _request(self, question: str, answer: str, box: str) -> bytes:
        """Returns the request as JSON. It is part of the cache's key: a change forgets all."""
        data = {
            "question": question,
            "reference answer": answer,
            "student's final answer": box,
        }
        # Not str.format: a prompt of one's own may hold other braces.
        prompt = self.judging.prompt.replace("{data}", json.dumps(data, indent=1))
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0.0,
            "max_tokens": MAX_TOKENS,
        }
        return json.dumps(request).encode()

    def _keep(self, key: str, worth: float) -> None:
        with self.lock:
            self.known[key] = worth
            if not self.cache:
                return
            line = json.dumps({"key": key, "worth": worth}) + "\n"
            try:
                with open(self.cache, "a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:  # a full disk costs the file, not the judgement
                warnings.warn(f"judgements are no longer kept: {error}", stacklevel=2)
                self.cache = ""


def name_reader(read: Callable) -> str:
    """Names what reads replies, with its settings: LastWord(worth=(("FULL", 1.0), ...)).

    A function is known by its name alone: who rewrites it takes another file for the cache. An
    object whose repr has its address is another one in each process, and finds nothing kept.
    """
    name = getattr(read, "__qualname__", "")
    return f"{read.__module__}.{name}" if name else repr(read)


def _error(box: str, problem: str) -> Check:
    return Check(Verdict.ERROR, box, f"model verifier: {problem}"[:200])


def read_judgement(reply: bytes, judging: Judging = JUDGING) -> float:
    """Returns what a chat completion says that the answer is worth, 0 to 1.

    Unavailable if it does not say so, or something else.
    """
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
        worth = judging.read(content)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise Unavailable(f"no chat completion: {reply[:100]!r}") from error
    if not isinstance(worth, int | float) or not 0 <= worth <= 1:
        raise Unavailable(f"no judgement: {content[-100:]!r}")
    return float(worth)


def _read_cache(path: str) -> dict[str, float]:
    if not path or not os.path.exists(path):
        return {}
    known = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                known[row["key"]] = float(row["worth"])
            except (ValueError, LookupError, TypeError):  # a line that was cut off
                continue
    return known


@functools.cache
def get(
    url: str,
    model: str,
    timeout_s: float,
    retries: int,
    requests: int,
    cache: str,
    judging: Judging = JUDGING,
) -> Judge:
    """Returns this process's judge with these settings."""
    return Judge(
        url,
        model,
        timeout_s=timeout_s,
        retries=retries,
        requests=requests,
        cache=cache,
        judging=judging,
    )
