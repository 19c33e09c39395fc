"""Makes the reply of a chat completion out of what the engine tells: whole, or as a stream."""

import secrets
import time
from collections.abc import Callable

from r1v3_jax.engine.requests import Chunk, Token
from r1v3_jax.engine.text import HALF
from r1v3_jax.serve.fields import ChatRequest
from r1v3_jax.serve.problems import encode
from r1v3_jax.serve.thoughts import Splitter, ThoughtCounter


class Sample:
    """One answer while it comes in."""

    def __init__(self, asked: ChatRequest, opens_thought: bool):
        self.splitter = Splitter(opens_thought) if asked.split else None
        self.counter = ThoughtCounter(opens_thought)
        self.thoughts: list[str] = []
        self.answer: list[str] = []
        self.logprobs: list[dict] = []
        self.tokens = 0
        self.finish_reason: str | None = None

    def add(self, chunk: Chunk) -> tuple[str, str]:
        """Adds what came, and returns its (thoughts, answer)."""
        self.tokens += len(chunk.tokens)
        for token in chunk.tokens:
            self.counter.feed(token.text)
        self.finish_reason = chunk.finish_reason
        if self.splitter:
            thoughts, answer = self.splitter.feed(
                chunk.text, chunk.finish_reason is not None
            )
        else:
            thoughts = ""
            answer = chunk.text
        self.thoughts.append(thoughts)
        self.answer.append(answer)
        return thoughts, answer


class Reply:
    """The reply to one request, with the samples as far as they have come."""

    def __init__(
        self,
        asked: ChatRequest,
        model: str,
        prompt_tokens: int,
        opens_thought: bool,
        token_text: Callable[[int], str],
    ):
        self.asked = asked
        self.prompt_tokens = prompt_tokens
        self.token_text = token_text
        count = asked.request.settings.n
        self.samples = [Sample(asked, opens_thought) for _ in range(count)]
        self.head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    @property
    def is_done(self) -> bool:
        """Whether every sample has ended."""
        return all(sample.finish_reason for sample in self.samples)

    def add(self, chunk: Chunk) -> bytes:
        """Adds a chunk, and returns it as an event of a stream; empty if it shows nothing."""
        sample = self.samples[chunk.sample]
        thoughts, answer = sample.add(chunk)
        logprobs = self._logprobs(chunk.tokens)
        if not self.asked.stream:
            sample.logprobs += logprobs
            return b""
        thoughts = thoughts if self.asked.show_thoughts else ""
        if not (thoughts or answer or logprobs or chunk.finish_reason):
            return b""
        delta = {"content": answer}
        if thoughts:
            delta |= {"reasoning": thoughts, "reasoning_content": thoughts}
        return self._event(chunk.sample, delta, chunk.finish_reason, logprobs)

    def begin(self) -> bytes:
        """Returns the events a stream begins with."""
        first = {"role": "assistant", "content": ""}
        return b"".join(
            self._event(i, first, None, []) for i in range(len(self.samples))
        )

    def end(self) -> bytes:
        """Returns the events a stream ends with."""
        events = b""
        if self.asked.include_usage:
            chunk = {
                **self._head("chat.completion.chunk"),
                "choices": [],
                "usage": self.usage(),
            }
            events = event(chunk)
        return events + DONE

    def whole(self) -> bytes:
        """Returns the body of a reply that is no stream."""
        choices = []
        for index, sample in enumerate(self.samples):
            message = {
                "role": "assistant",
                "content": "".join(sample.answer),
                "refusal": None,
            }
            if self.asked.split and self.asked.show_thoughts:
                thoughts = "".join(sample.thoughts)
                message |= {"reasoning": thoughts, "reasoning_content": thoughts}
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": {"content": sample.logprobs}
                    if self.asked.logprobs
                    else None,
                    "finish_reason": sample.finish_reason,
                }
            )
        head = self._head("chat.completion")
        return encode({**head, "choices": choices, "usage": self.usage()})

    def usage(self) -> dict:
        """Returns how many tokens were read and sampled."""
        completion = sum(sample.tokens for sample in self.samples)
        reasoning = sum(sample.counter.tokens for sample in self.samples)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def _head(self, kind: str) -> dict:
        return {"id": self.head["id"], "object": kind, **self.head}

    def _event(
        self, index: int, delta: dict, finish_reason, logprobs: list[dict]
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": {"content": logprobs} if logprobs else None,
            "finish_reason": finish_reason,
        }
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self.asked.include_usage:
            chunk["usage"] = None
        return event(chunk)

    def _logprobs(self, tokens: tuple[Token, ...]) -> list[dict]:
        if not self.asked.logprobs:
            return []
        entries = []
        for token in tokens:
            top = [_entry(self.token_text(i), logprob) for i, logprob in token.top]
            entries.append({**_entry(token.text, token.logprob), "top_logprobs": top})
        return entries


DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": waiting\n\n"  # a comment, which clients leave out


def event(value: dict) -> bytes:
    """Returns one event of a stream."""
    return b"data: %s\n\n" % encode(value)


def _entry(text: str, logprob: float) -> dict:
    # What cannot occur has -inf, for which JSON has no word; OpenAI's server writes -9999. The text
    # of half a character does not say which bytes it is: null, as the API has it then.
    is_whole = HALF not in text
    return {
        "token": text,
        "logprob": max(logprob, -9999.0),
        "bytes": list(text.encode("utf-8", "replace")) if is_whole else None,
    }
