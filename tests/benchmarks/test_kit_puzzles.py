"""MME-Reasoning's checks beside those of VLMEvalKit 0.2: `bash tests/kits.sh` runs this.

20,000 generated solutions a check, of which some are right; none may differ.
"""

import copy
import random

import pytest

from r1v3_jax.benchmarks import puzzles

pytest.importorskip("vlmeval", reason="needs VLMEvalKit: bash tests/kits.sh")

SOLUTIONS = 20_000
SUMS = {
    name: check
    for name, check in puzzles.CHECKS.items()
    if isinstance(check, puzzles.Sums)
}
GRIDS = {
    "calculate_answer_function_sudoku_4": 4,
    "calculate_answer_function_sudoku_6": 6,
    "calculate_answer_function_skyscraper": 4,
    "calculate_answer_function_yinyang": 6,
}
# Numbers that the circles may hold, by the last digits of the function's name.
DOMAINS = {"2": range(1, 16), "5": (5, 10, 15, 20), "8": range(1, 16)}


def domain_of(name: str, check) -> list[int]:
    number = name.rpartition("_")[2]
    return list(DOMAINS.get(number, range(1, len(check.circles) + 1)))


def kit_says(name: str, *arguments):
    from vlmeval.dataset.utils.mme_reasoning import mme_reasoning_eval_functions

    return bool(mme_reasoning_eval_functions[name](*copy.deepcopy(arguments)))


def solve(rng, check, domain: list[int]) -> dict | None:
    """Fills the circles line by line; the last circle of a line is what is missing to the total."""
    lines = check.lines.split()
    # First the circle in which most lines meet, then along the lines.
    hub = max(check.circles, key="".join(lines).count)
    order = list(dict.fromkeys(hub + "".join(lines) + check.circles))
    is_distinct = len(domain) > 4 and check.allows is not puzzles._any
    budget = 20_000

    def fill(values: dict) -> dict | None:
        nonlocal budget
        budget -= 1
        if budget < 0:
            return None
        circle = next((x for x in order if x not in values), None)
        if circle is None:
            return dict(values) if check(values, None, None) else None
        choices = rng.sample(domain, len(domain))
        for line in lines:
            if circle in line and all(x in values for x in line if x != circle):
                missing = check.total - sum(values[x] for x in line if x != circle)
                choices = [x for x in choices if x == missing]
        for value in choices:
            if is_distinct and value in values.values():
                continue
            if found := fill({**values, circle: value}):
                return found
        return None

    return fill({})


@pytest.mark.parametrize("name", SUMS)
def test_circles(name):
    check = SUMS[name]
    rng = random.Random(name)
    domain = domain_of(name, check)
    solved = [x for x in (solve(rng, check, domain) for _ in range(40)) if x]
    outcomes = {True: 0, False: 0}
    for _ in range(SOLUTIONS):
        solution = {x: rng.choice(domain) for x in check.circles}
        if solved and rng.random() < 0.6:
            solution = dict(rng.choice(solved))
        for _ in range(rng.choice([0, 0, 1, 2])):  # changed, exchanged, left out, added
            x, y = rng.sample(list(solution), 2)
            if rng.random() < 0.4:
                solution[x], solution[y] = solution[y], solution[x]
            else:
                solution[x] = rng.choice(domain)
        if rng.random() < 0.05:
            solution.pop(rng.choice(list(solution)))
        if rng.random() < 0.05:
            solution["Z"] = rng.choice(domain)
        wanted = kit_says(name, solution)
        assert check(solution, None, None) is wanted, solution
        outcomes[wanted] += 1
    assert outcomes[False] > 100
    # Number 8 has no solution: BDE and BEH add up to the same, and D and H are to differ.
    assert outcomes[True] > 100 or name.endswith("_8")


@pytest.mark.parametrize("number", [1, 10, 11, 12])
def test_other_circles(number):
    name = f"calculate_answer_function_{number}"
    rng = random.Random(number)
    circles = {1: "ABC", 10: "ABCDEF", 11: "ABCDEFG", 12: "ACTDOGPES"}[number]
    largest = {1: 6, 10: 6, 11: 8, 12: 2}[number]
    outcomes = set()
    for _ in range(SOLUTIONS):
        solution = {x: rng.randint(1 if number < 12 else 0, largest) for x in circles}
        if number == 10:
            solution = dict(zip(circles, rng.sample(range(1, 7), 6), strict=True))
        if number == 11:
            # A circle is filled twice with one of six numbers.
            chosen = rng.sample([1, 2, 3, 5, 7, 8, rng.choice([1, 2, 3, 5, 7, 8])], 7)
            solution = dict(zip(circles, chosen, strict=True))
        wanted = kit_says(name, solution)
        assert bool(puzzles.CHECKS[name](solution, None, None)) is wanted, solution
        outcomes.add(wanted)
    # Number 11 has no solution either, as the kit states it.
    assert outcomes == ({False} if number == 11 else {True, False})


