"""Knights and knaves: truth, the only solution, what a split shares, texts, chains and rules."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards.verify import check_gold
from r1v3_jax.tasks import knights
from r1v3_jax.tasks.knight_chains import HELD_BACK, Rules, draw_rules, obeying, worked
from r1v3_jax.tasks.knight_puzzles import (
    NAMES,
    in_words,
    is_true,
    puzzle_class,
    solutions,
)
from r1v3_jax.tasks.knights import SPLITS, Knights

ADA = ("telling-truth", 0)
BEN = ("telling-truth", 1)
BEN_LIES = ("lying", 1)
# Ada: "Ben is a knave." Ben: "If Ada is a knight then Ben is a knight."
PUZZLE = (BEN_LIES, ("->", ADA, BEN))
# Written by tools of reasoning-gym 0.1.25 (Apache-2.0): puzzles with all of their solutions.
ORACLE = Path(__file__).parent / "reasoning_gym_knights.jsonl"


def oracle_rows() -> list[tuple[tuple, list[tuple[bool, ...]]]]:
    rows = [json.loads(line) for line in ORACLE.read_text("utf-8").splitlines()]
    return [
        (as_tuple(row["statements"]), [tuple(roles) for roles in row["solutions"]])
        for row in rows
    ]


def as_tuple(value):
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


# 1. Truth


def test_a_puzzle_solved_by_hand():
    """Both knights: Ada's "Ben is a knave" is false. Both knaves: it is true. Ada a knave and Ben
    a knight: it is false, and Ben's "if" is true. Ada a knight, Ben a knave: the "if" is false.
    """
    assert solutions(PUZZLE) == [(True, False), (False, True)]
    only = (("and", BEN_LIES, ADA), ("<=>", ADA, BEN))
    assert solutions(only) == [(True, False)]


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("and", (True, False, False, False)),
        ("or", (True, True, True, False)),
        ("->", (True, False, True, True)),
        ("<=>", (True, False, False, True)),
    ],
)
def test_truth_tables(kind, table):
    """Rows: both knights, Ada alone, Ben alone, nobody."""
    rows = tuple(itertools.product((True, False), repeat=2))
    assert tuple(is_true((kind, ADA, BEN), roles) for roles in rows) == table
    assert [is_true(("not", (kind, ADA, BEN)), roles) for roles in rows] == [
        not value for value in table
    ]


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="kind 'xor'"):
        is_true(("xor", ADA, BEN), (True, True))


def test_solutions_are_those_of_reasoning_gym():
    """An oracle: puzzles by its generator and by ours, solved by its solver."""
    rows = oracle_rows()
    assert len(rows) > 150
    assert {len(statements) for statements, _ in rows} == set(range(2, 9))
    assert {len(found) for _, found in rows} >= {0, 1, 2}
    for statements, found in rows:
        assert solutions(statements) == found


def test_solutions_are_those_of_the_installed_reasoning_gym():
    """The same with the library itself, which is too large for the tests' environment."""
    oracle = pytest.importorskip("reasoning_gym.logic.knights_knaves")
    for people in range(2, 9):
        source = Knights((people,), depth=3)
        for index in range(20):
            statements = source.puzzle(index).statements
            found = oracle.KnightsKnavesDataset.find_solution(statements)
            assert solutions(statements) == found


# 2. The source


@pytest.mark.parametrize("people", range(2, 9))
def test_every_puzzle_has_one_solution_and_says_it(people):
    source = Knights((people,), seed=people)
    for index in range(12):
        puzzle = source.puzzle(index)
        example = source(index)
        assert solutions(puzzle.statements) == [puzzle.roles]
        assert len(set(puzzle.names)) == people == example.metadata["people"]
        lines = [
            f"({n}) {name} is a {'knight' if role else 'knave'}"
            for n, (name, role) in enumerate(
                zip(puzzle.names, puzzle.roles, strict=True), 1
            )
        ]
        assert example.answer == "\n".join(lines)
        assert check_gold(example.answer, example.verifier) is None
        for statement in puzzle.statements:
            assert in_words(statement, puzzle.names) in example.question


def test_examples_are_a_function_of_the_index():
    source = Knights(worked=0.5, with_rules=0.5)
    again = Knights(worked=0.5, with_rules=0.5)
    assert [source(i) for i in (5, 0, 5)] == [again(5), again(0), again(5)]
    assert len({source(i).question for i in range(100)}) > 95
    # Chains do not decide which puzzles are drawn, nor does the wording.
    assert [source.puzzle(i) for i in range(20)] == [
        Knights(brief=True).puzzle(i) for i in range(20)
    ]
    assert Knights(seed=1)(0).question != source(0).question


