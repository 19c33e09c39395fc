"""The engine: requests that come at any time share the slots in which answers are sampled.

    engine = Engine(open_checkpoint(directory), EngineSettings(slots=8))
    engine.start()
    engine.wait_until_ready()
    ticket = engine.submit(engine.prepare(request), listener=print)

One thread works on the devices. Between two runs of some tokens it frees slots, reads one prompt
at most, and lets waiting samples begin, first come first served. While a run is on the devices the
text of the one before is told to the listeners:

    devices   run 1          | read B | run 2          | run 3
    thread    tells run 0             | tells run 1    | tells run 2

Knows when things happen; `devices.py` knows how, `slots.py` where.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
import time
import traceback

import jax
import numpy as np
from absl import logging

from r1v3_jax.engine.checkpoints import Source
from r1v3_jax.engine.devices import Devices, to_host
from r1v3_jax.engine.encoding import Encoder, Prepared, slot_numbers
from r1v3_jax.engine.memory import check_memory, device_bytes, memory_of
from r1v3_jax.engine.programs import RUN_TOKENS, Sampled, no_change
from r1v3_jax.engine.requests import (
    Chunk,
    EngineNumbers,
    EngineStopped,
    FinishReason,
    Listener,
    QueueFull,
    Request,
    Token,
)
from r1v3_jax.engine.sizes import EngineSettings, sizes_of
from r1v3_jax.engine.slots import Sample, SlotTable, Ticket
from r1v3_jax.run.compiles import compiled_so_far

# A run takes about so long: what a request waits for the next look, and a stream between chunks.
RUN_SECONDS = 0.1
# Other processes hear of the first one at least so often.
IDLE_SECONDS = 5
# Images of so many waiting requests are cut into tiles ahead.
CUT_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Told:
    """What one run sampled for one sample, to be told to its listener."""

    sample: Sample
    ids: list[int]
    logprobs: list[float]
    tops: list[tuple[tuple[int, float], ...]]
    finish_reason: FinishReason | None
    hidden: int  # tokens at the end that have no text: one that ends the answer


class Engine:
    """Answers requests with one model, on the mesh that is current when it is made; see above."""

    def __init__(self, source: Source, settings: EngineSettings):
        """Checks what can be checked without the weights.

        ValueError if the settings do not fit the model, the mesh or the memory of its devices.
        """
        self.settings = settings
        self.source = source
        self.config = source.config
        self.tokenizer = source.tokenizer
        self.mesh = jax.sharding.get_mesh()
        self.sizes = sizes_of(source.config, source.compute, settings, self.mesh)
        # Said before any weight is read.
        counted = memory_of(source.config, source.compute, settings, self.mesh)
        check_memory(counted, settings, device_bytes(), self.mesh)
        self.encoder = Encoder(source.config, source.tokenizer, self.sizes)
        self.failed: Exception | None = None
        self.ready = False
        self._devices: Devices | None = None
        self._changed = threading.Condition()
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._told: list[Told] = []  # of the latest run, not told yet
        self._counts = collections.Counter()
        self._compiled = 0  # programs when it was ready
        self._is_closed = False  # takes no more requests
        self._is_stopping = False
        self._is_settled = False  # nothing runs and nothing waits
        self._token_seconds = 0.0  # of one token of all slots
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._cutter = concurrent.futures.ThreadPoolExecutor(1, "tiles")

    # ---------------------------------------------------------------------------------------------
    # for any thread

    @property
    def max_model_len(self) -> int:
        """Tokens of a prompt and its answer."""
        return self.settings.max_prompt_tokens + self.settings.max_tokens

    def thinks_first(self, thinking: bool) -> bool:
        """Returns whether an answer begins inside a thought, which only </think> ends."""
        return "<think>" in self.encoder.tokenizers[thinking].chat.opening

    def token_text(self, token: int) -> str:
        """Returns the text of one token alone."""
        return self.encoder.pieces.text(token)

    def start(self) -> None:
        """Starts to read the weights and to compile; then `ready`, or else `failed`."""
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Waits until the engine is ready; raises what has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self.ready or self.failed)
        if self.failed:
            raise self.failed

    def prepare(self, request: Request) -> Prepared:
        """Encodes a request, on the host alone. BadRequest if it cannot be answered."""
        return self.encoder.prepare(request)

    def submit(self, prepared: Prepared, listener: Listener) -> Ticket:
        """Takes a request; its chunks are told to `listener` from the engine's thread.

        QueueFull if too many wait, EngineStopped if no more are taken.
        """
        with self._changed:
            if self.failed or self._is_closed:
                raise EngineStopped(
                    "the engine takes no more requests: "
                    + (f"it failed with {self.failed!r}" if self.failed else "it ends")
                )
            if len(self._waiting) >= self.settings.queue:
                raise QueueFull(
                    f"{len(self._waiting)} requests wait already; ask again later"
                )
            ticket = Ticket(prepared, listener, self._cancelled)
            self._waiting.append(ticket)
            self._counts["requests"] += 1
            self._is_settled = False
            self._changed.notify_all()
        return ticket

    def numbers(self) -> EngineNumbers:
        """Returns what the engine does and has done."""
        with self._changed:
            waiting = sum(t.to_begin for t in self._waiting if not t.done)
            running = self._slots.running() if self._devices else 0
            counts = dict(self._counts)
        names = (
            "requests finished cancelled failed prompt_tokens generated_tokens "
            "prompts_read runs"
        ).split()
        return EngineNumbers(
            slots=self.sizes.slots,
            running=running,
            waiting=waiting,
            compilations=compiled_so_far() - self._compiled if self.ready else 0,
            **{name: counts.get(name, 0) for name in names},
        )

    def drain(self, seconds: float) -> bool:
        """Takes no more requests, and waits for those there are; returns whether all have ended."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: self._is_settled or self.failed is not None, seconds
            ) and (self.failed is None)

    def stop(self) -> None:
        """Ends the engine's thread; requests that have not ended are told EngineStopped."""
        with self._changed:
            self._is_closed = True
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._cutter.shutdown(cancel_futures=True)

    def follow(self) -> None:
        """Works as a process other than the first: does what that one does, until it stops."""
        with self._on_mesh():
            self._open()
            self._devices.follow()

    def _cancelled(self) -> None:
        """Is called when a request is cancelled, from any thread."""
        with self._changed:
            self._counts["cancelled"] += 1
            self._changed.notify_all()

    # ---------------------------------------------------------------------------------------------
    # the engine's thread

    def _on_mesh(self):
        """Returns the context of the mesh that was current when the engine was made."""
        if self.mesh.empty:
            return contextlib.nullcontext()
        return jax.set_mesh(self.mesh)

    def _open(self) -> None:
        """Reads the weights, and compiles every program."""
        model = self.source.load(int8=self.settings.int8)
        self._slots = SlotTable(
            self.sizes.slots,
            self.sizes.rows,
            model.compute.rules.shards("batch"),
        )
        self._devices = Devices(
            model,
            self.sizes,
            banned=self.tokenizer.banned_token_ids,
            think_end=self.encoder.think_end,
        )
        self._devices.warm_up()

    def _work(self) -> None:
        """Runs in the engine's thread, from its start to its end."""
        try:
            with self._on_mesh():
                self._open()
                with self._changed:
                    self._compiled = compiled_so_far()
                    self.ready = True
                    self._is_settled = not self._waiting
                    self._changed.notify_all()
                while self._wait_for_work():
                    self._turn()
                self._devices.stop()
            error = EngineStopped("the engine was stopped before this was answered")
        except Exception as failure:
            # Before that `wait_until_ready` raises it.
            if self.ready:
                logging.error("the engine failed: %s", traceback.format_exc())
            error = failure
            with self._changed:
                self.failed = failure
                self.ready = False
        self._end_all(error)

    def _wait_for_work(self) -> bool:
        """Waits until there is something to do; False if the engine is to end."""
        while True:
            with self._changed:
                is_settled = (
                    not self._waiting
                    and not self._told
                    and not any(self._slots.samples)
                )
                if is_settled and not self._is_settled:
                    self._is_settled = True
                    self._changed.notify_all()
                if self._is_stopping:
                    return False
                if not is_settled:
                    return True
                self._changed.wait(IDLE_SECONDS)
                is_idle = not self._waiting and not self._is_stopping
            if is_idle:
                self._devices.nothing()

    def _turn(self) -> None:
        """Frees, reads and fills; starts a run; tells the run before; waits for this one."""
        self._fill_slots()
        running = None
        if any(self._slots.samples):
            started = time.monotonic()
            running = self._devices.run(*self._length_of_run())
            self._counts["runs"] += 1
        told = self._told
        self._told = []
        for part in told:
            self._tell(part)
        if running is not None:
            sampled = to_host(running)
            self._measure(int(sampled.steps), time.monotonic() - started)
            self._told = self._take(sampled)

    def _length_of_run(self) -> tuple[int, bool]:
        """Returns how many tokens the next run may sample, and whether a free slot ends it."""
        with self._changed:
            is_waiting = bool(self._waiting)
        # Slots are free for requests whose prompts are read one by one: only one token between.
        if is_waiting and self._slots.free():
            return 1, True
        if not self._token_seconds:
            return 1, is_waiting
        tokens = int(RUN_SECONDS / self._token_seconds)
        return min(max(tokens, 1), RUN_TOKENS), is_waiting

    def _measure(self, steps: int, seconds: float) -> None:
        """Notes how long a token takes; the shortest of late, as a busy host only adds to it."""
        if steps:
            measured = seconds / steps
            slowly = self._token_seconds * 1.05
            self._token_seconds = min(measured, slowly) if slowly else measured

    # ---------------------------------------------------------------------------------------------
    # slots

    def _fill_slots(self) -> None:
        """Frees the slots of what has ended, reads one prompt at most, and lets samples begin."""
        change = no_change(self.sizes.slots)
        for slot in self._slots.take_done():
            change.freed[slot] = True
        has_read = False
        while True:
            ticket = self._next_ticket()
            free = self._slots.free()
            if ticket is None or not free:
                break
            if ticket.rows is None:
                if has_read or not self._read(ticket):
                    break
                has_read = True
            if not ticket.done:
                self._begin(ticket, free, change)
        if change.taken.any() or change.freed.any():
            self._devices.admit(change)

    def _next_ticket(self) -> Ticket | None:
        """Returns the first request that waits; has the tiles of the next ones cut."""
        with self._changed:
            for ticket in [ticket for ticket in self._waiting if ticket.done]:
                self._waiting.remove(ticket)
            ahead = list(self._waiting)[:CUT_AHEAD]
        for ticket in ahead:
            if ticket.pixels is None and ticket.rows is None:
                ticket.pixels = self._cutter.submit(cut_tiles, ticket.prepared)
        return ahead[0] if ahead else None

    def _read(self, ticket: Ticket) -> bool:
        """Reads the prompt of a request; False if its tiles are still being cut."""
        # While others run they do not wait for tiles.
        if any(self._slots.samples) and not ticket.pixels.done():
            return False
        try:
            tiles = ticket.pixels.result()
        except Exception as error:  # an image that could be decoded before
            self._fail(ticket, error)
            return True
        ticket.pixels = None
        rows = self._slots.new_rows()
        self._devices.read(ticket.prepared.tokens, tiles, rows)
        ticket.rows = rows
        with self._changed:
            self._counts["prompts_read"] += 1
            self._counts["prompt_tokens"] += ticket.prepared.prompt_tokens
        return True

    def _begin(self, ticket: Ticket, free: list[int], change) -> None:
        """Lets samples of a request that was read begin in free slots."""
        numbers = slot_numbers(ticket.prepared)
        for slot in free[: ticket.to_begin]:
            self._slots.samples[slot] = Sample(
                ticket, ticket.begun, self.encoder.pieces
            )
            change.taken[slot] = True
            change.rows[slot] = ticket.rows[self._slots.group(slot)]
            change.samples[slot] = ticket.begun
            for name, value in numbers.items():
                getattr(change, name)[slot] = value
            ticket.begun += 1
        if not ticket.to_begin:
            with self._changed:
                self._waiting.remove(ticket)

    # ---------------------------------------------------------------------------------------------
    # what was sampled

    def _take(self, sampled: Sampled) -> list[Told]:
        """Cuts what a run has sampled into samples, and frees the slots of those that ended."""
        told = []
        for slot, sample in enumerate(self._slots.samples):
            if sample is None or sample.done:
                continue
            count = int(sampled.counts[slot])
            logprobs = sampled.logprobs[slot, :count]
            if not np.all(np.isfinite(logprobs)):
                self._fail(
                    sample.ticket,
                    FloatingPointError(
                        "the model computed a number that is not finite for this request"
                    ),
                )
                self._devices.wipe()
                continue
            part = self._told_of(sample, slot, count, sampled)
            told.append(part)
            if sampled.idle[slot]:
                # On the devices it is free already.
                self._slots.samples[slot] = None
        return told

    def _told_of(self, sample: Sample, slot: int, count: int, sampled: Sampled) -> Told:
        settings = sample.ticket.prepared.request.settings
        ids = sampled.tokens[slot, :count].tolist()
        reason = None
        hidden = 0
        if sampled.idle[slot]:
            reason = "stop" if sampled.ended[slot] else "length"
            hidden = int(sampled.ended[slot])
        # A token that ends this answer alone is found here, so its slot samples on for one run.
        for place, token in enumerate(ids):
            if token in settings.stop_token_ids:
                count = place + 1
                ids = ids[:count]
                reason = "stop"
                hidden = 1
                break
        wanted = settings.top_logprobs
        tops = [()] * count
        if wanted:
            top_ids = sampled.top_ids[slot, :count, :wanted].tolist()
            top_logprobs = sampled.top_logprobs[slot, :count, :wanted].tolist()
            tops = [
                tuple(zip(i, p, strict=True))
                for i, p in zip(top_ids, top_logprobs, strict=True)
            ]
        logprobs = sampled.logprobs[slot, :count].tolist()
        return Told(sample, ids, logprobs, tops, reason, hidden)

    def _tell(self, told: Told) -> None:
        """Makes text of tokens, and tells it."""
        sample = told.sample
        if sample.done:
            return
        count = len(told.ids)
        reason = told.finish_reason
        visible = told.ids[: count - told.hidden]
        if sample.stops.stop:
            text, used = self._add_one_by_one(sample, visible)
            if used is not None:
                count = used
                reason = "stop"
            elif reason:
                rest, is_stopped = sample.stops.add(sample.text.end())
                text += rest if is_stopped else rest + sample.stops.end()
                reason = "stop" if is_stopped else reason
        else:
            text = sample.text.add(visible)
            if reason:
                text += sample.text.end()
        pieces = self.encoder.pieces
        tokens = [
            Token(i, pieces.text(i), p, top)
            for i, p, top in zip(told.ids, told.logprobs, told.tops, strict=True)
        ]
        with self._changed:
            self._counts["generated_tokens"] += count
            if reason:
                sample.ended = True
        if count or reason:
            chunk = Chunk(sample.number, text, tuple(tokens[:count]), reason)
            self._call_listener(sample.ticket, chunk)
        if reason:
            self._end_sample(sample.ticket)

    def _add_one_by_one(self, sample: Sample, ids: list[int]) -> tuple[str, int | None]:
        """Returns the text of the next tokens, and how many of them it took to a stop string.

        None if there is none. One by one, so that where an answer stops is no matter of the runs.
        """
        texts = []
        for place, token in enumerate(ids):
            text, is_stopped = sample.stops.add(sample.text.add([token]))
            texts.append(text)
            if is_stopped:
                return "".join(texts), place + 1
        return "".join(texts), None

    # ---------------------------------------------------------------------------------------------
    # ends

    def _end_sample(self, ticket: Ticket) -> None:
        with self._changed:
            ticket.left -= 1
            if ticket.left == 0 and not ticket.cancelled:
                self._counts["finished"] += 1

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        """Ends one request with an error."""
        if ticket.done:
            return
        self._call_listener(ticket, error)
        with self._changed:
            ticket.left = 0
            self._counts["failed"] += 1

    def _call_listener(self, ticket: Ticket, event: Chunk | Exception) -> None:
        """Tells a listener; one that fails is not told more, and nobody else is disturbed."""
        try:
            ticket.listener(event)
        except Exception:
            logging.error("a listener failed: %s", traceback.format_exc())
            ticket.cancelled = True

    def _end_all(self, error: Exception) -> None:
        """Tells all requests that have not ended that they never will."""
        with self._changed:
            tickets = list(self._waiting)
            self._waiting.clear()
            self._is_closed = True
        if self._devices:
            tickets += [x.ticket for x in self._slots.samples if x is not None]
        tickets += [told.sample.ticket for told in self._told]
        for ticket in dict.fromkeys(tickets):
            self._fail(ticket, error)
        with self._changed:
            self._told = []
            if self._devices:
                self._slots.take_done()
            self._is_settled = True
            self._changed.notify_all()


def cut_tiles(prepared: Prepared) -> np.ndarray | None:
    """Returns the tiles of a request, float32[I, S, S, 3]; None without images."""
    tiles = prepared.tiles
    if tiles is None:
        return None
    pixels = np.empty((len(tiles), tiles.size, tiles.size, 3), np.float32)
    tiles.cut(pixels)
    return pixels