def latin(rng, size: int, width: int) -> list[list[int]]:
    """A grid whose rows, columns and blocks of two rows hold each number once."""
    numbers = rng.sample(range(1, size + 1), size)
    shifts = [width * (r % 2) + r // 2 for r in range(size)]
    grid = [numbers[shift:] + numbers[:shift] for shift in shifts]
    return grid


COMB = [[1] * 6, *[[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]] * 2, [1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("name", GRIDS)
def test_grids(name):
    rng = random.Random(name)
    size = GRIDS[name]
    outcomes = set()
    for _ in range(SOLUTIONS):
        grid = latin(rng, size, 3 if size == 6 else 2)
        if name.endswith("yinyang"):
            grid = rng.choice([COMB, [list(x) for x in zip(*COMB, strict=True)]])
        grid = [list(row) for row in grid]
        given = {
            "base_matrix": [
                [x if rng.random() < 0.1 else None for x in r] for r in grid
            ]
        }
        if name.endswith("skyscraper"):
            given["visible_skyscrapers"] = [
                [rng.choice([None, None, None, 1, 2, 3]) for _ in range(size)]
                for _ in range(4)
            ]
            if rng.random() < 0.5:
                given["visible_skyscrapers"] = [[None] * size] * 4
        for _ in range(rng.choice([0, 0, 1, 2])):
            r, c = rng.randrange(size), rng.randrange(size)
            grid[r][c] = rng.choice(grid[rng.randrange(size)])
        if rng.random() < 0.02:
            grid.pop()
        try:
            wanted = kit_says(name, grid, None, given)
        except IndexError:  # a row too few
            continue
        assert bool(puzzles.CHECKS[name](grid, None, given)) is wanted, (grid, given)
        outcomes.add(wanted)
    assert outcomes == {True, False}


def test_bridges():
    name = "calculate_answer_function_hashi"
    rng = random.Random(0)
    outcomes = set()
    for _ in range(SOLUTIONS):
        places = [f"{x}{y}" for x in "abc" for y in (1, 2, 3)]
        islands = rng.sample(places, rng.randint(2, 6))
        bridges = []
        for _ in range(rng.randint(1, 5)):
            start, end = rng.choices(islands if rng.random() < 0.95 else places, k=2)
            bridges.append(
                {"start": start, "end": end, "number": rng.choice([1, 1, 2])}
            )
        counts = dict.fromkeys(islands, 0)
        for bridge in bridges:
            for end in (bridge["start"], bridge["end"]):
                counts[end] = counts.get(end, 0) + bridge["number"]
        if rng.random() < 0.2:
            counts[rng.choice(islands)] += 1
        given = {
            "init_islands": [{"cord": x, "requirement": counts[x]} for x in islands]
        }
        wanted = kit_says(name, bridges, None, given)
        assert bool(puzzles.CHECKS[name](bridges, None, given)) is wanted, (
            bridges,
            given,
        )
        outcomes.add(wanted)
    assert outcomes == {True, False}


def test_twenty_four():
    """The kit runs the expression. It rounds, so that 8/(3-8/3) is not 24 there; it is here."""
    name = "judge_24points_function"
    rng = random.Random(0)
    outcomes = set()
    for _ in range(SOLUTIONS):
        cards = [rng.randint(1, 13) for _ in range(4)]
        a, b, c, d = rng.sample(cards, 4)
        x, y, z = rng.choices(["+", "-", "*", "/"], k=3)
        forms = [
            f"(({a}{x}{b}){y}{c}){z}{d}",
            f"({a}{x}{b}){y}({c}{z}{d})",
            f"{a} {x} {b} {y} {c}",
        ]
        expression = rng.choice(forms)
        if rng.random() < 0.3:
            cards, expression = (
                [2, 3, 4, 1],
                rng.choice(["2*3*4*1", "(1+3)*(2+4)", "4*3*2/1=24"]),
            )
        given = {"init_cards": cards}
        wanted = kit_says(name, expression, None, given)
        solution = expression.partition("=")[0]
        is_right = puzzles.CHECKS[name](solution, None, given)
        if is_right and not wanted and "/" in expression:
            assert abs(eval(expression) - 24) < 1e-9
            continue
        assert is_right is wanted, expression
        outcomes.add(wanted)
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    "name",
    ["match_answer_function", "match_coordinate_function", "multiple_match_function"],
)
def test_references(name):
    rng = random.Random(name)
    outcomes = set()
    for _ in range(SOLUTIONS):
        if name == "match_answer_function":
            value = lambda: rng.choice([1, 2, "A", [1, 2], [2, 1], [1]])  # noqa: E731
            reference = {x: value() for x in rng.sample("ABC", 2)}
            solution = {x: value() for x in "ABC"}
            if rng.random() < 0.3:
                solution |= reference
        elif name == "match_coordinate_function":
            place = lambda: {"row": rng.choice("AB"), "column": rng.randint(1, 2)}  # noqa: E731
            reference = rng.choice([place(), [place()], [place(), place()]])
            solution = [place() for _ in range(rng.randint(1, 2))]
        else:
            reference = rng.choice([["A", "B"], [["A"], ["A", "B"]], [["B", "A"]]])
            is_listed = isinstance(reference[0], list)
            solution = {
                "id": rng.choice([["A"], ["A", "B"], ["B"]])
                if is_listed
                else rng.choice("ABC")
            }
        wanted = kit_says(name, solution, reference)
        assert bool(puzzles.CHECKS[name](solution, reference, None)) is wanted
        outcomes.add(wanted)
    assert outcomes == {True, False}
