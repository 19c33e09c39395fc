"""Counts the work of a program's ops: trips of loops, FLOPs, bytes read and written.

Follows ops into the fusions, async ops and loop bodies that they call. Knows nothing of chips.
"""

import math
import re

from r1v3_jax.tpu import hlo
from r1v3_jax.tpu.hlo import Op, Ops
from r1v3_jax.tpu.torus import COLLECTIVES

SLICES = ("dynamic-slice", "slice", "gather")  # ops that read a part of their operand 0
UPDATES = ("dynamic-update-slice", "scatter")  # ops that write a part of it


class Module:
    """A program: its computations by name, and the name of the entry."""

    def __init__(self, text: str):
        self.computations, self.entry = hlo.parse(text)

    def callee(self, op: Op) -> Ops:
        """Returns the computation that a fusion, an async op or a call runs; {} if it runs none."""
        name = op.called()
        if name is None and op.opcode in ("call", "async-start"):
            name = op.called("to_apply")
        return self.computations.get(name, {})

    def calls_target(self, op: Op, target: str) -> bool:
        """Tells whether a fusion has a custom call of this target in it."""
        wanted = f'custom_call_target="{target}"'
        inner_ops = self.callee(op).values()
        return any(wanted in inner.text for inner in inner_ops)

    def collectives(self, op: Op) -> list[Op]:
        """Lists the collectives in a fusion or an async op, at any depth."""
        listed = []
        for inner in self.callee(op).values():
            if inner.kind in COLLECTIVES:
                listed.append(inner)
            else:
                listed += self.collectives(inner)
        return listed

    # --- loops

    def trips(self, loop: Op, ops: Ops) -> int | None:
        """Returns how often a while loop runs; None if the compiler knows no count."""
        if known := re.search(r"known_trip_count\D+(\d+)", loop.text):
            return int(known[1])
        # Else the text must say it: "i starts at 0, goes on while i < 9, body: i + 2" is 5 trips.
        condition = self.computations[loop.called("condition")]
        body = self.computations[loop.called("body")]
        start = hlo.operand(loop, 0, ops).operands  # the state before the first trip
        end = hlo.root(body).operands  # the state after a trip
        result = hlo.root(condition)
        test = hlo.producer(result.name, condition)
        if test.opcode != "compare":
            return None
        initial = bound = step = None
        for name in test.operands:
            source = hlo.producer(name, condition)
            if source.opcode != "get-tuple-element":
                bound = hlo.constant(name, condition)
                continue
            match = re.search(r"\bindex=(\d+)", source.text)
            index = int(match[1])
            value = hlo.constant(start[index], ops)
            increment = hlo.increment(end[index], body)
            if increment == 0:  # carried along unchanged
                bound = value
            else:  # unrolled loops, such as collective matmuls, count by 2 or more
                initial = value or 0
                step = increment or 1
        if bound is None or not step:
            return None
        trips = math.ceil((bound - initial) / step)
        return max(1, trips)

    # --- matmuls

    def flops(self, op: Op, ops: Ops) -> float:
        """Returns the FLOPs of the matmuls in `op`."""
        if op.opcode == "dot":
            return hlo.dot_flops(op, ops)
        if op.opcode == "convolution":
            return hlo.convolution_flops(op, ops)
        callee = self.callee(op)
        return sum(self.flops(inner, callee) for inner in callee.values())

    def is_batched(self, op: Op) -> bool:
        """Tells whether a matmul in `op` is one of many pairs of matrices, as attention is."""
        if hlo.is_batched(op):
            return True
        return any(self.is_batched(inner) for inner in self.callee(op).values())

    # --- memory

    def traffic(self, op: Op, ops: Ops) -> float:
        """Returns the bytes that an op reads from the chip's memory and writes to it."""
        read = 0
        for i, name in enumerate(op.operands):
            operand = ops.get(name)
            if operand and hlo.in_hbm(operand.shape):
                read += self._bytes_read(op, i, ops)
        return read + self._bytes_written(op, ops)

    def _bytes_read(self, op: Op, i: int, ops: Ops) -> float:
        """Returns the bytes of operand `i` that `op` reads: of a slice, only the slice."""
        whole = hlo.bytes_of(hlo.operand(op, i, ops).shape)
        if i == 0 and op.opcode in SLICES:
            return min(whole, hlo.bytes_of(op.shape))
        if i == 0 and op.opcode in UPDATES:
            return 0.0  # written in place
        # A fusion reads as much of its operand as the ops in it read of parameter `i`.
        callee = self.callee(op)
        number = f"({i})"
        for inner in callee.values():
            if inner.opcode == "parameter" and inner.text.startswith(number):
                used = self._bytes_used(inner, callee)
                return min(whole, used)
        return whole

    def _bytes_used(self, value: Op, ops: Ops) -> float:
        """Returns the bytes of a value in a fusion that the rest of the fusion reads."""
        total = hlo.bytes_of(value.shape) if value.is_root else 0.0
        for user in ops.values():
            for i, name in enumerate(user.operands):
                if name != value.name:
                    continue
                # What only renames the value reads what its own users read.
                if user.opcode == "bitcast" or self._retiles(user):
                    total += self._bytes_used(user, ops)
                else:
                    total += self._bytes_read(user, i, ops)
        return total

    def _retiles(self, op: Op) -> bool:
        """Tells whether an op in a fusion only reads its operand in other tiles, in place.

        8-bit numbers reach a matmul this way.
        """
        if "output_to_operand_aliasing={{}: (0, {})}" not in op.text:
            return False
        opcodes = [inner.opcode for inner in self.callee(op).values()]
        return opcodes == ["parameter", "copy"]

    def _bytes_written(self, op: Op, ops: Ops) -> float:
        """Returns the bytes that an op writes: of an update in place, only the update."""
        if op.opcode == "fusion":
            return self._bytes_written_by_fusion(op)
        if op.opcode == "bitcast" and op.operands[0] in ops:
            renamed = hlo.operand(op, 0, ops)
            return self._bytes_written(renamed, ops)
        if op.opcode == "dynamic-update-slice":
            update = hlo.operand(op, 1, ops)
            return hlo.bytes_of(update.shape)
        if op.opcode == "scatter":  # its rows are read, changed and written
            rows = hlo.operand(op, -1, ops)
            return 2 * hlo.bytes_of(rows.shape)
        if op.opcode == "parameter":
            return 0.0  # passed through
        in_memory = filter(hlo.in_hbm, hlo.arrays(op.shape))
        return sum(map(hlo.bytes_of, in_memory))

    def _bytes_written_by_fusion(self, op: Op) -> float:
        callee = self.callee(op)
        root = hlo.root(callee)
        results = [root]
        if root.opcode == "tuple":
            results = [callee[name] for name in root.operands]
        arrays = hlo.arrays(op.shape)
        written = 0
        for array, result in zip(arrays, results, strict=False):
            if hlo.in_hbm(array):  # what stays in VMEM is not written
                written += self._bytes_written(result, callee)
        return written
