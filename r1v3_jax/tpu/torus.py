"""Estimates collectives: how many bytes a chip sends, and how long the links need for them.

Knows the torus of a slice, the network between slices, and the text of single ops; nothing of the
rest of a program.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from r1v3_jax.tpu import hlo
from r1v3_jax.tpu.chips import HOP_SECONDS, NETWORK_SECONDS, Chip
from r1v3_jax.tpu.hlo import Op

COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
}
# Behind the kind of a collective whose chips are on several slices.
ACROSS = " across slices"


Coords = tuple[int, ...]  # of a chip in the torus
# The axis, whether forward, and the chip that the link leaves.
Link = tuple[int, bool, Coords]


@dataclass(frozen=True)
class Transfer:
    """Bytes on their way while the cores may do something else."""

    kind: str  # of collective, or "copy"
    channel: object  # transfers on the same channel take turns
    bytes: float  # that a chip sends
    seconds: float


class Torus:
    """A slice of chips by their coordinates, `coords`: one tuple for each partition, in order.

    slices: of a run on several slices, the number of the slice of each partition.
    """

    def __init__(
        self, chip: Chip, coords: Sequence[Coords], slices: Sequence[int] = ()
    ):
        self.chip = chip
        self.coords = [_three_axes(c) for c in coords]
        self.slices = list(slices) or [0] * len(self.coords)
        by_axis = zip(*self.coords, strict=True)
        self.dims = [max(axis) + 1 for axis in by_axis]
        self.rings = chip.rings(self.dims)

    def collective(self, op: Op) -> Transfer:
        """Estimates one collective, started or blocking."""
        if op.kind == "collective-permute":
            return self._permute(op)
        group = self.group(op.text)
        size = len(group)
        result = _result_bytes(op, size)
        slices = len({self.slices[i] for i in group})
        if slices > 1:
            return self._across_slices(op.kind, result, size, slices)

        # 1. The links of a chip along each axis. `spans`: chips of the group along the axis.
        by_axis = zip(*(self.coords[i] for i in group), strict=True)
        spans = [len(set(axis)) for axis in by_axis]
        links = [self._links(axis, span) for axis, span in enumerate(spans)]
        # Which way the compiler goes is known only after code generation. Before that, all-gathers
        # are assumed to go round one ring, the others along all axes at once.
        # A SparseCore's way is known at once: its data go in parts, each by rings of its own.
        algorithm = "".join(re.findall(r'"(?:emitter|strategy)":"(\w+)"', op.text))
        ways = op.text.count('"phase_rings"')
        is_known = bool(algorithm or ways)
        one_ring = "1D" in algorithm or 0 < ways <= 2
        one_ring |= not is_known and op.kind == "all-gather"
        used_links = min(sum(links), 2) if one_ring else sum(links)

        # 2. The bytes. In a ring of 4 chips with shards of 1 MB each chip sends 3 MB in an
        # all-gather: its shard, and two that it hands on. An all-reduce goes round twice.
        share = (size - 1) / size
        if op.kind in ("all-gather", "all-to-all"):
            sent = result * share
        elif op.kind == "all-reduce":
            sent = result * (2 * share)
        else:  # of a reduce-scatter the result is one shard
            sent = result * (size - 1)

        # 3. The seconds.
        if op.kind == "all-to-all":
            # A quarter of all data crosses the middle of the longest axis one way.
            longest = spans.index(max(spans))
            crossing = result * spans[longest] / 4
            crossed_links = max(1, links[longest])
            seconds = crossing / crossed_links / self.chip.link
        else:
            seconds = sent / max(1, used_links) / self.chip.link
        # Round one ring, half of the chips are hops; along several axes, half of each axis.
        if used_links > 2:
            hops = sum(span // 2 for span in spans)
        else:
            hops = size / 2
        seconds += HOP_SECONDS * hops
        return Transfer(op.kind, "group", sent, seconds)

    def exchange(self, op: Op) -> Transfer:
        """Estimates what a chip exchanges with its peers on the other slices, one on each.

        The compiler writes it as a send to the host and a recv from it, which meet by a name. The
        hosts do the rest:

            %s = (f32[1024,8,128], u32[], token[]) send(%x, %after-all), frontend_attributes={
                _xla_host_transfer_rendezvous="psum.9_0",_xla_megascale_transfer_type="ALL_REDUCE"}
            %r = (f32[1024,8,128], u32[], token[]) recv(%after-all), ... the same name
            %y = (f32[1024,8,128], token[]) recv-done(%r)
        """
        written = re.search(r'_xla_megascale_transfer_type="(\w+)"', op.text)[1]
        kind = written.lower().replace("_", "-")  # "ALL_REDUCE" -> "all-reduce"
        slices = len(set(self.slices))
        operand = hlo.bytes_of(hlo.arrays(op.shape)[0])
        sizes = {"all-gather": operand * slices, "reduce-scatter": operand / slices}
        result = sizes.get(kind, operand)
        return self._across_slices(kind, result, slices, slices)

    def _across_slices(
        self, kind: str, result: float, size: int, slices: int
    ) -> Transfer:
        """Estimates a collective of `size` chips on several slices.

        result: its bytes on one chip. Counted is only what crosses, assuming that a slice's chips
        first add up or gather among themselves, over links that take no time beside the network,
        and that each then has an equal part of the data to exchange with its peers.

        An all-reduce of 8 MB over 2 slices of 4 chips: each chip has 2 MB to exchange with one
        other, and sends half of them twice.
        """
        chips = size / slices  # of the group on a slice
        share = (slices - 1) / slices
        if kind == "all-gather":
            sent = result * share / chips
        elif kind == "all-reduce":
            sent = result * (2 * share) / chips
        elif kind == "reduce-scatter":  # its operand has `size` times the result
            sent = result * size * share / chips
        else:  # all-to-all: nothing to add up or to share
            sent = result * share
        seconds = sent / self.chip.network + NETWORK_SECONDS
        return Transfer(kind + ACROSS, "network", sent, seconds)

    def _links(self, axis: int, span: int) -> int:
        """Returns how many links of a chip a group of `span` chips along an axis can use."""
        if span == 1:
            return 0
        # A ring gives each chip two links. Between the halves of a line there is only one; a part
        # of a ring is a line, or shares the ring with the other parts.
        whole_ring = span == self.dims[axis] and self.rings[axis]
        return 2 if whole_ring else 1

    def group(self, text: str) -> list[int]:
        """Reads the partitions of the first replica group; the others are assumed to be like it.

        The compiler writes groups as a list, {{0,4},{1,5}}; as axes of a mesh, mesh['a'=2,'b'=4]
        {'a'}; or as the cut of a transposed array, [4,2]<=[2,4]T(1,0).
        """
        if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
            return _integers(listed[1])
        pattern = (
            r"replica_groups=mesh\[([^\]]*)\]"
            r"(?:, device_ids=\(\[([\d,]+)\]T\(([\d,]+)\)\))?\s*\{([^}]*)\}"
        )
        if mesh := re.search(pattern, text):
            names = re.findall(r"'(\w+)'=", mesh[1])
            sizes = re.findall(r"=(\d+)", mesh[1])
            grouped = re.findall(r"\w+", mesh[4])
            order = [i for i, name in enumerate(names) if name in grouped]
            group = hlo.strided(list(map(int, sizes)), order)
            if not mesh[2]:
                return group
            # device_ids=([2,4]T(1,0)): the mesh is over the partitions 0 4 1 5 2 6 3 7.
            partitions = hlo.strided(_integers(mesh[2]), _integers(mesh[3]))
            return [partitions[i] for i in group]
        pattern = r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
        iota = re.search(pattern, text)
        if not iota:  # none is written: all partitions are one group
            return list(range(len(self.coords)))
        # [4,2]<=[2,4]T(1,0): the partitions 0 to 7 as [[0 1 2 3] [4 5 6 7]], transposed and read
        # as 0 4 1 5 2 6 3 7, cut into 4 groups of 2. The first is 0 4.
        group_size = int(iota[1])
        sizes = _integers(iota[2])
        order = list(range(len(sizes)))
        if iota[3]:
            order = _integers(iota[3])
        return hlo.strided(sizes, order)[:group_size]

    def _permute(self, op: Op) -> Transfer:
        """Estimates messages between pairs of chips.

        Messages take the shortest way, axis by axis, and share the links that they have in common.
        """
        size = max(map(hlo.bytes_of, hlo.arrays(op.shape)))
        load = Counter()  # link -> messages on it
        longest = 0  # hops
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", op.text)[1]
        pairs = re.findall(r"(\d+),(\d+)", pairs)
        if any(self.slices[int(a)] != self.slices[int(b)] for a, b in pairs):
            seconds = size / self.chip.network + NETWORK_SECONDS
            return Transfer(op.kind + ACROSS, "network", size, seconds)
        for source, target in pairs:
            start = self.coords[int(source)]
            end = self.coords[int(target)]
            links = self._route(start, end)
            load.update(links)
            longest = max(longest, len(links))
        busiest = max(load, key=load.get, default=None)
        seconds = size * load[busiest] / self.chip.link
        seconds += HOP_SECONDS * max(longest, 1)
        channel = busiest and busiest[:2]  # axis and direction
        return Transfer("collective-permute", channel, size, seconds)

    def _route(self, source: Coords, target: Coords) -> list[Link]:
        """Lists the links from one chip to another."""
        links = []
        position = list(source)
        for axis, size in enumerate(self.dims):
            distance = target[axis] - position[axis]
            # On a ring of 4, from 3 to 0: -3 steps become +1.
            if self.rings[axis] and abs(distance) > size / 2:
                distance += size if distance < 0 else -size
            forward = distance > 0
            step = 1 if forward else -1
            for _ in range(abs(distance)):
                links.append((axis, forward, tuple(position)))
                position[axis] = (position[axis] + step) % size
        return links


def rendezvous(op: Op) -> str | None:
    """Returns the name by which a send and a recv meet; None for other ops."""
    name = re.search(r'_xla_host_transfer_rendezvous="([^"]*)"', op.text)
    return name and name[1]


def _three_axes(coords: Sequence[int]) -> Coords:
    """Adds zeros to the coordinates of a torus of two axes."""
    missing = 3 - len(coords)
    return (*coords, *[0] * missing)


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _result_bytes(op: Op, size: int) -> float:
    """Returns the bytes of a collective's result on one chip, in a group of `size` chips."""
    sizes = list(map(hlo.bytes_of, hlo.arrays(op.shape)))
    if op.opcode == op.kind:
        return sum(sizes)
    # The shape of a started one holds operands and results, and flags of at most 4 bytes.
    total = sum(n for n in sizes if n > 4)
    if op.kind == "all-gather":  # 1 shard in, `size` shards out
        return total * (size / (size + 1))
    if op.kind == "reduce-scatter":  # `size` shards in, 1 out
        return total * (1 / (size + 1))
    if op.kind == "all-to-all":
        return total * 0.5
    return total  # all-reduce-start has its results only