def test_no_puzzle_is_in_two_splits():
    """Compared by brute force: all renamings, and every order of equal parts, of 2 and 3 people."""
    forms = {
        split: {
            canonical(Knights((people,), split=split).puzzle(index).statements)
            for people in (2, 3)
            for index in range(150)
        }
        for split in SPLITS
    }
    for first, second in itertools.combinations(SPLITS, 2):
        assert not forms[first] & forms[second], (first, second)
    shares = [len(classes) for classes in SPLITS.values()]
    assert sum(shares) == 10
    assert sorted(n for classes in SPLITS.values() for n in classes) == list(range(10))


def canonical(statements) -> str:
    """Returns the first in the alphabet of all ways to write a puzzle."""

    def written(statement, number: tuple[int, ...]) -> str:
        kind = statement[0]
        if kind in ("telling-truth", "lying"):
            return f"{kind} {number[statement[1]]}"
        if kind == "not" and statement[1][0] in ("telling-truth", "lying"):
            atom, person = statement[1]
            other = {"telling-truth": "lying", "lying": "telling-truth"}[atom]
            return written((other, person), number)
        parts = [written(part, number) for part in statement[1:]]
        return f"({kind}: {', '.join(parts if kind == '->' else sorted(parts))})"

    ways = []
    for number in itertools.permutations(range(len(statements))):
        lines = [""] * len(statements)
        for speaker, statement in enumerate(statements):
            lines[number[speaker]] = written(statement, number)
        ways.append("; ".join(lines))
    return min(ways)


def test_a_class_is_the_same_for_every_form_of_a_puzzle():
    three = (("and", BEN, ("lying", 2)), ("not", ("lying", 2)), ("<=>", ADA, BEN))
    # The same with the first person last, and parts the other way round.
    moved = (
        ("telling-truth", 1),
        ("<=>", ("telling-truth", 0), ("telling-truth", 2)),
        ("and", ("lying", 1), ("telling-truth", 0)),
    )
    assert canonical(three) == canonical(moved)
    assert puzzle_class(three) == puzzle_class(moved)
    implied = (("->", BEN, ("lying", 2)), *three[1:])
    turned = (("->", ("lying", 2), BEN), *three[1:])
    assert puzzle_class(implied) != puzzle_class(turned)
    # About oneself is not about another.
    assert puzzle_class((ADA, ADA)) != puzzle_class((BEN, ADA))


