"""Estimates how long a compiled TPU program takes, from its HLO text: no TPU is needed.

    estimate(compiled.as_text(), chip=CHIPS["v5p"], coords=[d.coords for d in mesh.devices.flat])

Reads the optimised, scheduled HLO of one device and walks through it in the order of its schedule,
with one clock for the cores and one for everything that runs beside them (links, copies). The cores
wait for whatever is not ready when it is needed: that time is exposed. Knows HLO and chips; nothing
of models, meshes or jax.

The method was calibrated on v5p against three published training speeds (MaxText's 32B and
Llama2-70B recipes; errors +4%, -1%, +2%), and decoding, with machine code, against published steps
of v6e and v5e (`published.py`). Without machine code everything runs at 85% of peak: for decoding
that is optimistic. Left out: the host and its input, stragglers, and on several slices whatever
else uses the network between them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from r1v3_jax.tpu import hlo, splash
from r1v3_jax.tpu.chips import (
    HOST_RATE,
    OP_SECONDS,
    SMALL_BYTES,
    SMALL_OP_SECONDS,
    Chip,
)
from r1v3_jax.tpu.hlo import Op, Ops
from r1v3_jax.tpu.torus import COLLECTIVES, Coords, Torus, Transfer, rendezvous
from r1v3_jax.tpu.work import Module

# Ops that take no time: they name or order what exists already.
FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
    "recv",
}
# Where the time goes: matmuls; splash attention; other Pallas kernels; other ops, and waiting for
# copies; waiting for collectives.
PARTS = ("matmul", "attention", "kernels", "elementwise", "collectives")


# --- what comes out ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind, as one chip sees them."""

    count: float
    bytes: float  # that a chip sends
    seconds: float
    exposed: float  # seconds in which the cores wait for them; all of a blocking one


@dataclass(frozen=True)
class Copy:
    """A copy from the chip's memory to itself: a change of layout, or of place only."""

    name: str
    shape: str
    bytes: float
    count: float  # how often the program makes it


@dataclass(frozen=True)
class Estimate:
    """The time of one run of a program, and what it is spent on."""

    seconds: float
    parts: dict[str, float]  # each of PARTS -> its seconds; they add up to `seconds`
    flops: float  # of a chip: matmuls and kernels, loop bodies times their trips
    hbm_bytes: float  # read and written by a chip
    collectives: dict[str, Collective]  # by kind
    bound: str  # what limits most of it: "matrix units", "memory", "interconnect"
    copies: tuple[Copy, ...]  # the ten largest
    # One trip of the longest loop that ends on data (one decoded token); 0 if there is none.
    dynamic_loop_seconds: float
    cache_rate: float  # bytes/s at which kernels read keys and values


def estimate(
    text: str,
    *,
    chip: Chip,
    coords: Sequence[Coords],
    slices: Sequence[int] = (),
    dynamic_trips: int = 1,
) -> Estimate:
    """Estimates the time of one run of an optimised, scheduled program on `chip`.

    `coords` are the torus coordinates of each partition, in order; `slices` the slice of each, if
    there are several. A loop that ends on data, not on a count, is assumed to make `dynamic_trips`
    trips. A loop around such a loop, which interrupts it now and then to refill decode slots, is
    assumed to make one.
    """
    module = Module(text)
    torus = Torus(chip, coords, slices)
    # Without machine code the compiler has written down no cycles.
    is_full = '"estimated_cycles"' in text
    simulation = Simulation(module, torus, dynamic_trips, is_full=is_full)
    cost = simulation.cost(module.entry)
    return Estimate(
        seconds=cost.seconds,
        parts={part: cost.parts[part] for part in PARTS},
        flops=cost.work["flops"],
        hbm_bytes=cost.work["bytes"],
        collectives=cost.collectives(),
        bound=max(cost.bounds, key=cost.bounds.get, default="memory"),
        copies=cost.largest_copies(10),
        dynamic_loop_seconds=simulation.dynamic_loop_seconds,
        cache_rate=simulation.cache_rate,
    )


# --- adding up -----------------------------------------------------------------------------------


