"""An engine whose answers a test writes: threads, slots and a queue as the real one has them."""

import contextlib
import dataclasses
import threading
import time
import types
from collections import deque
from collections.abc import Callable

from r1v3_jax.engine.requests import (
    BadRequest,
    Chunk,
    EngineNumbers,
    EngineStopped,
    Listener,
    QueueFull,
    Request,
    Token,
)


def text_of(request: Request) -> str:
    """Returns the turns of a request as one text, images as [0], [1]."""
    turns = []
    for turn in request.turns:
        parts = [f"[{part}]" if isinstance(part, int) else part for part in turn.parts]
        turns.append(f"{turn.role}: {''.join(parts)}")
    return "\n".join(turns)


def words(text: str) -> list[str]:
    """Cuts a text into tokens: words with the space before them."""
    return text.replace(" ", "\0 ").split("\0")


def echo(request: Request) -> list[str]:
    """Thinks about the last turn, and says it again."""
    last = text_of(request).rpartition("user: ")[2]
    return words(f"I see.\n</think>\n\nYou said: {last}")


@dataclasses.dataclass
class Prepared:
    request: Request
    prompt_tokens: int
    tokens: list[str]


@dataclasses.dataclass(eq=False)
class Running:
    """One sample that waits or runs."""

    prepared: Prepared
    listener: Listener
    sample: int
    done: int = 0
    cancelled: bool = False


class Ticket:
    def __init__(self, engine, samples):
        self.engine = engine
        self.samples = samples

    def cancel(self):
        with self.engine.lock:
            if not all(sample.cancelled for sample in self.samples):
                self.engine.cancelled += 1
            for sample in self.samples:
                sample.cancelled = True


class ScriptedEngine:
    """Says `script(request)`, a token of each sample every `pace` seconds."""

    def __init__(
        self,
        script: Callable[[Request], list[str]] = echo,
        pace: float = 0.0,
        loading: float = 0.0,
        **limits,
    ):
        default = {"slots": 4, "queue": 64, "max_prompt_tokens": 200, "max_tokens": 100}
        self.settings = types.SimpleNamespace(**(default | limits))
        self.max_model_len = self.settings.max_prompt_tokens + self.settings.max_tokens
        self.script = script
        self.pace = pace
        self.loading = loading
        self.lock = threading.RLock()
        self.waiting: deque[Running] = deque()
        self.running: list[Running] = []
        self.ready = False
        self.failed: Exception | None = None
        self.fail_with: Exception | None = None
        self.closed = False
        self.requests: list[Request] = []
        self.cancelled = self.finished = self.generated = 0

    def start(self):
        threading.Thread(target=self.load, daemon=True).start()

    def load(self):
        time.sleep(self.loading)
        self.ready = True
        self.work()

    def wait_until_ready(self):
        while not self.ready:
            time.sleep(0.005)

    def thinks_first(self, thinking: bool) -> bool:
        return thinking

    def prepare(self, request: Request) -> Prepared:
        text = text_of(request)
        for image in request.images:
            try:
                image.decode()
            except (ValueError, OSError) as error:
                raise BadRequest(str(error), "images") from None
        tokens = len(text.split()) + 4 * len(request.images)
        if tokens > self.settings.max_prompt_tokens:
            room = self.settings.max_prompt_tokens
            raise BadRequest(f"a prompt of {tokens} tokens; at most {room}", "turns")
        return Prepared(request, tokens, self.script(request))

    def submit(self, prepared: Prepared, listener: Listener) -> Ticket:
        samples = [
            Running(prepared, listener, i) for i in range(prepared.request.settings.n)
        ]
        with self.lock:
            if self.closed or self.failed:
                raise EngineStopped("the engine takes no more requests")
            if len({id(s.prepared) for s in self.waiting}) >= self.settings.queue:
                raise QueueFull(f"{len(self.waiting)} samples wait")
            self.requests.append(prepared.request)
            self.waiting += samples
        return Ticket(self, samples)

    def token_text(self, token_id: int) -> str:
        return f"<{token_id}>"

    def numbers(self) -> EngineNumbers:
        with self.lock:
            return EngineNumbers(
                slots=self.settings.slots,
                running=len(self.running),
                waiting=len(self.waiting),
                requests=len(self.requests),
                finished=self.finished,
                cancelled=self.cancelled,
                failed=0,
                prompt_tokens=0,
                generated_tokens=self.generated,
                prompts_read=len(self.requests),
                runs=0,
                compilations=0,
            )

    def drain(self, seconds: float) -> bool:
        self.closed = True
        end = time.monotonic() + seconds
        while self.running or self.waiting:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def stop(self):
        self.closed = True

    # ---------------------------------------------------------------------------------------------

    def work(self):
        while True:
            time.sleep(self.pace or 0.0005)
            with self.lock:
                if self.fail_with:
                    self.failed = self.fail_with
                    for sample in [*self.running, *self.waiting]:
                        sample.listener(self.failed)
                    self.running.clear()
                    self.waiting.clear()
                    return
                self.running = [s for s in self.running if not s.cancelled]
                self.waiting = deque(s for s in self.waiting if not s.cancelled)
                while self.waiting and len(self.running) < self.settings.slots:
                    self.running.append(self.waiting.popleft())
                told = [self.step(sample) for sample in list(self.running)]
            for listener, chunk in told:
                listener(chunk)

    def step(self, sample: Running):
        """Samples one token, and returns who is told what."""
        settings = sample.prepared.request.settings
        tokens = sample.prepared.tokens
        text = tokens[sample.done]
        sample.done += 1
        self.generated += 1
        reason = None
        if sample.done == len(tokens):
            reason = "stop"
        elif sample.done == settings.max_tokens:
            reason = "length"
        if reason:
            self.running.remove(sample)
            self.finished += sample.sample == 0
        top = tuple((10 + i, -0.5 - i) for i in range(settings.top_logprobs))
        token = Token(sample.done, text, -0.25 * sample.done, top)
        return sample.listener, Chunk(sample.sample, text, (token,), reason)


@contextlib.contextmanager
def serving(engine=None, *, key: str = "", **limits):
    """Yields the address of a server of this engine, http://127.0.0.1:PORT."""
    import asyncio

    from r1v3_jax.serve import running
    from r1v3_jax.serve.app import App
    from r1v3_jax.serve.fields import Limits

    engine = engine or ScriptedEngine()
    known = engine.settings
    made = Limits(
        max_tokens=known.max_tokens,
        slots=known.slots,
        queue=known.queue,
        vocab_size=300,
        **limits,
    )
    app = App(engine, ("r1v3", "gpt-4o-mini"), made, key)
    opened = running.open_port("127.0.0.1", 0)
    server = running.Server(app)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[opened])), daemon=True
    )
    thread.start()
    engine.start()
    if not engine.loading:
        engine.wait_until_ready()
    try:
        yield Served(f"http://127.0.0.1:{opened.getsockname()[1]}", app, engine)
    finally:
        server.should_exit = True
        thread.join(10)
        engine.stop()


@dataclasses.dataclass
class Served:
    url: str
    app: object
    engine: ScriptedEngine
