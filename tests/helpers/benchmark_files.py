"""Files of benchmarks with pictures of noise, written as VLMEvalKit's are."""

import base64
import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image


def png(shade: int = 0, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(shade).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write_tsv(path: Path, rows: list[dict]) -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def choices(count: int, **fields) -> list[dict]:
    """Rows of multiple choice; the right letters go A, B, C, A, ..."""
    return [
        {
            "index": i,
            "image": base64_of(png(i)),
            "question": f"Question {i}?",
            "A": f"cat {i}",
            "B": f"dog {i}",
            "C": f"parrot {i}",
            "answer": "ABC"[i % 3],
            **fields,
        }
        for i in range(count)
    ]
