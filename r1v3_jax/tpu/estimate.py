"""How long a compiled TPU program takes, estimated from its HLO text: no TPU is needed.

    estimate(compiled.as_text(), chip=CHIPS["v5p"], coords=[d.coords for d in mesh.devices.flat])

Reads the optimised, scheduled HLO of one device and walks it in the order of its schedule, with one
clock for the cores and one for each thing that runs beside them (links, copies): what is not ready
when it is needed is exposed. Knows HLO and chips; nothing of models, meshes or jax.

The method was calibrated on v5p against three published training speeds (MaxText's 32B and
Llama2-70B recipes; errors +4%, -1%, +2%). No decoding step and no other chip was ever compared with
a measurement: take those to be right within a factor of two. Left out: the host and its input, the
network between slices, stragglers.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from r1v3_jax.tpu import hlo


@dataclass(frozen=True)
class Chip:
    """One chip: peaks as published, all rates per second."""

    name: str
    flops: float  # of bfloat16, at peak
    clock: float  # Hz, of the compiler's `estimated_cycles`
    cores: int  # that share its memory and, mostly, its work
    hbm: float  # bytes
    hbm_gib: float  # that a program may use, as the compiler reports it
    link: float  # bytes, one way, of one link to a neighbour
    axes: int  # of the torus that the links form

    def rings(self, dims: Sequence[int]) -> list[bool]:
        """Which axes of a slice close to a ring: in three dimensions those of whole 4x4x4 cubes,
        in two those of 16 (scaling-book, tpus.md).
        """
        cubes = all(size % 4 == 0 for size in dims)
        return [cubes if self.axes == 3 else size == 16 for size in dims]


# FLOP/s and bytes/s: cloud.google.com/tpu/docs. Links: 90% of the nominal 100, 50, 100 GB/s of the
# scaling-book. Clock: what makes the peak out of the matrix units (v5p: 2 x 4 of 128 x 128). Usable
# memory: what the compiler refuses to exceed. Only the figures of v5p were calibrated, see above.
CHIPS = {
    "v5p": Chip("v5p", 459e12, 1.75e9, 2, 2765e9, 95.74, 90e9, axes=3),
    "v5e": Chip("v5e", 197e12, 1.50e9, 1, 819e9, 15.75, 45e9, axes=2),
    "v6e": Chip("v6e", 918e12, 1.75e9, 1, 1640e9, 31.25, 90e9, axes=2),
}

REACHED = 0.85  # of peak FLOP/s and of peak bytes/s; the former was read off the 32B recipe (84.7%)
OP = 1e-6  # s to start and finish an op
HOP = 1e-6  # s from a chip to the next
HOST = 16e9  # bytes/s between a chip and its host, nominal (scaling-book)

# Splash attention, from the bundles of jax's kernels in the compiler's low-level program (LLO) for
# v5p: cycles a 512 x 512 tile (with 5% for waiting), a step of the grid, a row of 512 queries;
# then the FLOPs, of which the forward pass has 1. The whole is taken to run at 90% of that.
SPLASH = {
    "fwd": (1216, 450, 700, 1.0),
    "dq": (1613, 163, 215, 1.5),
    "dkv": (2150, 332, 380, 2.0),
}
SPLASH_REACHED = 0.9

COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
}
FREE = set(  # names of what is there already
    "parameter constant get-tuple-element tuple bitcast after-all partition-id replica-id "
    "opt-barrier add-dependency async-update".split()
)
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
    seconds: float
    # Of these seconds, and adding up to them: matmul, attention (splash kernels), kernels (other
    # Pallas kernels), elementwise (and copies), collectives (what is exposed of them).
    parts: dict[str, float]
    flops: float  # of a chip: matmuls and kernels, loop bodies times their trips
    hbm_bytes: float  # read and written by a chip
    collectives: dict[str, Collective]  # by kind
    bound: (
        str  # what most of the time goes to: "matrix units", "memory", "interconnect"
    )
    copies: tuple[Copy, ...]  # the ten largest
    # One trip of the longest loop that ends on data (one decoded token); 0 if there is none.
    dynamic_loop_seconds: float


def estimate(
    text: str, *, chip: Chip, coords: Sequence[tuple[int, ...]], dynamic_trips: int = 1
) -> Estimate:
    """The time of one run of an optimised, scheduled program on `chip`.

    `coords` are the torus coordinates of each partition, in order. A loop that ends on data, not on
    a count, is taken to make `dynamic_trips` trips; one around such a loop, which stops it now and
    then to refill decode slots, a single one.
    """
    program = _Program(text, chip, coords, dynamic_trips)
    cost = program.cost(program.entry)
    fields = ("count", "bytes", "seconds", "exposed")
    kinds = sorted({kind for kind, _ in cost.traffic})
    copies = sorted(cost.copies, key=lambda copy: -copy[2])[:10]
    return Estimate(
        seconds=cost.seconds,
        parts={part: cost.parts[part] for part in PARTS},
        flops=cost.work["flops"],
        hbm_bytes=cost.work["bytes"],
        collectives={
            k: Collective(*(cost.traffic[k, name] for name in fields)) for k in kinds
        },
        bound=max(cost.bounds, key=cost.bounds.get, default="memory"),
        copies=tuple(Copy(*copy, cost.copies[copy]) for copy in copies),
        dynamic_loop_seconds=program.dynamic_loop_seconds,
    )


@dataclass
class _Cost:
    """Time and work of a computation, additive."""

    parts: Counter = field(default_factory=Counter)  # part -> seconds
    bounds: Counter = field(default_factory=Counter)  # what limits them -> seconds
    work: Counter = field(
        default_factory=Counter
    )  # "flops", "bytes", "busy": memory's seconds
    traffic: Counter = field(
        default_factory=Counter
    )  # (kind, field of Collective) -> amount
    copies: Counter = field(default_factory=Counter)  # (name, shape, bytes) -> count

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    def spend(self, part: str, seconds: float, bound: str) -> None:
        self.parts[part] += seconds
        self.bounds[bound] += seconds

    def transfer(self, kind: str, moved: float, seconds: float) -> None:
        self.traffic.update(
            {(kind, "count"): 1, (kind, "bytes"): moved, (kind, "seconds"): seconds}
        )

    def expose(self, kind: str, seconds: float) -> None:
        """Waits for a transfer: of this kind of collective, or a "copy"."""
        if kind == "copy":
            self.spend("elementwise", seconds, "memory")
        else:
            self.traffic[kind, "exposed"] += seconds
            self.spend("collectives", seconds, "interconnect")

    def add(self, other: "_Cost", times: float = 1) -> None:
        for name in ("parts", "bounds", "work", "traffic", "copies"):
            for key, amount in getattr(other, name).items():
                getattr(self, name)[key] += amount * times


# --- the program ---------------------------------------------------------------------------------


class _Program:
    def __init__(self, text: str, chip: Chip, coords, dynamic_trips: int):
        self.computations, self.entry = hlo.parse(text)
        self.chip, self.dynamic_trips = chip, dynamic_trips
        self.coords = [tuple(c) + (0,) * (3 - len(c)) for c in coords]
        self.dims = [max(axis) + 1 for axis in zip(*self.coords, strict=True)]
        self.rings = chip.rings(self.dims)
        self.memory, self.matrix = REACHED * chip.hbm, REACHED * chip.flops
        self.dynamic_loop_seconds = 0.0
        self.costs = {}

    def cost(self, name: str) -> _Cost:
        """Of one run of a computation."""
        if name not in self.costs:
            self.costs[name] = self.walk(self.computations[name])
        return self.costs[name]

    def walk(self, ops: hlo.Ops) -> _Cost:
        cost = _Cost()
        flying = {}  # op that started it -> (kind, time of arrival)
        free = defaultdict(float)  # channel -> time from which it is free
        for op in ops.values():
            if op.opcode in FREE:
                continue
            elif launch := self.launch(op, cost):
                kind, channel, seconds = launch
                free[channel] = max(cost.seconds, free[channel]) + seconds
                flying[op.name] = kind, free[channel]
            elif op.opcode.endswith("-done") or self.holds(op, "AsyncCollectiveDone"):
                kind, arrival = flying.pop(hlo.starter(op, ops, flying), ("copy", 0.0))
                cost.expose(kind, max(0.0, arrival - cost.seconds))
            elif op.opcode == "while":
                self.loop(op, ops, cost)
            elif op.opcode == "conditional":
                cost.add(
                    max(
                        map(self.cost, hlo.branches(op)),
                        key=lambda branch: branch.seconds,
                    )
                )
            elif op.opcode == "call":
                cost.add(self.cost(op.called("to_apply")))
            elif op.opcode == "custom-call":
                self.custom_call(op, ops, cost)
            elif op.kind in COLLECTIVES:
                self.blocking(op, cost)
            else:
                self.compute(op, ops, cost)
        # What is copied meanwhile shares the memory with the ops.
        cost.expose("copy", max(0.0, cost.work["busy"] - cost.seconds))
        return cost

    def launch(self, op: hlo.Op, cost: _Cost) -> tuple[str, object, float] | None:
        """(kind, channel, seconds) of what `op` starts, if it starts anything."""
        begins = op.opcode.endswith("-start")
        source = op if begins and op.kind in COLLECTIVES else None
        if op.opcode == "async-start" or self.holds(op, "AsyncCollectiveStart"):
            source = next(iter(self.inner(op)), None)
        if source:
            kind, channel, moved, seconds = self.collective(source)
            cost.transfer(kind, moved, seconds)
            return kind, channel, seconds
        if not begins:
            return None
        # A copy. Its shape holds source and result, of which the smaller is what moves, and a flag.
        arrays = [array for array in hlo.arrays(op.shape) if hlo.bytes_of(array) > 4]
        moved = min(map(hlo.bytes_of, arrays), default=0.0)
        ends = sum(map(hlo.in_hbm, arrays[:2]))
        if op.opcode == "copy-start" and ends == 2:
            cost.copies[op.name, arrays[0], moved] += 1
        touched = moved * ends
        cost.work.update(bytes=touched, busy=touched / self.memory)
        host = "S(5)" in op.shape
        return (
            "copy",
            "host" if host else "memory",
            moved / (HOST if host else self.memory),
        )

    def loop(self, op: hlo.Op, ops: hlo.Ops, cost: _Cost) -> None:
        trip = _Cost()
        trip.add(self.cost(op.called("body")))
        trip.add(
            self.cost(op.called("condition"))
        )  # an all-reduce, if all rows must have ended
        trips, body = self.trips(op, ops), self.computations[op.called("body")]
        inner = [x for x in body.values() if x.opcode == "while"]
        if trips is None and any(self.trips(x, body) is None for x in inner):
            trips = 1
        if trips is None:
            self.dynamic_loop_seconds = max(self.dynamic_loop_seconds, trip.seconds)
        cost.add(trip, self.dynamic_trips if trips is None else trips)

    def blocking(
        self, op: hlo.Op, cost: _Cost, *, half: bool = False, behind: float = 0.0
    ) -> None:
        """A collective during which the cores wait, but for the seconds they have work `behind`.

        An all-reduce of which every chip keeps a shard (`half`) is a reduce-scatter.
        """
        kind, _, moved, seconds = self.collective(op)
        if half and kind == "all-reduce":
            kind, moved, seconds = "reduce-scatter", moved / 2, seconds / 2
        cost.transfer(kind, moved, seconds)
        cost.expose(kind, max(0.0, seconds - behind))

    def compute(self, op: hlo.Op, ops: hlo.Ops, cost: _Cost) -> None:
        name = op.called() or ""
        # Steps of a collective that goes on behind matmuls hold it too: its start was charged.
        collectives = [] if name.startswith("async_collective") else self.inner(op)
        flops = self.flops(op, ops)
        if collectives and not flops:
            for each in collectives:
                self.blocking(each, cost, half="reduce-scatter" in name)
            return
        moved = self.traffic(op, ops)
        memory, matrix = moved / self.memory, flops / self.matrix
        compiled = op.cycles and op.cycles / self.chip.clock
        if flops:
            seconds = compiled or max(memory, matrix)
            cost.work.update(flops=flops, bytes=moved, busy=min(memory, seconds))
            cost.spend(
                "matmul", seconds, "memory" if memory > matrix else "matrix units"
            )
            for each in collectives:
                self.blocking(each, cost, behind=seconds)
            return
        # `estimated_cycles` are pessimistic here: where they say 460,000 for the sum of squares of
        # a norm, its low-level program has 37,000 and its bytes take 106,000.
        seconds = (
            memory if compiled is None else min(compiled, max(memory, 0.12 * compiled))
        )
        cost.work.update(bytes=moved, busy=min(memory, seconds))
        scalar = compiled is None and moved < 1024
        cost.spend("elementwise", seconds + (0 if scalar else OP), "memory")
        if op.opcode == "copy":
            cost.copies[op.name, op.shape, hlo.bytes_of(op.shape)] += 1

    def callee(self, op: hlo.Op) -> hlo.Ops:
        return self.computations.get(op.called(), {})

    def holds(self, op: hlo.Op, target: str) -> bool:
        return any(
            f'custom_call_target="{target}"' in x.text for x in self.callee(op).values()
        )

    def inner(self, op: hlo.Op) -> list[hlo.Op]:
        """The collectives in a fusion or an async op."""
        ops = self.callee(op).values()
        return [
            x for y in ops for x in ([y] if y.kind in COLLECTIVES else self.inner(y))
        ]

    # --- loops

    def trips(self, loop: hlo.Op, ops: hlo.Ops) -> int | None:
        """How often a while loop runs; None if that is not a count known to the compiler."""
        if known := re.search(r"known_trip_count\D+(\d+)", loop.text):
            return int(known[1])
        condition = self.computations[loop.called("condition")]
        body = self.computations[loop.called("body")]
        start, end = ops[loop.operands[0]].operands, hlo.root(body).operands
        test = hlo.maker(hlo.root(condition).name, condition)
        if test.opcode != "compare":
            return None
        first = bound = step = None
        for name in test.operands:
            source = hlo.maker(name, condition)
            if source.opcode != "get-tuple-element":
                bound = hlo.constant(name, condition)
                continue
            index = int(re.search(r"\bindex=(\d+)", source.text)[1])
            initial, added = (
                hlo.constant(start[index], ops),
                hlo.added(end[index], body),
            )
            if added == 0:  # carried along unchanged
                bound = initial
            else:  # unrolled loops, such as collective matmuls, count by 2 or more
                first, step = initial or 0, added or 1
        return (
            None
            if bound is None or not step
            else max(1, math.ceil((bound - first) / step))
        )

    # --- matmuls

    def flops(self, op: hlo.Op, ops: hlo.Ops) -> float:
        """Of the matmuls in `op`."""
        if op.opcode == "dot":
            left = hlo.dims(ops[op.operands[0]].shape)
            over = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.text)[1]
            summed = math.prod(left[int(axis)] for axis in over.split(",") if axis)
            return 2 * math.prod(hlo.dims(op.shape)) * summed
        if op.opcode == "convolution":
            return hlo.convolution_flops(
                op, *(hlo.dims(ops[x].shape) for x in op.operands[:2])
            )
        callee = self.callee(op)
        return sum(self.flops(x, callee) for x in callee.values())

    # --- memory

    def traffic(self, op: hlo.Op, ops: hlo.Ops) -> float:
        """Bytes that an op reads from the chip's memory and writes to it."""
        there = [
            i
            for i, x in enumerate(op.operands)
            if x in ops and hlo.in_hbm(ops[x].shape)
        ]
        return sum(self.read(op, i, ops) for i in there) + self.written(op, ops)

    def read(self, op: hlo.Op, i: int, ops: hlo.Ops) -> float:
        """Bytes of operand `i` that `op` reads: of a slice, only the slice."""
        whole = hlo.bytes_of(ops[op.operands[i]].shape)
        if op.opcode in ("dynamic-slice", "slice", "gather") and i == 0:
            return min(whole, hlo.bytes_of(op.shape))
        if op.opcode in ("dynamic-update-slice", "scatter") and i == 0:
            return 0.0  # written in place
        callee = self.callee(op)
        for inside in callee.values():
            if inside.opcode == "parameter" and inside.text.startswith(f"({i})"):
                return min(whole, self.used(inside, callee))
        return whole

    def used(self, value: hlo.Op, ops: hlo.Ops) -> float:
        """Bytes of a value in a fusion that the rest of it reads."""
        total = hlo.bytes_of(value.shape) if value.root else 0.0
        for user in ops.values():
            for i, name in enumerate(user.operands):
                if name == value.name:
                    renamed = user.opcode == "bitcast" or self.retiled(user)
                    total += (
                        self.used(user, ops) if renamed else self.read(user, i, ops)
                    )
        return total

    def retiled(self, op: hlo.Op) -> bool:
        """Whether an op inside a fusion only reads its operand in other tiles, in its place: so
        8-bit numbers come to a matmul.
        """
        if "output_to_operand_aliasing={{}: (0, {})}" not in op.text:
            return False
        return [x.opcode for x in self.callee(op).values()] == ["parameter", "copy"]

    def written(self, op: hlo.Op, ops: hlo.Ops) -> float:
        """Bytes that an op writes: of an update in place, only the update."""
        if op.opcode == "fusion":
            callee = self.callee(op)
            root = hlo.root(callee)
            results = (
                [callee[x] for x in root.operands] if root.opcode == "tuple" else [root]
            )
            places = zip(hlo.arrays(op.shape), results, strict=False)
            return sum(
                self.written(x, callee) for array, x in places if hlo.in_hbm(array)
            )
        if op.opcode == "bitcast" and op.operands[0] in ops:
            return self.written(ops[op.operands[0]], ops)
        if op.opcode == "dynamic-update-slice":
            return hlo.bytes_of(ops[op.operands[1]].shape)
        if op.opcode == "scatter":  # its rows are read, changed and written
            return 2 * hlo.bytes_of(ops[op.operands[-1]].shape)
        if op.opcode == "parameter":
            return 0.0  # passed through
        return sum(
            hlo.bytes_of(array) for array in hlo.arrays(op.shape) if hlo.in_hbm(array)
        )

    # --- kernels

    def custom_call(self, op: hlo.Op, ops: hlo.Ops, cost: _Cost) -> None:
        if (
            '"tpu_custom_call"' not in op.text
        ):  # the compiler's own: an allocation, a top-k
            return cost.spend(
                "elementwise", (op.cycles or 0) / self.chip.clock, "memory"
            )
        if splash := re.match(r"splash_m[qh]a_(fwd|dq|dkv)", op.name):
            arrays = [hlo.arrays(ops[x].shape)[0] for x in op.operands]
            seconds, flops = self.splash(op, splash[1], arrays)
            cost.work.update(flops=flops, bytes=self.traffic(op, ops))
            return cost.spend("attention", seconds, "matrix units")
        # A kernel reads what it likes of its operands (one layer of a cache, as many slots as are
        # taken): only it can say, by pl.CostEstimate. Without, it is taken to read all of them.
        said = dict(re.findall(r'"(flops|bytes_accessed)":"?(\d+)', op.text))
        flops = float(said.get("flops", 0))
        moved = float(said["bytes_accessed"]) if said else self.traffic(op, ops)
        memory, matrix = moved / self.memory, flops / self.matrix
        cost.work.update(flops=flops, bytes=moved, busy=memory)
        bound = "memory" if memory > matrix else "matrix units"
        return cost.spend("kernels", max(memory, matrix) + OP, bound)

    def splash(self, op: hlo.Op, kernel: str, arrays: list[str]) -> tuple[float, float]:
        """Seconds and FLOPs of a kernel of splash attention, from its operands."""
        # The queries are the first array of numbers of highest rank: [mapped axes, heads, T, H];
        # the keys behind them have no heads: [mapped axes, S, H].
        numbers = [hlo.dims(a) for a in arrays if a[0] in "bf"]
        *mapped, heads, length, width = max(numbers, key=len)
        keys = next(
            x[-2] for x in numbers if len(x) == len(mapped) + 2 and x[-1] == width
        )
        name = {"fwd": "block_q", "dq": "block_q_dq", "dkv": "block_q_dkv"}[kernel]
        block = re.search(rf"{name}\W+(\d+)", op.text)
        block = min(int(block[1]) if block else 1024, length)
        # A causal mask is made in the kernel from the positions of the queries, the only integers
        # along T beside the segments of queries and keys. Other masks are taken to be full.
        along = [
            a for a in arrays if a.startswith("s32") and length in hlo.dims(a)[-2:]
        ]
        causal = len(along) > (2 if "segmented" in op.name else 0)
        # A mask that is given in blocks is that of samples behind prompts. As a sample that fills
        # its row has it: it sees the whole prompt, and is causal.
        given = any(a.startswith("s32") and hlo.dims(a)[1:2] == [block] for a in arrays)
        causal = causal or given

        per_tile, per_step, per_row, work = SPLASH[kernel]
        blocks, prompt = length / block, (keys - length) / block
        own = blocks * (blocks + 1) / 2 if causal else blocks**2
        tiles = (own + prompt * blocks) * (block / 512) ** 2
        # The grid has a step for each block, whether or not the mask leaves it out.
        steps = blocks * (blocks + prompt)
        cycles = tiles * per_tile + steps * per_step + length / 512 * per_row
        # The cores share what the kernel declares parallel: the axes over which it is mapped, going
        # forward its heads too.
        together = math.prod(mapped) * (heads if kernel == "fwd" else 1)
        turns = (
            math.ceil(together / self.chip.cores) * math.prod(mapped) * heads / together
        )
        # The cycles are v5p's, for heads of 128. Other chips are taken to come as near their peak.
        v5p = CHIPS["v5p"]
        core = (v5p.flops / v5p.cores) / (self.chip.flops / self.chip.cores) / v5p.clock
        seconds = turns * cycles * core * math.ceil(width / 128) / SPLASH_REACHED
        pairs = length * (keys - length / 2 if causal else keys)
        return seconds, work * 4 * pairs * width * math.prod(mapped) * heads

    # --- collectives

    def collective(self, op: hlo.Op) -> tuple[str, object, float, float]:
        """(kind, channel, bytes that a chip sends, seconds)."""
        kind, sizes = op.kind, [hlo.bytes_of(array) for array in hlo.arrays(op.shape)]
        if kind == "collective-permute":
            return self.permute(op, max(sizes))
        group = self.group(op.text)
        size = len(group)
        result = sum(n for n in sizes if n > 4 or op.opcode == kind)
        if (
            op.opcode != kind
        ):  # started: the shape holds operands and results (but see all-reduce)
            share = {"all-gather": size / (size + 1), "reduce-scatter": 1 / (size + 1)}
            result *= share.get(kind, 0.5 if kind == "all-to-all" else 1)
        spans = [len({self.coords[i][axis] for i in group}) for axis in range(3)]
        # A ring has two links a chip. Between the halves of a line there is one; part of a ring is
        # a line, or shares the ring with the other parts.
        links = [
            0 if span == 1 else 2 if span == dim and ring else 1
            for span, dim, ring in zip(spans, self.dims, self.rings, strict=True)
        ]
        # Which way the compiler goes is known after code generation. Before, all-gathers are taken
        # to go round one ring, and the others along all axes at once.
        algorithm = "".join(re.findall(r'"(?:emitter|strategy)":"(\w+)"', op.text))
        one_ring = "1D" in algorithm or (not algorithm and kind == "all-gather")
        used = min(sum(links), 2) if one_ring else sum(links)
        part = (size - 1) / size
        sent = {"all-gather": part, "all-to-all": part, "all-reduce": 2 * part}
        moved = result * sent.get(kind, size - 1)
        seconds = moved / max(1, used) / self.chip.link
        if (
            kind == "all-to-all"
        ):  # a quarter of it all crosses the middle of the longest axis
            longest = spans.index(max(spans))
            seconds = (
                result * spans[longest] / 4 / max(1, links[longest]) / self.chip.link
            )
        hops = sum(span // 2 for span in spans) if used > 2 else size / 2
        return kind, "group", moved, seconds + HOP * hops

    def group(self, text: str) -> list[int]:
        """The partitions of the first replica group; the others are taken to be like it."""
        if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
            return [int(i) for i in listed[1].split(",")]
        if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text):
            axes, along = (
                re.findall(r"'(\w+)'=(\d+)", mesh[1]),
                re.findall(r"\w+", mesh[2]),
            )
            order = [i for i, (name, _) in enumerate(axes) if name in along]
            return hlo.strided([int(n) for _, n in axes], order)
        iota = re.search(
            r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text
        )
        if not iota:
            return list(range(len(self.coords)))
        # All partitions in an array of these sizes, transposed, cut into groups of so many.
        sizes = [int(n) for n in iota[2].split(",")]
        order = (
            [int(i) for i in iota[3].split(",")] if iota[3] else list(range(len(sizes)))
        )
        return hlo.strided(sizes, order)[: int(iota[1])]

    def permute(self, op: hlo.Op, size: float) -> tuple[str, object, float, float]:
        """As `collective`. Messages take the shortest way, axis by axis, and share links."""
        load, longest = Counter(), 0
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", op.text)[1]
        for source, target in re.findall(r"(\d+),(\d+)", pairs):
            here, there, hops = (
                list(self.coords[int(source)]),
                self.coords[int(target)],
                0,
            )
            for axis, (dim, ring) in enumerate(zip(self.dims, self.rings, strict=True)):
                way = there[axis] - here[axis]
                if ring and abs(way) > dim / 2:
                    way += dim if way < 0 else -dim
                for _ in range(abs(way)):
                    load[axis, way > 0, tuple(here)] += 1
                    here[axis] = (here[axis] + (1 if way > 0 else -1)) % dim
                hops += abs(way)
            longest = max(longest, hops)
        busiest = max(load, key=load.get, default=None)
        seconds = size * load[busiest] / self.chip.link + HOP * max(longest, 1)
        return "collective-permute", busiest and busiest[:2], size, seconds
