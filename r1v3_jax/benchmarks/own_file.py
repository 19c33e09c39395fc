"""Writes questions of a source as a TSV that this program's evaluation and VLMEvalKit read.

    index        question              answer   verifier   category   image
    digits/7     Add the two rows.     85       number     normal     iVBORw0KGgo...

Images are PNG in base64, several as a list. A question that says where its images go has them as
<image 1>, <image 2>; give --placement=interleaved then.
"""

import base64
import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path

from r1v3_jax.processing.chat import IMAGE_MARKER
from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.types import Example

COLUMNS = ("index", "question", "answer", "verifier", "category", "image")


def write(
    path: Path, sets: Iterable[tuple[str, Callable[[int], Example]]], questions: int
) -> int:
    """Writes the first questions of each set; returns how many rows there are.

    sets: (name, source); the name becomes the category. ValueError for a question that a TSV cannot
    hold: one with turns before it, with a film, or under the index of another one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        # All in quotes: a lone "\r" would end a line.
        form = {"delimiter": "\t", "lineterminator": "\n", "quoting": csv.QUOTE_ALL}
        rows = csv.DictWriter(file, COLUMNS, **form)
        rows.writeheader()
        for name, source in sets:
            end = len(source) if hasattr(source, "__len__") else questions
            for number in range(min(questions, end)):
                row = row_of(name, source(number))
                if row["index"] in seen:
                    raise ValueError(
                        f"two questions have the index {row['index']!r}; give each example its own "
                        "id, or fewer --questions"
                    )
                seen.add(row["index"])
                rows.writerow(row)
    partial.replace(path)
    return len(seen)


def row_of(name: str, example: Example) -> dict[str, str]:
    """Returns the cells of one question. ValueError for one that has more than a TSV holds."""
    if example.before or example.videos or example.films:
        raise ValueError(
            f"{example.id}: a question with turns before it or with a film; a TSV holds a question "
            "with images alone"
        )
    pieces = example.question.split(IMAGE_MARKER)
    text = pieces[0]
    for number, piece in enumerate(pieces[1:], 1):
        text += f"<image {number}>{piece}"
    images = [base64.b64encode(_png(image)).decode() for image in example.images]
    return {
        "index": example.id,
        "question": text,
        "answer": example.answer,
        "verifier": example.verifier,
        "category": name,
        "image": images[0] if len(images) == 1 else str(images) if images else "",
    }


def _png(image) -> bytes:
    """Returns an image as PNG: pixels stay what they are."""
    if isinstance(image, StoredImage):
        data = image.read()
        if data.startswith(b"\x89PNG"):
            return data
        image = image.decode()
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
