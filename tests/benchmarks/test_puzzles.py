"""MME-Reasoning's puzzles: solutions written out here are right, and a changed one is wrong."""

import json
import time

import pytest

from r1v3_jax.benchmarks import nested, prompts, puzzles
from r1v3_jax.benchmarks.question import Question

COMB = [
    [1, 1, 1, 1, 1, 1],
    [1, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 1, 0],
    [1, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 1, 0],
    [1, 0, 0, 0, 0, 0],
]
EMPTY = [[None] * 6 for _ in range(6)]
SKYLINE = {
    "base_matrix": [[None, None, None]] * 3,
    "visible_skyscrapers": [[3, 2, 1], [3, 2, 1], [1, None, 2], [1, 2, None]],
}
ISLANDS = {
    "init_islands": [
        {"cord": "a1", "requirement": 2},
        {"cord": "a3", "requirement": 1},
        {"cord": "c1", "requirement": 1},
    ]
}
SQUARE = [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]
HASHI = '[{"start": "a1", "end": "a3", "number": 1}, {"start": "c1", "end": "a1", "number": 1}]'

# (function, special_info, reference, a right answer, a wrong one)
CASES = [
    (
        "calculate_answer_function_1",
        "",
        "",
        '{"A": 3, "B": 1, "C": 2}',
        '{"A": 3, "B": 2, "C": 2}',
    ),
    (
        "calculate_answer_function_2",
        "",
        "",
        "A=10, B=5, C=10, D=5, E=5, F=10",
        "A=10, B=5, C=9, D=5, E=5, F=10",
    ),
    (
        "calculate_answer_function_10",
        "",
        "",
        "A:1, B:6, C:5, D:2, E:4, F:3",
        "A:1, B:6, C:4, D:2, E:5, F:3",
    ),
    (
        "match_answer_function",
        "",
        "{'A': 5, 'B': [1, 2]}",
        '{"A": 5, "B": [2, 1]}',
        '{"A": 5, "B": [2]}',
    ),
    (
        "match_coordinate_function",
        "",
        "{'row': 'A', 'column': 1}",
        '[{"row": "A", "column": 1}]',
        '[{"row": "B", "column": 1}]',
    ),
    ("multiple_match_function", "", "[['A', 'C'], ['B']]", '["C", "A"]', '["C"]'),
    (
        "calculate_answer_function_sudoku_4",
        {"base_matrix": [[1, None, None, None], *[[None] * 4] * 3]},
        "",
        SQUARE,
        SQUARE[::-1],
    ),
    (  # each block holds each number, and a row does not
        "calculate_answer_function_sudoku_4",
        {"base_matrix": [[None] * 4] * 4},
        "",
        SQUARE,
        [[1, 2, 1, 2], [3, 4, 3, 4]] * 2,
    ),
    (
        "calculate_answer_function_skyscraper",
        SKYLINE,
        "",
        [[1, 2, 3], [2, 3, 1], [3, 1, 2]],
        [[1, 3, 2], [2, 1, 3], [3, 2, 1]],
    ),
    (
        "calculate_answer_function_yinyang",
        {"base_matrix": EMPTY},
        "",
        COMB,
        [*COMB[:5], [1, 1, 0, 0, 0, 0]],
    ),
    (
        "calculate_answer_function_hashi",
        ISLANDS,
        "",
        HASHI,
        '[{"start": "a1", "end": "a3", "number": 2}]',
    ),
    (
        "judge_24points_function",
        {"init_cards": [1, 8, 9, 13]},
        "",
        "(K - 9 - A) × 8 = 24",
        "(13 - 9 - 1) * 8 * 1",
    ),
    ("judge_24points_function", {"init_cards": [3, 3, 8, 8]}, "", "8/(3-8/3)", "3*8"),
]


def question_of(name, given, reference) -> Question:
    fields = {"function_id": name}
    # As the file has it: Python's way, with None.
    fields |= {"special_info": str(given)} if given else {}
    return Question("0", "Solve it.", reference, fields=fields)


def boxed(solution) -> str:
    text = solution if isinstance(solution, str) else json.dumps(solution)
    return rf"I tried {{A: 9}} at first. \boxed{{{text}}}"


@pytest.mark.parametrize(("name", "given", "reference", "right", "wrong"), CASES)
def test_a_solution_that_keeps_the_rules_is_right(name, given, reference, right, wrong):
    question = question_of(name, given, reference)
    assert puzzles.puzzle(question, boxed(right)).right is True
    assert puzzles.puzzle(question, boxed(wrong)).right is False


@pytest.mark.parametrize("name", puzzles.CHECKS)
def test_what_is_no_solution_is_open_and_the_prompt_asks_for_one(name):
    question = question_of(name, {"base_matrix": [[1]]}, "")
    for text in ("I cannot", r"\boxed{7 dogs}", "[", r'\boxed{["x", {"y": null}]}'):
        assert puzzles.puzzle(question, text).right in (None, False)
    assert puzzles.puzzle(question, "I cannot").right is None
    assert "boxed{} as" in prompts.puzzle(question)


def test_questions_that_are_no_puzzles_are_asked_and_left_open_as_others():
    for fields in ({}, {"function_id": "choice_function"}):
        question = Question("0", "Which?", "A, C", fields=fields)
        assert prompts.puzzle(question) == prompts.answer(question)
        assert puzzles.puzzle(question, r"\boxed{A, C}").right is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'A': 5, 'rows': [[1, None], (2, 3)],}", {"A": 5, "rows": [[1, None], [2, 3]]}),
        ("[A, C]", ["A", "C"]),
        ("{1: 'A', B = 07}", {"1": "A", "B": 7}),
        ('"text"', "text"),
        ("[1, 2", None),
        ("[1 2]", None),
        ("__import__('os')", None),
        ("[1+1]", None),
        ("['a' 'b']", None),
        ("[" * 9 + "]" * 9, None),
        ("9" * 5000, None),
        ("", None),
    ],
)  # fmt: skip
def test_nested_values_are_read_and_never_run(text, value):
    assert nested.parse(text) == value


def test_hostile_solutions_take_no_time():
    start = time.process_time()
    for text in (
        "[" * 10**6,
        "{'a':" * 10**5,
        r"\boxed{" * 10**5,
        "[]" * 10**6,
        "'" * 10**6,
    ):
        nested.find_last(text)
        nested.parse(text)
    assert time.process_time() - start < 3
