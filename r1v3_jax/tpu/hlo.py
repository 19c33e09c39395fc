"""Reads the text of a compiled program: computations, their ops in schedule order, shapes.

The text is HLO as the TPU compiler prints it after optimisation. Knows nothing of chips and times.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

# Ops that hand on the number they read.
RENAMED = {"bitcast", "copy", "convert", "copy-start", "copy-done"}


@dataclass(frozen=True, eq=False)
class Op:
    """One line of a computation."""

    name: str
    shape: str  # as written; that of a tuple is in parentheses
    opcode: str
    operands: tuple[str, ...]  # names of ops in the same computation
    text: str  # operands, attributes and backend_config
    is_root: bool

    def called(self, attribute: str = "calls") -> str | None:
        """Returns the name of the computation after `attribute=`, or None."""
        match = re.search(rf"\b{attribute}=%([^\s,)}}]+)", self.text)
        return match and match[1]

    @property
    def kind(self) -> str:
        """The opcode, and for "all-gather-start" the "all-gather" that it starts."""
        return self.opcode.removesuffix("-start")

    @property
    def cycles(self) -> int | None:
        """The compiler's own estimate, which exists only after code generation."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.text)
        return match and int(match[1])


Ops = dict[str, Op]  # of a computation, by name, in the order of the schedule


# --- reading the text ----------------------------------------------------------------------------


def parse(hlo: str) -> tuple[dict[str, Ops], str]:
    """Reads the computations, by name, and the name of the entry."""
    lines_of = {}
    entry = None
    name = None  # of the computation that the current line belongs to
    for line in hlo.splitlines():
        if header := re.match(r"(ENTRY )?%?([^\s(]+) \(.*\{$", line):
            name = header[2]
            lines_of[name] = []
            if header[1]:
                entry = name
        elif line == "}":
            name = None
        elif name and re.match(r"\s+(ROOT )?%\S+ = ", line):
            lines_of[name].append(line)
        elif name:  # the attributes of a Pallas kernel take several lines
            lines_of[name][-1] += line
    if entry is None:
        raise ValueError("no ENTRY computation: this is not the text of an HLO module")
    computations = {}
    for computation, lines in lines_of.items():
        ops = map(parse_op, lines)
        computations[computation] = _with_elements(ops)
    return computations, entry


def _with_elements(ops: Iterable[Op]) -> Ops:
    """Returns a computation's ops by name, with an op for each element of a tuple.

    The compilers of libtpu 0.0.50 name an element where it is used, without an op of its own:

        %y = f32[2] negate(%pair#1)  ->  %pair#1 = f32[2] get-tuple-element(%pair), index=1
                                         %y = f32[2] negate(%pair#1)
    """
    by_name = {}
    for op in ops:
        for name in op.operands:
            _add_element(name, by_name)
        by_name[op.name] = op
    return by_name


def _add_element(name: str, ops: Ops) -> None:
    """Adds the op that `name`, as NAME#K, stands for, unless it is there."""
    whole, mark, index = name.rpartition("#")
    if name in ops or not mark:
        return
    _add_element(whole, ops)  # an element of an element: "pair#1#0"
    ops[name] = Op(
        name=name,
        shape=elements(ops[whole].shape)[int(index)],
        opcode="get-tuple-element",
        operands=(whole,),
        text=f"(%{whole}), index={index}",
        is_root=False,
    )


def parse_op(line: str) -> Op:
    """Reads %NAME = SHAPE OPCODE(%OPERAND, ...), ATTRIBUTES, backend_config={...}"""
    head = re.match(r"\s+(ROOT )?%(\S+) = ", line)
    body = line[head.end() :]
    # The shape of a tuple has blanks in it; any other ends at the first blank.
    is_tuple = body.startswith("(")
    end = length_of_parenthesis(body) if is_tuple else body.index(" ")
    call = body[end:].lstrip()
    opcode, arguments = call.split("(", 1)
    # An async op that makes a call, with machine code: the name of what it calls is to_apply.
    opcode = re.sub("^call-(start|update)", r"async-\1", opcode)
    text = f"({arguments}"
    end_of_operands = length_of_parenthesis(text)
    operands = re.findall(r"%([^\s,)]+)", text[:end_of_operands])
    return Op(
        name=head[2],
        shape=body[:end],
        opcode=opcode,
        operands=tuple(operands),
        text=text,
        is_root=bool(head[1]),
    )


def length_of_parenthesis(text: str) -> int:
    """Returns the length of the parenthesis that `text` starts with.

    "(a (b)), c" -> 7
    """
    depth = 0
    for bracket in re.finditer(r"[()]", text):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return bracket.end()
    raise ValueError(f"unbalanced parentheses in {text[:200]!r}")


