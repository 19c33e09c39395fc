"""MME-Reasoning's puzzles: any solution that keeps the rules is right, so a program looks.

A row names its check in the column `function_id`; `special_info` has what is given (a grid, cards)
and `answer` a reference where there is one. Names and rules are those of VLMEvalKit 0.2, which lets
a judge read the solution off the answer and then runs the same checks. Here the solution is the
JSON in the last box, which the prompt asks for.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable

from r1v3_jax.benchmarks import arithmetic, grids, nested
from r1v3_jax.benchmarks.letters import Finder, find_letter
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.rules import OPEN, Ruling
from r1v3_jax.rewards.verifiers.boxes import find_boxes


def puzzle(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """Checks the solution that an answer gives. Open: no puzzle, or no solution of its form."""
    name = question.fields.get("function_id", "")
    if name == "judge_24points_function":
        solution = _expression(text)
    else:
        solution = nested.find_last(text)
    if name not in CHECKS or solution is None:
        return OPEN
    reference = nested.parse(question.answer)
    given = nested.parse(question.fields.get("special_info", ""))
    try:
        is_right = CHECKS[name](solution, reference, given)
    # A solution of another form: a list where a dictionary is wanted, texts for numbers.
    except (TypeError, KeyError, IndexError, ValueError, AttributeError):
        return OPEN
    return Ruling(bool(is_right), str(solution)[:200])


# -------------------------------------------------------------------------------------------------
# 1. Numbers in the circles of a picture


def _any(values: list) -> bool:
    return True


def _up_to(largest: int) -> Callable[[list], bool]:
    """Each of 1 to `largest` is there."""
    return lambda values: set(values) == set(range(1, largest + 1))


def _different_up_to_15(values: list) -> bool:
    return len(values) == len(set(values)) and all(1 <= value <= 15 for value in values)


def _coins(values: list) -> bool:
    """There are 5 of 20, 3 of 15, 3 of 10 and 6 of 5."""
    stock = {20: 5, 15: 3, 10: 3, 5: 6}
    return all(count <= stock.get(value, 0) for value, count in Counter(values).items())


@dataclasses.dataclass(frozen=True)
class Sums:
    """Each line of circles adds up to the same."""

    circles: str
    lines: str  # "ABC CEF": A + B + C and C + E + F
    total: int
    allows: Callable[[list], bool] = _any  # all values together

    def __call__(self, solution: dict, reference, given) -> bool:
        if not set(self.circles) <= solution.keys():
            return False
        if not self.allows(list(solution.values())):
            return False
        sums = {sum(solution[x] for x in line) for line in self.lines.split()}
        return sums == {self.total}


def _ratios(solution: dict, reference, given) -> bool:
    a, b, c = (solution[x] for x in "ABC")
    return b != 0 and a / b == 3 and c / b == 2


def _equal_sides(solution: dict, reference, given) -> bool:
    sums = {sum(solution[x] for x in line) for line in ("ABD", "DEF", "ACF")}
    return set(solution.values()) == set(range(1, 7)) and len(sums) == 1


def _with_6_and_9(solution: dict, reference, given) -> bool:
    """Two of the circles are given: 9 beside A and C, 6 beside E and G."""
    sums = [solution["A"] + solution["C"] + 9, solution["E"] + solution["G"] + 6]
    sums += [sum(solution[x] for x in line) for line in ("BCD", "FED")]
    return set(solution.values()) == {1, 2, 3, 5, 7, 8} and set(sums) == {19}


def _cat_and_dog(solution: dict, reference, given) -> bool:
    """CAT + DOG = PETS, in digits."""
    cat, dog, pets = (
        sum(solution[x] * 10**i for i, x in enumerate(reversed(word)))
        for word in ("CAT", "DOG", "PETS")
    )
    return cat + dog == pets


# -------------------------------------------------------------------------------------------------
# 2. With a reference


def _matches(solution: dict, reference: dict, given) -> bool:
    """Each entry of the reference is there; lists are sets."""
    return all(_as_set(solution.get(x)) == _as_set(y) for x, y in reference.items())


def _matches_places(solution: list, reference, given) -> bool:
    wanted = [reference] if isinstance(reference, dict) else reference
    return [_place(x) for x in solution] == [_place(x) for x in wanted]


def _matches_one(solution, reference: list, given) -> bool:
    """One of several references; {"id": [...]} is the list."""
    if isinstance(solution, dict):
        (solution,) = solution.values()
    if isinstance(solution, list):
        return set(solution) in [set(wanted) for wanted in reference]
    return solution in reference


def _place(entry: dict) -> str:
    return f"{entry['row']}{entry['column']}"


def _as_set(value):
    return set(value) if isinstance(value, list) else value


# -------------------------------------------------------------------------------------------------
# 3. Twenty-four of four cards

_CARDS = {"J": "11", "Q": "12", "K": "13", "A": "1", "×": "*", "÷": "/", "·": "*"}


def _expression(text: str) -> str | None:
    """Returns the expression of the last box, without what follows an equals sign."""
    boxes = find_boxes(text)[0]
    if not boxes:
        return None
    left = boxes[-1].partition("=")[0]
    return "".join(_CARDS.get(character, character) for character in left)


def _makes_24(expression: str, reference, given: dict) -> bool:
    numbers = sorted(map(int, re.findall(r"\d+", expression)))
    is_24 = arithmetic.value(expression) == 24
    return is_24 and numbers == sorted(given["init_cards"])


_NUMBERED = (
    _ratios,
    Sums("ABCDEF", "ABC CEF ADF", 25),
    Sums("ABCDEFGHIJKLMNO", "ADEH CEGH IGJH NMJH OMHL KLHF BFHD", 30, _up_to(15)),
    Sums("ABCDEFGHI", "ABED BCEF DEGH EFHI BDHF ACIG", 20, _up_to(9)),
    Sums("ABCDEFGHIJKLMNOPQ", "ABC AGO OPQ CKQ ADINQ CFILO BEIMP GHIJK", 55, _coins),
    Sums(
        "ABCDEFGHIJKLMNOPQRS",
        "AJS CJQ EJO GJM IJK LJH NJF PJD RJB",
        30,
        _up_to(19),
    ),
    Sums("ABCDEFGHIJKL", "ACFH ADGK BCDE HIJK BFIL EGJL", 26, _up_to(12)),
    Sums(
        "ABCDEFGHIJKLM",
        "ABC AFK BDE BEH CHM DGJ EGI FIL HJI KLM",
        20,
        _different_up_to_15,
    ),
    Sums(
        "ABCDEFGHIJKLMNOPQRS",
        "ABC ADH AEJ CFJ CGL HIJ HMQ JKL JNQ JOS LPS QRS",
        22,
        _up_to(19),
    ),
    _equal_sides,
    _with_6_and_9,
    _cat_and_dog,
)
CHECKS: dict[str, Callable[..., bool]] = {
    **{
        f"calculate_answer_function_{number}": check
        for number, check in enumerate(_NUMBERED, start=1)
    },
    "match_answer_function": _matches,
    "match_coordinate_function": _matches_places,
    "multiple_match_function": _matches_one,
    "calculate_answer_function_hashi": grids.bridges,
    "calculate_answer_function_skyscraper": grids.skyscrapers,
    "calculate_answer_function_sudoku_4": grids.sudoku(4, 2),
    "calculate_answer_function_sudoku_6": grids.sudoku(6, 3),
    "calculate_answer_function_yinyang": grids.yin_yang,
    "judge_24points_function": _makes_24,
}
