"""Reads a TSV of VLMEvalKit, or one with the same columns, into questions.

Two ways to read a cell. "exact": as it is written; only an empty cell is missing. "kit": as pandas
reads it for the kit, where "None" and "NA" are missing and a column of numbers with a hole makes
1.0 of 1.
"""

import csv
import hashlib
import string
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

from r1v3_jax.benchmarks import cells
from r1v3_jax.benchmarks.question import BadCell, Question

Missing = Literal["exact", "kit"]

LETTERS = tuple(string.ascii_uppercase)
# Columns that have a place of their own in a Question.
OWN = {"index", "question", "answer", "image", "image_path", *LETTERS}
# A cell of 50 MB holds some large pictures; the default of Python's csv is 128 KB.
MAX_CELL = min(sys.maxsize, 2**31 - 1)


def read(path: Path, *, data: Path, missing: Missing = "exact") -> list[Question]:
    """Reads the questions of a file, in its order.

    data: the folder of all benchmarks; images that are files lie in data/images/NAME, data/images
    or data. A row that cannot be read has a `problem`. ValueError if no row can be: no such file,
    no column `question`, an index twice.
    """
    rows = read_rows(path, missing)
    if not rows:
        raise ValueError(
            f"{path}: no rows below the header; wanted one question a line"
        )
    columns = set().union(*rows)
    if not {"index", "question", "answer"} <= columns:
        lacking = sorted({"index", "question", "answer"} - columns)
        raise ValueError(
            f"{path}: no column {lacking[0]!r}; wanted index, question, answer, and image or "
            "image_path, separated by tabs"
        )
    counts = Counter(row.get("index", "") for row in rows)
    index, count = counts.most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"{path}: index {index!r} is there {count} times; give each row one of its own"
        )
    image_cells = {row["index"]: row.get("image", "") for row in rows if "index" in row}
    folders = [data / "images" / path.stem, data / "images", data]
    return [_question(row, image_cells, folders) for row in rows]


def read_rows(path: Path, missing: Missing) -> list[dict[str, str]]:
    """Returns the cells of each row by column, without those that are missing."""
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; --data is the folder with the TSV files of VLMEvalKit "
            "(its LMUData)"
        )
    return _as_pandas(path) if missing == "kit" else _as_written(path)


def _as_written(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(MAX_CELL)
    # A byte that is no UTF-8 must not stop the other rows; a byte order mark is none of a column.
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter="\t")
        try:
            header = next(reader, [])
            lines = list(reader)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    for number, line in enumerate(lines, start=1):
        if len(line) > len(header):
            raise ValueError(
                f"{path}, row {number}: {len(line)} cells below {len(header)} columns; a cell with "
                "a tab or a line end is written in quotes"
            )
    return [
        {column: cell for column, cell in zip(header, line, strict=False) if cell}
        for line in lines
        if line
    ]


def _as_pandas(path: Path) -> list[dict[str, str]]:
    """Reads as the kit does: `pandas.read_csv(path, sep="\\t")`, then each cell as text."""
    try:
        import pandas
    except ImportError:
        raise ValueError(
            "--missing=kit reads as pandas does, which is not installed: pip install pandas"
        ) from None
    try:
        table = pandas.read_csv(path, sep="\t")
    except ValueError as error:  # of the parser, or of the encoding
        raise ValueError(f"{path}: {error}") from None
    filled = table.notna()
    columns = [str(column) for column in table.columns]
    rows = []
    for values, is_there in zip(
        table.itertuples(index=False, name=None),
        filled.itertuples(index=False, name=None),
        strict=True,
    ):
        cell_of = zip(columns, values, is_there, strict=True)
        rows.append({column: str(value) for column, value, there in cell_of if there})
    return rows


def _question(
    row: dict[str, str], image_cells: dict[str, str], folders: list[Path]
) -> Question:
    problem = ""
    images = []
    try:
        images = _images(row, image_cells, folders)
        cells.check_images(images)
    except BadCell as error:
        images = []
        problem = str(error)
    options = {letter: row[letter] for letter in LETTERS if letter in row}
    return Question(
        index=row.get("index", ""),
        text=row.get("question", ""),
        answer=row.get("answer", ""),
        options=options,
        images=tuple(images),
        fields={name: cell for name, cell in row.items() if name not in OWN},
        problem=problem,
    )


def _images(
    row: dict[str, str], image_cells: dict[str, str], folders: list[Path]
) -> list:
    cell = row.get("image", "")
    if not cell:
        return (
            cells.image_file(row["image_path"], folders) if "image_path" in row else []
        )
    # A short cell names the row that holds the image.
    if len(cell) <= cells.REFERENCE:
        referred = image_cells.get(cell.strip(), "")
        if len(referred) <= cells.REFERENCE:
            raise BadCell(
                f"image {cell[:70]!r} is neither base64 nor the index of a row with one"
            )
        cell = referred
    return [cells.decode_image(text) for text in cells.split_images(cell)]


def md5(path: Path) -> str:
    """Returns the MD5 of a file, as VLMEvalKit publishes it."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