# --- shapes --------------------------------------------------------------------------------------


def arrays(shape: str) -> list[str]:
    """Splits a shape into its arrays: "(f32[2]{0}, s32[])" -> ["f32[2]{0}", "s32[]"]."""
    return re.findall(r"[a-z]\w*\[[\d,]*\](?:\{[^}]*\})?", shape)


def elements(shape: str) -> list[str]:
    """Splits the shape of a tuple into those of its elements.

    "(f32[2,3]{1,0}, (s32[], pred[]))" -> ["f32[2,3]{1,0}", "(s32[], pred[])"]
    """
    parts = [""]
    depth = 0
    bare = re.sub(
        r"/\*.*?\*/", "", shape[1:-1]
    )  # long tuples count in comments: /*index=5*/
    for character in bare:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def dims(array: str) -> list[int]:
    """Reads the sizes of an array: "f32[2,3]{1,0}" -> [2, 3]."""
    sizes = re.search(r"\[([\d,]*)\]", array)[1]
    return [int(n) for n in sizes.split(",") if n]


def bits_of(dtype: str) -> int:
    """Returns the bits of one number: "bf16" -> 16, "f8e4m3fn" -> 8, "s4" -> 4."""
    if dtype == "pred":
        return 8
    if dtype in ("token", "opaque"):  # these only order ops
        return 0
    return int(re.search(r"\d+", dtype)[0])


def bytes_of(shape: str) -> float:
    """Returns the bytes of all arrays of a shape."""
    total = 0.0
    for array in arrays(shape):
        dtype = array.partition("[")[0]
        numbers = math.prod(dims(array))
        total += numbers * bits_of(dtype) / 8
    return total


def in_hbm(shape: str) -> bool:
    """Tells whether an array is in the chip's main memory, not in VMEM or on the host."""
    return not re.search(r"S\([1-9]\)", shape)  # S(1) is VMEM, S(5) the host


# --- where a value comes from --------------------------------------------------------------------


def root(ops: Ops) -> Op:
    """Returns the op whose value a computation returns."""
    return next(op for op in ops.values() if op.is_root)


def branches(op: Op) -> list[str]:
    """Returns the names of the computations of a conditional."""
    if listed := re.search(r"branch_computations=\{([^}]*)\}", op.text):
        return re.findall(r"%([^\s,]+)", listed[1])
    return [op.called("true_computation"), op.called("false_computation")]


def operand(op: Op, i: int, ops: Ops) -> Op:
    """Returns the op that made operand `i`; -1 is the last one."""
    name = op.operands[i]
    return ops[name]


def starts_later(op: Op) -> bool:
    """Tells whether a part of an async op moves nothing yet, or no more.

    A SparseCore is woken before its data are there. They move from the second line on:

        %s = ((), (), (s32[1])) async-start(), calls=%gather
        %u = ((bf16[80]), bf16[5120]) async-update(%s, %shard)
        %y = bf16[5120] async-done(%u)

    Elsewhere the start has the data, and an update only hands on: async-update(%s).
    """
    data = {"async-start": 1, "async-update": 2}
    return len(op.operands) < data.get(op.opcode, 0)


def async_start(op: Op, ops: Ops) -> Op:
    """Returns the async-start that an async-update goes on from; it names the computation."""
    while op.opcode == "async-update":
        op = operand(op, 0, ops)
    return op


def starter(op: Op, ops: Ops, in_flight: dict) -> str | None:
    """Returns the name of the op in flight that `op` ends, or None.

    Searches the first operand of `op`, then the first operand of that op, and so on.
    """
    while op is not None:
        if op.name in in_flight:
            return op.name
        if not op.operands:
            return None
        op = ops.get(op.operands[0])
    return None


def producer(name: str, ops: Ops) -> Op:
    """Returns the op that computed a number, behind copies and conversions of it."""
    while ops[name].opcode in RENAMED:
        name = ops[name].operands[0]
    return ops[name]


def constant(name: str, ops: Ops) -> int | None:
    """Returns the value of an integer constant; None if the number is no constant."""
    source = producer(name, ops)
    if source.opcode != "constant":
        return None
    match = re.match(r"\((-?\d+)\)", source.text)
    return match and int(match[1])


