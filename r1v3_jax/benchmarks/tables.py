"""Reads the two benchmarks that are parquet: EMMA-mini and MMK12."""

from pathlib import Path

from r1v3_jax.benchmarks import cells
from r1v3_jax.benchmarks.question import BadCell, Question
from r1v3_jax.benchmarks.tsv import LETTERS
from r1v3_jax.processing.image_files import StoredImage


def read(path: Path) -> list[Question]:
    """Reads the rows of a parquet file, or of all in a folder, in the order of their names.

    EMMA: pid, question, options, answer, image_1 to image_5, type, category, context, subject.
    MMK12: id, question, answer, image, subject.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(
            f"{path}: no parquet file; wanted that file, or a folder of that name with them"
        )
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            "parquet needs pyarrow, which is not installed: pip install 'r1v3_jax[data]'"
        ) from None
    questions = []
    for file in files:
        try:
            records = pyarrow.parquet.read_table(file).to_pylist()
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from None
        questions += [
            _question(record, len(questions) + i) for i, record in enumerate(records)
        ]
    indices = [question.index for question in questions]
    twice = next(
        (index for i, index in enumerate(indices) if index in indices[:i]), None
    )
    if twice is not None:
        raise ValueError(
            f"{path}: index {twice!r} is there twice; give each row its own"
        )
    return questions


def _question(record: dict, number: int) -> Question:
    names = ["image", *(f"image_{i}" for i in range(1, cells.MAX_IMAGES))]
    images = []
    problem = ""
    try:
        for name in names:
            if record.get(name) is not None:
                images.append(_image(record[name], name))
        cells.check_images(images)
    except BadCell as error:
        images = []
        problem = str(error)
    listed = record.get("options") or []
    if isinstance(listed, str):
        listed = cells.parse_list(listed)
    own = {"question", "answer", "options", *names}
    return Question(
        index=str(record.get("id") or record.get("pid") or number),
        text=_text(record.get("question")),
        answer=_text(record.get("answer")),
        options=dict(zip(LETTERS, map(str, listed), strict=False)),
        images=tuple(images),
        fields={
            name: _text(value)
            for name, value in record.items()
            if name not in own and value is not None
        },
        problem=problem,
    )


def _image(value, name: str) -> StoredImage:
    """Returns an image of {"bytes": ...} as `datasets` writes it, or of plain bytes."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise BadCell(
            f"{name} holds {type(data).__name__}; wanted the bytes of an image"
        )
    return StoredImage(data)


def _text(value) -> str:
    return "" if value is None else str(value)