@dataclass
class Cost:
    """Time and work of a computation so far. Its seconds are the clock of the cores."""

    parts: Counter = field(default_factory=Counter)  # part -> seconds
    bounds: Counter = field(default_factory=Counter)  # what limits them -> seconds
    # "flops"; "bytes"; "busy", the seconds in which the memory is in use.
    work: Counter = field(default_factory=Counter)
    traffic: Counter = field(default_factory=Counter)  # (kind, field of Collective)
    copies: Counter = field(default_factory=Counter)  # (name, shape, bytes) -> count

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    def spend(self, part: str, seconds: float, bound: str) -> None:
        """Moves the clock of the cores on."""
        self.parts[part] += seconds
        self.bounds[bound] += seconds

    def count(self, transfer: Transfer) -> None:
        """Counts a collective, whether or not the cores wait for it."""
        self.traffic[transfer.kind, "count"] += 1
        self.traffic[transfer.kind, "bytes"] += transfer.bytes
        self.traffic[transfer.kind, "seconds"] += transfer.seconds

    def expose(self, kind: str, seconds: float) -> None:
        """Lets the cores wait for a kind of collective, or for a "copy"."""
        if kind == "copy":
            self.spend("elementwise", seconds, "memory")
        else:
            self.traffic[kind, "exposed"] += seconds
            self.spend("collectives", seconds, "interconnect")

    def add(self, cost: "Cost", times: float = 1) -> None:
        """Adds a computation that runs `times` times."""
        for name in ("parts", "bounds", "work", "traffic", "copies"):
            total = getattr(self, name)
            amounts = getattr(cost, name)
            for key, amount in amounts.items():
                total[key] += amount * times

    def collectives(self) -> dict[str, Collective]:
        """Returns the traffic by kind."""
        kinds = {kind for kind, _ in self.traffic}
        collectives = {}
        for kind in sorted(kinds):
            collectives[kind] = Collective(
                count=self.traffic[kind, "count"],
                bytes=self.traffic[kind, "bytes"],
                seconds=self.traffic[kind, "seconds"],
                exposed=self.traffic[kind, "exposed"],
            )
        return collectives

    def largest_copies(self, count: int) -> tuple[Copy, ...]:
        """Returns the copies that move most, without regard to how often they are made."""
        by_size = sorted(self.copies, key=lambda copy: -copy[2])
        copies = []
        for name, shape, size in by_size[:count]:
            times = self.copies[name, shape, size]
            copies.append(Copy(name=name, shape=shape, bytes=size, count=times))
        return tuple(copies)


# --- walking through the program -----------------------------------------------------------------


