"""The report's sixteen benchmarks, one row each, and how a file of a user's own is asked.

Names, files and MD5 are VLMEvalKit's. `paper` is Skywork-R1V3-38B's score (report, table 1): mean of
five runs at temperature 1 with 16,384 tokens.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from r1v3_jax.benchmarks import (
    aggregates,
    emma,
    letters,
    phyx,
    prompts,
    puzzles,
    rules,
    tables,
    tsv,
)
from r1v3_jax.benchmarks.question import Question


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is asked, how answers are read, and what the score is."""

    name: str
    file: str  # below --data; parquet: a file or a folder
    prompt: Callable[[Question], str]
    rule: Callable[[Question, str, letters.Finder], rules.Ruling]
    # What the last box is compared by, where the rule leaves an answer open.
    verifier: str
    aggregate: Callable[[list[Question], np.ndarray], aggregates.Units]
    # How much is left to a judge: "rest" what rule and box leave open, "most" of the rows.
    judge: Literal["none", "rest", "most"]
    paper: float | None = None  # per cent
    md5: str = ""  # as published; "": not known


# Names in columns, so that the table can be read down.
_MEAN = aggregates.by_question
_P = prompts
_R = rules
# fmt: off
TABLE = (
    Benchmark("MMMU_DEV_VAL", "MMMU_DEV_VAL.tsv", _P.choice, _R.option_or_box, "choice", _MEAN, "rest", 76.0, "585e8ad75e73f75dcad265dfd0417d64"),
    Benchmark("EMMA-mini", "EMMA-mini", _P.emma, emma.emma, "mathematics", _MEAN, "rest", 40.3),
    Benchmark("MMMU_Pro_10c", "MMMU_Pro_10c.tsv", _P.choice, _R.option, "choice", _MEAN, "rest", 55.4, "22cee868fe6b680d14b99bfff6db8172"),
    Benchmark("MMK12", "MMK12", _P.answer, _R.nothing, "mathematics", _MEAN, "most", 78.5),
    Benchmark("MMStar", "MMStar.tsv", _P.choice, _R.option, "choice", _MEAN, "rest", 70.6, "e1ecd2140806c1b1bbf54b43372efb9e"),
    Benchmark("MMBench_DEV_EN_V11", "MMBench_DEV_EN_V11.tsv", _P.choice, _R.option, "choice", aggregates.circular, "rest", 85.7, "30c05be8f2f347a50be25aa067248184"),
    Benchmark("HallusionBench", "HallusionBench.tsv", _P.yes_no, _R.yes_no, "string", aggregates.hallusion, "rest", 61.3, "0c23ac0dc9ef46832d7a24504f2a0c7c"),
    Benchmark("MathVista_MINI", "MathVista_MINI.tsv", _P.answer, _R.mathvista, "mathematics", _MEAN, "rest", 77.1, "f199b98e178e5a2a20e7048f5dcb0464"),
    Benchmark("MathVerse_MINI_Vision_Only", "MathVerse_MINI_Vision_Only.tsv", _P.answer, _R.nothing, "mathematics", _MEAN, "most", 59.6, "68a11d4680014ac881fa37adeadea3a4"),
    Benchmark("MathVision", "MathVision.tsv", _P.answer, _R.mathvision, "mathematics", _MEAN, "rest", 52.6, "93f6de14f7916e598aa1b7165589831e"),
    Benchmark("WeMath", "WeMath.tsv", _P.choice, _R.option, "choice", aggregates.wemath_strict, "rest", 56.5, "b5e969a075f01290a542411fb7766388"),
    Benchmark("VisuLogic", "VisuLogic.tsv", _P.visual_logic, _R.visual_logic, "choice", _MEAN, "none", 28.5, "b0820b5ec1e01dfe3951927f0def73b6"),
    Benchmark("LogicVista", "LogicVista.tsv", _P.stated_choice, _R.last_box, "choice", _MEAN, "most", 59.7, "41c5d33adf33765c399e0e6ae588c061"),
    Benchmark("MME-Reasoning", "MME-Reasoning.tsv", _P.puzzle, puzzles.puzzle, "choice", _MEAN, "most", 42.8, "b243f44778782d3821523689f6b40a1e"),
    Benchmark("PhyX_mini_MC", "PhyX_mini_MC.tsv", _P.stated_choice, phyx.phyx, "choice", _MEAN, "rest", 52.8, "3587d8804b66a8e7678f3496716fa84f"),
    Benchmark("SeePhys", "SeePhys.tsv", _P.physics, _R.seephys, "mathematics", _MEAN, "most", 31.5, "c19612ca99cc8c1351b6c3aa556d25b8"),
)
# fmt: on
NAMES = tuple(row.name for row in TABLE)


def find(name: str, data: Path) -> Benchmark:
    """Returns the row of a name, or of data/NAME.tsv; ValueError if there is neither."""
    for row in TABLE:
        if row.name == name:
            return row
    if "/" in name or not (data / f"{name}.tsv").is_file():
        raise ValueError(
            f"--benchmark={name}: no benchmark of that name and no {data / name}.tsv; there are: "
            f"{', '.join(NAMES)}"
        )
    return Benchmark(
        name, f"{name}.tsv", _P.choice, own_rule, "mathematics", _MEAN, "rest"
    )


def own_rule(question: Question, text: str, find: letters.Finder) -> rules.Ruling:
    """A set of a user's own: multiple choice where a row has options, else its verifier decides."""
    return rules.option(question, text, find) if question.options else rules.OPEN


def read(benchmark: Benchmark, data: Path, missing: tsv.Missing) -> list[Question]:
    """Returns the questions that count. ValueError if the file is not what it should be.

    Of a published TSV the rows without an image are left out, as VLMEvalKit does; of MMMU also the
    rows of the development set.
    """
    path = data / benchmark.file
    if not benchmark.file.endswith(".tsv"):
        questions = tables.read(path)
    else:
        questions = tsv.read(path, data=data, missing=missing)
    if benchmark.name in NAMES and benchmark.file.endswith(".tsv"):
        questions = [q for q in questions if q.images or q.problem]
    if benchmark.name == "MMMU_DEV_VAL":
        questions = [q for q in questions if _is_validation(q)]
    if not questions:
        raise ValueError(
            f"{path}: no row of it counts; wanted {benchmark.name}'s own file"
        )
    _check_answers(path, benchmark, questions)
    return questions


def _is_validation(question: Question) -> bool:
    if "id" in question.fields:
        return question.fields["id"].startswith("val")
    return question.fields.get("split", "validation") == "validation"


def _check_answers(path: Path, benchmark: Benchmark, questions: list[Question]) -> None:
    """ValueError for a row without an answer, or whose answer is none of the options it shows."""
    # LogicVista's answer may be "A, C", and its options are in its text.
    has_one_letter = benchmark.rule in (rules.option, rules.option_or_box, own_rule)
    for question in questions:
        answer = question.answer.strip()
        # Of a puzzle of MME-Reasoning any solution is right, so that it has no answer.
        if not answer and "function_id" not in question.fields:
            raise ValueError(
                f"{path}, index {question.index!r}: no answer to compare with"
            )
        if has_one_letter and question.options and answer not in question.options:
            raise ValueError(
                f"{path}, index {question.index!r}: the answer {answer[:40]!r} is none of the "
                f"options {', '.join(question.options)}"
            )
