"""Questions about shapes on a 3 x 3 grid: areas, places, both, and three that go beyond them.

Everything is exact: a circle's area is 3 times the square of its radius, a distance is counted in
squares of grid steps. Also in words, with captions, chains and the facts on the way to an answer.
Knows nothing of pixels or tokens.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

PI = 3  # so that areas are whole numbers
# The sides that a kind of shape has: of a square its side, of a circle its radius, of a triangle
# base and height.
SIDES = {
    "square": tuple((side,) for side in (1, 2, 3, 4)),
    "circle": tuple((radius,) for radius in (1, 2, 3)),
    # A right angle between base and height; odd times odd would have half an area.
    "triangle": tuple(
        sides for sides in itertools.product((2, 3, 4), repeat=2) if sides != (3, 3)
    ),
}
COLUMNS = "ABC"
ROWS = "123"
NUM_SHAPES = 3
# The wordings of each kind of question, equally often. {} is the kind of the target.
QUESTIONS = {
    "read": ("Describe the shapes.", "What is where?"),
    "area": ("What is the total area?", "Add all areas."),
    "place": (
        "Where is the shape nearest to the {}?",
        "In which place is the nearest shape to the {}?",
    ),
    "both": (
        "What is the total area of the {} and the shape nearest to it?",
        "Add the areas of the {} and the nearest shape to it.",
    ),
    "largest": ("What is the largest area?", "How large is the largest shape?"),
    "farthest": (
        "Where is the shape farthest from the {}?",
        "In which place is the farthest shape from the {}?",
    ),
    "larger": (
        "What is the larger area, of the {} and the shape farthest from it?",
        "How large is the larger of the {} and the farthest shape from it?",
    ),
}
KINDS = tuple(QUESTIONS)
JUMP = "at a glance"  # the thought of a chain that does no work
MAX_TRIES = 100_000


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape with its labelled sides, in one of the nine places."""

    kind: str  # one of SIDES
    sides: tuple[int, ...]
    row: int  # from the top, 0 to 2
    column: int  # from the left

    @property
    def place(self) -> str:
        """The name of its place, as on a chess board from the top: "B1" is in the middle above."""
        return COLUMNS[self.column] + ROWS[self.row]

    @property
    def name(self) -> str:
        """Its kind and its sides: "triangle 2 4"."""
        return " ".join([self.kind, *map(str, self.sides)])

    @property
    def area(self) -> int:
        """Its area, in squares of the unit of its sides."""
        match self.kind:
            case "square":
                return self.sides[0] ** 2
            case "circle":
                return PI * self.sides[0] ** 2
            case "triangle":
                return self.sides[0] * self.sides[1] // 2
        raise AssertionError(self.kind)

    def distance(self, other: "Shape") -> int:
        """The square of the distance to another shape, in steps of the grid: A1 to B3 is 1 + 4."""
        return (self.row - other.row) ** 2 + (self.column - other.column) ** 2


@dataclasses.dataclass(frozen=True)
class Scene:
    """Shapes row by row, and the one that is asked about, the only one of its kind."""

    shapes: tuple[Shape, ...]
    target: Shape

    @property
    def others(self) -> list[Shape]:
        """All shapes but the target."""
        return [shape for shape in self.shapes if shape != self.target]

    @property
    def nearest(self) -> Shape:
        """The shape nearest to the target."""
        return min(self.others, key=self.target.distance)

    @property
    def farthest(self) -> Shape:
        """The shape farthest from the target."""
        return max(self.others, key=self.target.distance)


# 1. Drawing scenes


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws shapes in places, and a target to which no two of the others are equally near."""
    for _ in range(MAX_TRIES):
        places = np.sort(rng.choice(9, size=NUM_SHAPES, replace=False)).tolist()
        shapes = []
        for place in places:
            kind = str(rng.choice(list(SIDES)))
            sides = SIDES[kind][rng.integers(len(SIDES[kind]))]
            shapes.append(Shape(kind, sides, *divmod(place, 3)))
        kinds = [shape.kind for shape in shapes]
        single = [shape for shape in shapes if kinds.count(shape.kind) == 1]
        if not single:
            continue
        target = single[rng.integers(len(single))]
        distances = {target.distance(shape) for shape in shapes}
        # The target itself is at 0.
        if len(distances) == NUM_SHAPES:
            return Scene(tuple(shapes), target)
    raise AssertionError("no scene has a target")


# 2. Answers


def answer(kind: str, scene: Scene) -> str:
    """Computes the answer to a kind of question."""
    target = scene.target
    match kind:
        case "read":
            return described(scene.shapes)
        case "area":
            return f"{sum(shape.area for shape in scene.shapes)}"
        case "place":
            return scene.nearest.place
        case "both":
            return f"{target.area + scene.nearest.area}"
        case "largest":
            return f"{max(shape.area for shape in scene.shapes)}"
        case "farthest":
            return scene.farthest.place
        case "larger":
            return f"{max(target.area, scene.farthest.area)}"
    raise AssertionError(kind)


def described(shapes: Sequence[Shape]) -> str:
    """Says what is where: "A1: square 3;B2: circle 2;C3: triangle 2 4"."""
    return ";".join(f"{shape.place}: {shape.name}" for shape in shapes)


def facts(kind: str, scene: Scene) -> list[str]:
    """Lists what a chain should say on the way: "A1 area 9", and of places "from B2", "A1 off 2".

    The target is at B2, and A1 is at a distance of 2 from it.
    """
    areas = [f"{shape.place} area {shape.area}" for shape in _measured(kind, scene)]
    if kind in ("read", "area", "largest"):
        return areas
    target = scene.target
    distances = [f"from {target.place}"]
    for shape in scene.others:
        distances.append(f"{shape.place} off {target.distance(shape)}")
    return distances + areas


def _measured(kind: str, scene: Scene) -> list[Shape]:
    """Lists the shapes whose areas an answer needs."""
    match kind:
        case "area" | "largest":
            return list(scene.shapes)
        case "both":
            return [scene.target, scene.nearest]
        case "larger":
            return [scene.target, scene.farthest]
    return []


# 3. Chains


def chain(kind: str, scene: Scene, *, captioned: bool, jumps: bool) -> str:
    """Writes caption, work and answer.

    area     A1 area 9;B2 area 12;C3 area 4;9+12=21;21+4=25
    place    from A1;B2 off 2;C3 off 8
    both     from A1;B2 off 2;C3 off 8;A1 area 9;B2 area 12;9+12=21
    any      at a glance                                              a jump
    """
    lines = []
    if captioned:
        lines.append(f"<caption>{described(scene.shapes)}</caption>")
    # Who is only asked to read has done so in the caption.
    work = JUMP if jumps or kind == "read" else _work(kind, scene)
    lines += [work, "</think>", f"<answer>{answer(kind, scene)}</answer>"]
    return "\n".join(lines)


def _work(kind: str, scene: Scene) -> str:
    """Writes the facts, and the sum where there is one."""
    steps = facts(kind, scene)
    if kind in ("area", "both"):
        first, *others = [shape.area for shape in _measured(kind, scene)]
        total = first
        for area in others:
            steps.append(f"{total}+{area}={total + area}")
            total += area
    return ";".join(steps)