def increment(name: str, ops: Ops) -> int | None:
    """Returns by how much a trip raises a number of the loop's state.

    Follows `name` back through additions of constants to the state: state + 1 + 1 -> 2. None if
    something else is added.
    """
    total = 0
    while (op := producer(name, ops)).opcode == "add":
        constants = [constant(operand, ops) for operand in op.operands]
        if constants.count(None) != 1:
            return None
        variable = constants.index(None)
        total += constants[1 - variable]
        name = op.operands[variable]
    return total if op.opcode == "get-tuple-element" else None


# --- matmuls and strides -------------------------------------------------------------------------


@dataclass(frozen=True)
class WindowAxis:
    """One axis of the window of a convolution."""

    size: int
    stride: int
    input_spacing: int  # from an input to the next, with zeros between them
    window_spacing: int  # from a position of the window to the next
    padding: int  # zeros in front of the inputs


def window_axes(text: str) -> list[WindowAxis]:
    """Reads window={size=2x3 pad=1_1x0_0 lhs_dilate=2x1}; a convolution may have none."""
    window = re.search(r"window=\{([^}]*)\}", text)
    if window is None:
        return []
    columns = {}  # attribute -> its values, one an axis
    for attribute, values in re.findall(r"(\w+)=(\S+)", window[1]):
        columns[attribute] = values.split("x")

    def value(attribute: str, axis: int) -> int:
        if attribute not in columns:
            return 1
        return int(columns[attribute][axis])

    axes = []
    for axis in range(len(columns["size"])):
        pad = columns["pad"][axis] if "pad" in columns else "0_0"
        axes.append(
            WindowAxis(
                size=value("size", axis),
                stride=value("stride", axis),
                input_spacing=value("lhs_dilate", axis),
                window_spacing=value("rhs_dilate", axis),
                padding=int(pad.split("_")[0]),
            )
        )
    return axes


def dot_flops(op: Op, ops: Ops) -> float:
    """Returns 2 x outputs x the number of products that each output sums."""
    sizes = dims(operand(op, 0, ops).shape)
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.text)[1]
    summed = 1
    for axis in contracted.split(","):
        if axis:
            summed *= sizes[int(axis)]
    outputs = math.prod(dims(op.shape))
    return 2 * outputs * summed


def convolution_flops(op: Op, ops: Ops) -> float:
    """Returns 2 x outputs x the number of products that each output sums.

    On a TPU matmuls are convolutions, sometimes with a window. Window positions in the padding or
    between spaced inputs are no work: a batch axis may be written as a window over the whole batch
    that meets one real row at a time.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.text)
    input_sizes = _labelled(labels[1], operand(op, 0, ops).shape)
    kernel_sizes = _labelled(labels[2], operand(op, 1, ops).shape)
    output_sizes = _labelled(labels[3], op.shape)
    summed = kernel_sizes["i"]
    for axis, window in enumerate(window_axes(op.text)):
        # Inputs [a b] with input_spacing 2 and padding 1, a window of size 2: the four outputs see
        # [. a] [a .] [. b] [b .], so of 8 positions 4 are hits, one for each output.
        spaced_inputs = input_sizes[str(axis)] * window.input_spacing
        window_count = output_sizes[str(axis)]
        end = window_count * window.stride - window.padding
        hits = 0
        for start in range(-window.padding, end, window.stride):
            for k in range(window.size):
                position = start + k * window.window_spacing
                inside = 0 <= position < spaced_inputs
                if inside and position % window.input_spacing == 0:
                    hits += 1
        summed *= hits / window_count
    outputs = math.prod(dims(op.shape))
    return 2 * outputs * summed


def is_batched(op: Op) -> bool:
    """Tells whether a product multiplies many pairs of matrices, as attention does.

    A convolution then has its batch as a window over spaced inputs, see `convolution_flops`.
    """
    if op.opcode == "dot":
        return bool(re.search(r"lhs_batch_dims=\{\d", op.text))
    if op.opcode != "convolution":
        return False
    return any(axis.input_spacing > 1 for axis in window_axes(op.text))


def _labelled(labels: str, shape: str) -> dict[str, int]:
    """Returns letter of an axis -> size; "0", "1", ... are the axes that the window moves along."""
    return dict(zip(labels, dims(shape), strict=True))


def strided(sizes: list[int], order: list[int]) -> list[int]:
    """Reads an array of the numbers 0, 1, ... along the axes in `order`, the rest at index 0.

    sizes [2, 3], order [1, 0]: the array [[0 1 2] [3 4 5]] is read as 0 3 1 4 2 5; order [0]
    reads 0 3.
    """
    ids = [0]
    for axis in order:
        stride = math.prod(sizes[axis + 1 :])
        offsets = [stride * k for k in range(sizes[axis])]
        ids = [i + offset for i in ids for offset in offsets]
    return ids
