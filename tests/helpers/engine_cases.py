"""A small engine, its requests and their answers, for the tests of the engine."""

import dataclasses
import threading

import numpy as np
import tokenizers_for_tests
from random_models import random_model

from r1v3_jax.config import TINY, ModelConfig
from r1v3_jax.engine.checkpoints import Source
from r1v3_jax.engine.requests import Chunk, Request, RequestSettings, Token, Turn
from r1v3_jax.models.build import for_decoding
from r1v3_jax.processing.tokenizer import load

# As many rows as the tiny tokenizer has tokens; its end token is not likely.
CONFIG = dataclasses.replace(
    TINY,
    text=dataclasses.replace(TINY.text, vocab_size=277),
    image_token_id=270,
    end_token_id=267,
    pad_token_id=265,
)


def source(directory, config: ModelConfig = CONFIG, seed: int = 0) -> Source:
    """A random model with the tiny tokenizer, as `open_checkpoint` returns one."""
    tokenizers_for_tests.write_tiny_tokenizer(directory)
    tokenizer = load(directory)
    return Source(
        config=config,
        tokenizer=tokenizer,
        dtype="float32",
        read=lambda compute: for_decoding(random_model(config, compute, seed=seed)),
    )


def ask(
    text: str, images=(), turns=(), thinking=True, max_tiles=None, **settings
) -> Request:
    """A request with one question; its images come first."""
    settings = {"max_tokens": 16, **settings}
    question = Turn("user", (*range(len(images)), text))
    return Request(
        turns=(*turns, question),
        images=tuple(images),
        settings=RequestSettings(**settings),
        thinking=thinking,
        max_tiles=max_tiles,
    )


@dataclasses.dataclass
class Answer:
    """What a listener was told of one sample."""

    text: str = ""
    tokens: list[Token] = dataclasses.field(default_factory=list)
    finish_reason: str | None = None
    chunks: int = 0

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def numbers(self) -> list[tuple[int, float]]:
        return [(token.id, token.logprob) for token in self.tokens]


class Listener:
    """Collects what is told of one request, and waits for its end."""

    def __init__(self, n: int):
        self.answers = [Answer() for _ in range(n)]
        self.error: Exception | None = None
        self.ended = threading.Event()

    def __call__(self, event: Chunk | Exception) -> None:
        assert not self.ended.is_set(), event
        if isinstance(event, Exception):
            self.error = event
            self.ended.set()
            return
        answer = self.answers[event.sample]
        assert answer.finish_reason is None, event
        answer.text += event.text
        answer.tokens += event.tokens
        answer.chunks += 1
        answer.finish_reason = event.finish_reason
        if all(answer.finish_reason for answer in self.answers):
            self.ended.set()

    def wait(self, seconds: float = 120) -> list[Answer]:
        assert self.ended.wait(seconds), "not answered in time"
        if self.error:
            raise self.error
        return self.answers


def submit(engine, request: Request) -> Listener:
    listener = Listener(request.settings.n)
    listener.ticket = engine.submit(engine.prepare(request), listener)
    return listener


def answer(engine, request: Request) -> list[Answer]:
    """Asks, and waits for the answers to all samples."""
    return submit(engine, request).wait()


def words(rng: np.random.Generator, count: int) -> str:
    """A text of about so many tokens."""
    return "".join(rng.choice(list("abcdef ghij klm")) for _ in range(count))
