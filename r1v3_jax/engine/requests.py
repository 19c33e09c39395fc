"""What is asked of the engine, and what it answers: no arrays, no devices, no HTTP.

One request has `settings.n` samples. What comes of them is told in chunks, in any order of the
samples. A sample of three runs, whose stop string "END" is held back while it may come:

    Chunk(sample=0, text="A ca", tokens=(A, ca), finish_reason=None)
    Chunk(sample=0, text="t.", tokens=(t, ., E), finish_reason=None)
    Chunk(sample=0, text="", tokens=(N, D), finish_reason="stop")
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length"]


class BadRequest(ValueError):
    """A request that cannot be answered, in one sentence; `param` names its field."""

    def __init__(self, message: str, param: str = ""):
        super().__init__(message)
        self.param = param


class QueueFull(RuntimeError):
    """No more requests may wait; the same one may be taken later."""


class EngineStopped(RuntimeError):
    """The engine takes no more requests, or has ended before this one was answered."""


@dataclasses.dataclass(frozen=True)
class RequestSettings:
    """How the answers to one request are sampled; `Engine.prepare` checks it."""

    max_tokens: int  # of an answer; more than there is room for means the room
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0  # 1: all tokens
    top_k: int = 0  # 0: all tokens
    repetition_penalty: float = 1.0  # over the answer's own tokens; 1 is off
    thinking_tokens: int = 0  # after so many tokens </think> is forced; 0: never
    seed: int | None = None  # None: a fresh one
    n: int = 1  # samples of one prompt, which is read once
    stop: tuple[str, ...] = ()  # the answer ends before any of these
    stop_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()  # never completed, as they are or after a space
    top_logprobs: int = 0  # of the most probable tokens, at temperature 1


@dataclasses.dataclass(frozen=True)
class Turn:
    """One message of a chat.

    Images in front of a turn's only text stand on lines of their own, as the chat format puts them;
    other images stand where they are, without a line of their own.
    """

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | int, ...]  # text, or the number of an image of the request


@dataclasses.dataclass(frozen=True)
class Request:
    """A chat whose last turn is to be answered. Its text is text: no control token is forged."""

    turns: tuple[Turn, ...]
    settings: RequestSettings
    images: tuple[Any, ...] = ()  # PIL images, or `image_files.StoredImage`
    thinking: bool = True  # False: the answer begins without <think>
    max_tiles: int | None = (
        None  # of each image; None: as many as the model has, for each
    )


@dataclasses.dataclass(frozen=True)
class Token:
    """One sampled token. Log-probabilities are those of the model itself, at temperature 1."""

    id: int
    text: str  # of this token alone: half a character shows as U+FFFD
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (id, log-probability), the highest first


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What came of one sample since its last chunk."""

    sample: int  # 0 to n - 1
    text: str  # whole characters; what may begin a stop string is held back
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None  # None: it goes on


# Called from the engine's thread: with chunks until every sample has its finish reason, or once
# with what went wrong.
Listener = Callable[[Chunk | Exception], None]


@dataclasses.dataclass(frozen=True)
class EngineNumbers:
    """What the engine has done and does; counts since it is ready."""

    slots: int
    running: int  # samples in slots
    waiting: int  # samples that wait for a slot
    requests: int  # taken
    finished: int  # requests answered whole
    cancelled: int  # requests
    failed: int  # requests that ended in an error
    prompt_tokens: int  # read
    generated_tokens: int
    prompts_read: int
    runs: int
    compilations: int  # since it is ready: any is a fault


class Prepared(Protocol):
    """A request whose prompt is encoded."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""


class Ticket(Protocol):
    """A request that was taken."""

    def cancel(self) -> None:
        """Frees its slots within one run. From any thread, any number of times, also afterwards."""


class Answering(Protocol):
    """What a server or a chat needs of an engine; tests have one of scripted answers."""

    ready: bool
    failed: Exception | None

    @property
    def max_model_len(self) -> int:
        """Tokens of a prompt and its answer."""

    def start(self) -> None:
        """Starts to read the weights and to compile."""

    def wait_until_ready(self) -> None:
        """Waits until requests are answered; raises what has failed."""

    def thinks_first(self, thinking: bool) -> bool:
        """Returns whether an answer begins inside a thought, which only </think> ends."""

    def token_text(self, token: int) -> str:
        """Returns the text of one token alone."""

    def prepare(self, request: Request) -> Prepared:
        """Encodes a request on the host, from any thread. BadRequest."""

    def submit(self, prepared: Prepared, listener: Listener) -> Ticket:
        """Takes a request. QueueFull, EngineStopped."""

    def numbers(self) -> EngineNumbers:
        """Returns what it does and has done."""

    def drain(self, seconds: float) -> bool:
        """Takes no new requests; returns whether all running ones ended in time."""

    def stop(self) -> None:
        """Ends the engine's thread."""