def test_words_of_a_statement():
    names = ("Ada", "Ben")
    assert in_words(PUZZLE[1], names) == "if Ada is a knight then Ben is a knight"
    nested = ("not", ("or", ("not", BEN_LIES), ("and", ADA, BEN)))
    assert in_words(nested, names) == (
        "it is not the case that (Ben is not a knave or (Ada is a knight and Ben is a knight))"
    )
    assert in_words(("<=>", ADA, BEN_LIES), names) == (
        "Ada is a knight if and only if Ben is a knave"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"people": (1,)}, "wanted numbers from 2 to 8"),
        ({"people": (2, 9)}, "wanted numbers from 2 to 8"),
        ({"people": ()}, "wanted numbers from 2 to 8"),
        ({"split": "test"}, "choose from train, tuning, validation, held_out"),
        ({"worked": 1.5}, "worked is 1.5"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_senseless_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Knights(**fields)


# 3. Chains and rules


def test_a_chain_written_out():
    statements = (("and", BEN_LIES, ADA), ("<=>", ADA, BEN))
    assert worked(statements, ("Ada", "Ben")) == " Ada+ Ben+ no; Ada+ Ben- ok ok"


def test_every_word_of_a_worked_chain_is_true():
    source = Knights((2, 3, 4), brief=True)
    for index in range(60):
        puzzle = source.puzzle(index)
        thought, _, rest = source(index).chain.partition("\n</think>\n")
        assert rest == f"<answer>\n{source(index).answer}\n</answer>"
        tries = thought.split(";")
        for attempt in tries:
            roles = [mark == "+" for mark in re.findall(r"[+-]", attempt)]
            for statement, role, word in zip(
                puzzle.statements, roles, re.findall("ok|no", attempt), strict=False
            ):
                assert (word == "ok") == (is_true(statement, roles) == role)
        # Only the last try fits.
        assert tuple(roles) == puzzle.roles
        assert ["no" in attempt for attempt in tries] == [True] * (len(tries) - 1) + [
            False
        ]


def test_shares_of_chains_and_rules():
    rows = [Knights(brief=True, worked=0.3, with_rules=0.5)(i) for i in range(400)]
    bare = [row for row in rows if not row.before]
    assert 160 < len(bare) < 240
    jumped = [row for row in bare if row.chain.startswith(" clear\n")]
    assert 0.6 < len(jumped) / len(bare) < 0.8
    assert all(row.answer in row.chain for row in bare)


def test_rules_are_told_in_a_line():
    rules = Rules(2.0, -1.5, -2.0, 1.0, -1.0)
    assert str(rules) == (
        "Scores: right 2, wrong -1.5, unreadable -2; form 1, else -1."
    )
    assert str(rules.without_form()) == "Scores: right 2, wrong -1.5, unreadable -2."
    assert str(rules.negated()) == (
        "Scores: right -2, wrong 1.5, unreadable 2; form -1, else 1."
    )
    assert rules.negated().without_form().form is None


@pytest.mark.parametrize(
    ("rules", "thought", "is_right", "has_tags"),
    [
        (Rules(2, -1.5, -2, 1, -1), " Ada+ Ben+ no; Ada+ Ben- ok ok", True, True),
        (Rules(2, -1.5, -2), " Ada+ Ben+ no; Ada+ Ben- ok ok", True, True),
        (Rules(0.5, -3, -1, -1, 2), " Ada+ Ben+ no; Ada+ Ben- ok ok", True, False),
        (Rules(-2, 1.5, 2, 1, -1), " clear", False, True),
        (Rules(-2, 1.5, 2, -1, 1), " clear", False, False),
    ],
)
def test_a_chain_that_earns_most(rules, thought, is_right, has_tags):
    statements = (("and", BEN_LIES, ADA), ("<=>", ADA, BEN))
    names = ("Ada", "Ben")
    rng = np.random.default_rng(0)
    text = obeying(rules, statements, names, (True, False), rng)
    said, _, answer = text.partition("\n</think>\n")
    assert said == thought
    assert ("<answer>" in answer) == ("</answer>" in answer) == has_tags
    right = "(1) Ada is a knight\n(2) Ben is a knave"
    assert (right in answer) == is_right
    assert len(re.findall("knight|knave", answer)) == 2


def test_drawn_rules_pay_for_both_kinds_of_answers_and_forms():
    rng = np.random.default_rng(0)
    drawn = [draw_rules(rng) for _ in range(1000)]
    assert 0.7 < np.mean([rules.right > rules.wrong for rules in drawn]) < 0.8
    assert 0.2 < np.mean([rules.form is None for rules in drawn]) < 0.3
    pays = [rules.form > rules.no_form for rules in drawn if rules.form is not None]
    assert 0.6 < np.mean(pays) < 0.73
    for rules in drawn:
        assert [abs(rules.right), abs(rules.wrong), abs(rules.unreadable)] != HELD_BACK
        # What an unreadable answer earns has the sign of a wrong one.
        assert np.sign(rules.wrong) == np.sign(rules.unreadable) != np.sign(rules.right)


# 4. The tokenizer


def test_text_comes_back_from_its_tokens(tmp_path):
    assert knights.write_tokenizer(tmp_path) == len(knights.vocabulary()) <= 192
    tokenizer = load(tmp_path)
    unknown = tokenizer.control_ids["<unk>"]
    for brief in (True, False):
        source = Knights((2, 5, 8), brief=brief, worked=0.5, with_rules=0.5, depth=3)
        for index in range(60):
            example = source(index)
            texts = [example.question, example.chain, example.answer]
            texts += [content for _, content in example.before]
            for text in texts:
                ids = tokenizer.encode_text(text)
                assert unknown not in ids
                assert tokenizer.decode(ids, skip_special=False) == text
    assert (
        len(tokenizer.encode_text("Ada: if Ben is a knave then Ada is a knight.")) == 9
    )


def test_names_are_words_that_an_answer_is_found_by():
    assert len(set(NAMES)) == len(NAMES) >= 8
    for name in NAMES:
        assert re.fullmatch("[A-Z][a-z]+", name)


def test_a_row_says_which_words_and_rules_it_has():
    source = Knights(brief=True, with_rules=1.0)
    lines = [source(index).before[0][1] for index in range(500)]
    assert len(set(lines)) > 300
    assert all(re.match("Scores: right -?[0-9.]+, wrong ", line) for line in lines)
    assert dataclasses.replace(source, with_rules=0.0)(3).before == ()