class Simulation:
    """Runs a program op by op, without computing anything, and adds up the time."""

    def __init__(
        self, module: Module, torus: Torus, dynamic_trips: int, *, is_full: bool
    ):
        self.module = module
        self.torus = torus
        self.chip = torus.chip
        self.is_full = is_full  # with machine code
        self.cache_rate = self.chip.reached_hbm
        if is_full:
            self.cache_rate = self.chip.attended_hbm
        self.dynamic_trips = dynamic_trips
        self.dynamic_loop_seconds = 0.0
        self.costs = {}  # name of a computation -> its cost

    def cost(self, name: str) -> Cost:
        """Returns the cost of one run of a computation."""
        if name not in self.costs:
            ops = self.module.computations[name]
            self.costs[name] = self.walk(ops)
        return self.costs[name]

    def walk(self, ops: Ops) -> Cost:
        """Runs the ops of a computation in the order of the schedule."""
        cost = Cost()
        in_flight = {}  # op that started a transfer -> (kind, time of arrival)
        free_from = defaultdict(float)  # channel -> time from which it is free
        for op in ops.values():
            if op.opcode in FREE:
                continue
            if hlo.starts_later(op):
                continue
            if transfer := self.start(op, ops, cost):
                channel = transfer.channel
                departure = max(cost.seconds, free_from[channel])
                arrival = departure + transfer.seconds
                free_from[channel] = arrival
                name = rendezvous(op) or op.name
                in_flight[name] = transfer.kind, arrival
            elif self.is_end(op):
                starter = hlo.starter(op, ops, in_flight)
                if op.opcode == "recv-done":  # what a send has started
                    starter = rendezvous(hlo.operand(op, 0, ops))
                kind, arrival = in_flight.pop(starter, ("copy", 0.0))
                wait = arrival - cost.seconds
                cost.expose(kind, max(0.0, wait))
            else:
                self.run(op, ops, cost)
        # Copies that run beside the ops share the memory with them: together they take at least as
        # long as the memory is in use.
        hidden = cost.work["busy"] - cost.seconds
        cost.expose("copy", max(0.0, hidden))
        return cost

    def run(self, op: Op, ops: Ops, cost: Cost) -> None:
        """Runs an op that the cores do or wait for."""
        if op.opcode == "while":
            self.loop(op, ops, cost)
        elif op.opcode == "conditional":  # the costliest branch counts
            costs = map(self.cost, hlo.branches(op))
            cost.add(max(costs, key=lambda branch: branch.seconds))
        elif op.opcode == "call":
            cost.add(self.cost(op.called("to_apply")))
        elif op.opcode == "custom-call":
            self.custom_call(op, ops, cost)
        elif op.kind in COLLECTIVES:
            self.block(op, cost)
        else:
            self.compute(op, ops, cost)

    def start(self, op: Op, ops: Ops, cost: Cost) -> Transfer | None:
        """Returns the transfer that `op` starts, if it starts one."""
        is_start = op.opcode.endswith("-start") or op.opcode == "async-update"
        collective = op if is_start and op.kind in COLLECTIVES else None
        is_async = op.opcode in ("async-start", "async-update")
        if is_async or self.module.calls_target(op, "AsyncCollectiveStart"):
            caller = hlo.async_start(op, ops) if is_async else op
            collective = next(iter(self.module.collectives(caller)), None)
        if op.opcode == "send":
            transfer = self.torus.exchange(op)
            cost.count(transfer)
            return transfer
        if collective:
            transfer = self.torus.collective(collective)
            cost.count(transfer)
            return transfer
        return self.start_copy(op, cost) if is_start else None

    def start_copy(self, op: Op, cost: Cost) -> Transfer:
        """Starts a copy, or a slice of an array, into or out of the chip's memory."""
        # Its shape holds source and result, and a flag of 4 bytes. The smaller one is what moves.
        parts = hlo.arrays(op.shape)
        arrays = [array for array in parts if hlo.bytes_of(array) > 4]
        moved = min(map(hlo.bytes_of, arrays), default=0.0)
        ends_in_hbm = sum(map(hlo.in_hbm, arrays[:2]))
        if op.opcode == "copy-start" and ends_in_hbm == 2:
            cost.copies[op.name, arrays[0], moved] += 1
        touched = moved * ends_in_hbm
        busy = touched / self.chip.reached_hbm
        cost.work.update(bytes=touched, busy=busy)
        if "S(5)" in op.shape:  # one end is on the host
            return Transfer("copy", "host", moved, moved / HOST_RATE)
        return Transfer("copy", "memory", moved, moved / self.chip.reached_hbm)

    def is_end(self, op: Op) -> bool:
        """Tells whether `op` waits for a transfer."""
        is_done = op.opcode.endswith("-done")
        return is_done or self.module.calls_target(op, "AsyncCollectiveDone")

    def loop(self, op: Op, ops: Ops, cost: Cost) -> None:
        """Runs a while loop: one trip is simulated and multiplied."""
        body = op.called("body")
        trip = Cost()
        trip.add(self.cost(body))
        # The condition has an all-reduce in it, if the loop ends when all rows have ended.
        trip.add(self.cost(op.called("condition")))
        trips = self.module.trips(op, ops)
        if trips is None and self._has_dynamic_loop(body):
            trips = 1
        elif trips is None:
            trips = self.dynamic_trips
            self.dynamic_loop_seconds = max(self.dynamic_loop_seconds, trip.seconds)
        cost.add(trip, trips)

    def _has_dynamic_loop(self, name: str) -> bool:
        """Tells whether a computation has a loop in it that ends on data."""
        ops = self.module.computations[name]
        loops = [op for op in ops.values() if op.opcode == "while"]
        return any(self.module.trips(loop, ops) is None for loop in loops)

    def block(
        self, op: Op, cost: Cost, *, scattered: bool = False, overlap: float = 0.0
    ) -> None:
        """Runs a collective that the cores wait for, except for `overlap` seconds of other work.

        scattered: every chip keeps only its shard of the result; such an all-reduce is a
        reduce-scatter.
        """
        transfer = self.torus.collective(op)
        if scattered and transfer.kind == "all-reduce":
            transfer = Transfer(
                "reduce-scatter",
                transfer.channel,
                transfer.bytes / 2,
                transfer.seconds / 2,
            )
        cost.count(transfer)
        wait = transfer.seconds - overlap
        cost.expose(transfer.kind, max(0.0, wait))

    # --- the cores

    def compute(self, op: Op, ops: Ops, cost: Cost) -> None:
        """Runs a fusion or a single op, with the collectives in it."""
        name = op.called() or ""
        # A collective that runs behind several matmuls is in each of their fusions. It was counted
        # when it started.
        is_step = name.startswith("async_collective")
        collectives = [] if is_step else self.module.collectives(op)
        flops = self.module.flops(op, ops)
        if flops:
            seconds = self._matmul(op, ops, flops, cost)
            for collective in collectives:
                self.block(collective, cost, overlap=seconds)
        elif collectives:
            for collective in collectives:
                self.block(collective, cost, scattered="reduce-scatter" in name)
        else:
            self._elementwise(op, ops, cost)

    def _matmul(self, op: Op, ops: Ops, flops: float, cost: Cost) -> float:
        """Runs a matmul and returns its seconds."""
        moved = self.module.traffic(op, ops)
        memory_seconds = moved / self.chip.reached_hbm
        matrix_seconds = flops / self.chip.reached_flops
        is_memory_bound = memory_seconds > matrix_seconds
        if op.cycles is None:
            seconds = max(memory_seconds, matrix_seconds)
        elif memory_seconds < 2 * matrix_seconds:  # the compiler knows best
            seconds = op.cycles / self.chip.clock
        elif self.module.is_batched(op):  # attention to keys and values
            seconds = moved / self.chip.attended_hbm
        else:
            # A few rows times a matrix. The compiler's cycles are 64% of peak bytes/s on a v5e,
            # where 86% and more were measured, and 74% on a v6e, where it was less.
            seconds = moved / self.chip.streamed_hbm
        busy = min(memory_seconds, seconds)
        cost.work.update(flops=flops, bytes=moved, busy=busy)
        cost.spend("matmul", seconds, "memory" if is_memory_bound else "matrix units")
        return seconds

    def _elementwise(self, op: Op, ops: Ops, cost: Cost) -> None:
        """Runs an op without matmuls: it takes as long as its bytes."""
        moved = self.module.traffic(op, ops)
        memory_seconds = moved / self.chip.reached_hbm
        if op.cycles is None:
            seconds = memory_seconds
        else:
            # `estimated_cycles` are pessimistic here: where they say 460,000 for the sum of squares
            # of a norm, its low-level program has 37,000 and its bytes take 106,000.
            compiled_seconds = op.cycles / self.chip.clock
            seconds = min(
                compiled_seconds, max(memory_seconds, 0.12 * compiled_seconds)
            )
        cost.work.update(bytes=moved, busy=min(memory_seconds, seconds))
        # Scalars are computed beside everything else.
        is_scalar = op.cycles is None and moved < 1024
        overhead = 0 if is_scalar else OP_SECONDS
        if self.is_full and moved < SMALL_BYTES:
            overhead = min(overhead, SMALL_OP_SECONDS)
        cost.spend("elementwise", seconds + overhead, "memory")
        if op.opcode == "copy":
            size = hlo.bytes_of(op.shape)
            cost.copies[op.name, op.shape, size] += 1

    # --- kernels

    def custom_call(self, op: Op, ops: Ops, cost: Cost) -> None:
        """Runs a Pallas kernel, or something of the compiler's own."""
        if '"tpu_custom_call"' not in op.text:  # an allocation, a top-k
            seconds = (op.cycles or 0) / self.chip.clock
            cost.spend("elementwise", seconds, "memory")
        elif splash.kernel_of(op):
            seconds, flops = splash.cost(op, ops, self.chip)
            moved = self.module.traffic(op, ops)
            cost.work.update(flops=flops, bytes=moved)
            cost.spend("attention", seconds, "matrix units")
        else:
            self._pallas(op, ops, cost)

    def _pallas(self, op: Op, ops: Ops, cost: Cost) -> None:
        """Runs a Pallas kernel by its own cost estimate."""
        # A kernel reads only what it needs of its operands: one layer of a cache, or the slots in
        # use. Only the kernel can say how much that is, by pl.CostEstimate. Without one it is
        # assumed to read all of them.
        stated = dict(re.findall(r'"(flops|bytes_accessed)":"?(\d+)', op.text))
        flops = float(stated.get("flops", 0))
        if stated:
            moved = float(stated["bytes_accessed"])
        else:
            moved = self.module.traffic(op, ops)
        memory_seconds = moved / self.cache_rate
        matrix_seconds = flops / self.chip.reached_flops
        cost.work.update(flops=flops, bytes=moved, busy=memory_seconds)
        seconds = max(memory_seconds, matrix_seconds) + OP_SECONDS
        is_memory_bound = memory_seconds > matrix_seconds
        cost.spend("kernels", seconds, "memory" if is_memory_bound else "matrix units")
