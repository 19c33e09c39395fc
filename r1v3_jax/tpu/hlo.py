"""The text of a compiled program: computations, their ops in the order of the schedule, shapes.

HLO as the TPU compiler prints it after optimisation; knows nothing of chips and times.
"""

import math
import re
from dataclasses import dataclass

RENAMED = {"bitcast", "copy", "convert", "copy-start", "copy-done"}  # the same number


@dataclass(frozen=True, eq=False)
class Op:
    name: str
    shape: str  # as written, a tuple in parentheses
    opcode: str
    operands: tuple[str, ...]
    text: str  # operands, attributes and backend_config
    root: bool

    def called(self, attribute: str = "calls") -> str | None:
        """The name of the computation after `attribute=`."""
        found = re.search(rf"\b{attribute}=%([^\s,)}}]+)", self.text)
        return found and found[1]

    @property
    def kind(self) -> str:
        return self.opcode.removesuffix("-start")

    @property
    def cycles(self) -> int | None:
        """The compiler's own estimate; there after code generation only."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.text)
        return found and int(found[1])


Ops = dict[str, Op]  # of a computation, by name, in the order of the schedule


def parse(hlo: str) -> tuple[dict[str, Ops], str]:
    """The computations by name, and the name of the entry."""
    texts, entry, name = {}, None, None
    for line in hlo.splitlines():
        if header := re.match(r"(ENTRY )?%?([^\s(]+) \(.*\{$", line):
            name = header[2]
            texts[name] = []
            entry = name if header[1] else entry
        elif line == "}":
            name = None
        elif name and re.match(r"\s+(ROOT )?%\S+ = ", line):
            texts[name].append(line)
        elif name:  # the attributes of a Pallas kernel take several lines
            texts[name][-1] += line
    if entry is None:
        raise ValueError("no ENTRY computation: this is not the text of an HLO module")
    return {
        n: {op.name: op for op in map(parse_op, lines)} for n, lines in texts.items()
    }, entry


def parse_op(line: str) -> Op:
    """%NAME = SHAPE OPCODE(%OPERAND, ...), ATTRIBUTES, backend_config={...}"""
    head = re.match(r"\s+(ROOT )?%(\S+) = ", line)
    rest = line[head.end() :]
    end = closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, (opcode, text) = rest[:end], rest[end:].lstrip().split("(", 1)
    text = f"({text}"
    operands = re.findall(r"%([^\s,)]+)", text[: closing(text)])
    return Op(head[2], shape, opcode, tuple(operands), text, bool(head[1]))


def closing(text: str) -> int:
    """The length of the parenthesis that `text` starts with."""
    depth = 0
    for bracket in re.finditer(r"[()]", text):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return bracket.end()
    raise ValueError(f"unbalanced parentheses in {text[:200]!r}")


def arrays(shape: str) -> list[str]:
    """The arrays of a shape: "(f32[2]{0}, s32[])" -> ["f32[2]{0}", "s32[]"]."""
    return re.findall(r"[a-z]\w*\[[\d,]*\](?:\{[^}]*\})?", shape)


def dims(array: str) -> list[int]:
    """ "f32[2,3]{1,0}" -> [2, 3]."""
    return [int(n) for n in re.search(r"\[([\d,]*)\]", array)[1].split(",") if n]


def bytes_of(shape: str) -> float:
    """Of all arrays of a shape."""
    total = 0.0
    for array in arrays(shape):
        dtype = array[: array.index("[")]
        bits = {"pred": 8, "token": 0, "opaque": 0}.get(dtype)
        bits = (
            int(re.search(r"\d+", dtype)[0]) if bits is None else bits
        )  # bf16, f8e4m3fn, s4
        total += math.prod(dims(array)) * bits / 8
    return total


def in_hbm(shape: str) -> bool:
    """Whether an array lies in the chip's memory, not in VMEM or on the host."""
    return not re.search(r"S\([1-9]\)", shape)  # S(1) is VMEM, S(5) the host


def root(ops: Ops) -> Op:
    """The op whose value a computation gives."""
    return next(op for op in ops.values() if op.root)


def branches(op: Op) -> list[str]:
    """Names of the computations of a conditional."""
    if listed := re.search(r"branch_computations=\{([^}]*)\}", op.text):
        return re.findall(r"%([^\s,]+)", listed[1])
    return [op.called("true_computation"), op.called("false_computation")]


def starter(op: Op, ops: Ops, flying: dict) -> str | None:
    """The op in flight that `op` ends: its first operand, or that one's first operand, ..."""
    while op is not None and op.name not in flying:
        op = ops.get(op.operands[0]) if op.operands else None
    return op and op.name


def maker(name: str, ops: Ops) -> Op:
    """The op that made a number."""
    while ops[name].opcode in RENAMED:
        name = ops[name].operands[0]
    return ops[name]


def constant(name: str, ops: Ops) -> int | None:
    source = maker(name, ops)
    found = (
        re.match(r"\((-?\d+)\)", source.text) if source.opcode == "constant" else None
    )
    return found and int(found[1])


def added(name: str, ops: Ops) -> int | None:
    """By how much a trip raises a number of the loop's state; None if that is not a constant."""
    total = 0
    while (op := maker(name, ops)).opcode == "add":
        constants = [constant(x, ops) for x in op.operands]
        if constants.count(None) != 1:
            return None
        unknown = constants.index(None)
        total, name = total + constants[1 - unknown], op.operands[unknown]
    return total if op.opcode == "get-tuple-element" else None


def convolution_flops(op: Op, left: list[int], right: list[int]) -> float:
    """2 x outputs x what each sums over. Matmuls are convolutions on a TPU, at times with a window.

    Positions of a window in the padding or between dilated inputs are no work: a batch axis may be
    written as a window of the whole batch that meets one real row at a time.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.text).groups()
    out = dims(op.shape)
    pairs = zip(labels, (left, right, out), strict=True)
    lefts, rights, outs = (dict(zip(*x, strict=True)) for x in pairs)
    window = re.search(r"window=\{([^}]*)\}", op.text)
    window = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}
    summed = rights["i"]
    for i in range(len(window["size"].split("x")) if window else 0):
        size, stride, dilated, spread = (
            int(window[x].split("x")[i]) if x in window else 1
            for x in ("size", "stride", "lhs_dilate", "rhs_dilate")
        )
        pad = int(window["pad"].split("x")[i].split("_")[0]) if "pad" in window else 0
        inputs, outputs = lefts[str(i)] * dilated, outs[str(i)]
        starts = range(-pad, outputs * stride - pad, stride)
        at = (start + k * spread for start in starts for k in range(size))
        summed *= sum(0 <= x < inputs and x % dilated == 0 for x in at) / outputs
    return 2 * math.prod(out) * summed


def strided(sizes: list[int], order: list[int]) -> list[int]:
    """Numbers 0, 1, ... in an array of these sizes, read along the axes in `order` only."""
    ids = [0]
    for axis in order:
        stride = math.prod(sizes[axis + 1 :])
        ids = [i + stride * k for i in ids for k in range(sizes[axis])]
    return ids
