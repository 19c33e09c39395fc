"""Prompts taken from VLMEvalKit 0.2, beside what it makes itself: `bash tests/kits.sh` runs this.

Thirty generated rows of each benchmark that the kit knows: hints, two to ten options, holes,
"None", columns of numbers, one to five images, images by the index of another row.
"""

import random
import string

import numpy as np
import pytest
from benchmark_files import base64_of, png, write_tsv
from PIL import Image

from r1v3_jax.benchmarks import kit_prompts, table, tsv

pytest.importorskip("vlmeval", reason="needs VLMEvalKit: bash tests/kits.sh")

# EMMA-mini and MMK12 are none of the kit's.
NAMES = [name for name in table.NAMES if name not in ("EMMA-mini", "MMK12")]
ROWS = 30
# Their options are in their texts or pictures.
WITHOUT_OPTIONS = ("HallusionBench", "SeePhys", "MathVista_MINI")
OPTIONS = ("cat", "None", "NA", "1", "01", "2.5", "a dog", "<image 1>", "")


def rows_of(name: str, rng) -> list[dict]:
    rows = []
    for i in range(ROWS):
        images = [base64_of(png(7 * i + j)) for j in range(rng.randint(1, 5))]
        question = f"Question {i}?"
        if rng.random() < 0.6:
            shown = [rng.randint(1, len(images)) for _ in range(rng.randint(1, 3))]
            question = f"See {' and '.join(f'<image {n}>' for n in shown)}, {i}."
        row = {
            "index": f"a_b_c_{i}_0_0" if name == "HallusionBench" else i,
            "question": question,
            "answer": "3" if name == "SeePhys" else "A",
            "hint": rng.choice(["", "Look.", "None"]),
            "category": "x",
            "id": f"validation_{i}",
            "split": "validation",
            "image": images[0] if len(images) == 1 else str(images),
            # Columns that single benchmarks have.
            "language": "English",
            "sig_figs": rng.choice(["2", "3.0", ""]),
            "caption": "c",
            "query_cot": f"think of {i}",
            "question_for_eval": question,
            "requirement": "of this form",
            "ID": i,
            "key": "2steps_1",
        }
        if name not in WITHOUT_OPTIONS:
            count = rng.randint(2, 10)
            options = {x: rng.choice(OPTIONS) for x in string.ascii_uppercase[:count]}
            row |= options | {"A": "cat"}
        # The picture of the first row. Its first image alone would be another picture.
        if i and rng.random() < 0.2 and len(images) == 1:
            row["image"] = rows[0]["index"]
        rows.append(row)
    return rows


@pytest.fixture
def kit(monkeypatch):
    """The kit, which does not know the MD5 of the published files: it would fetch them."""
    from vlmeval import dataset

    for kind in dataset.DATASET_CLASSES:
        if getattr(kind, "DATASET_MD5", None):
            monkeypatch.setattr(kind, "DATASET_MD5", {})
    return dataset


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_the_kits_word_for_word_and_picture_for_picture(
    kit, name, tmp_path, monkeypatch
):
    monkeypatch.setenv("LMUData", str(tmp_path))
    rng = random.Random(name)
    write_tsv(tmp_path / f"{name}.tsv", rows_of(name, rng))
    interleaved = kit_prompts.read(name, tmp_path, "interleaved")
    front = kit_prompts.read(name, tmp_path, "front")
    path = tmp_path / f"{name}.tsv"
    questions = {q.index: q for q in tsv.read(path, data=tmp_path, missing="kit")}

    dataset = kit.build_dataset(name)
    assert len(dataset) == ROWS
    compared = 0
    for row in range(ROWS):
        line = dataset.data.iloc[row]
        index = str(line["index"])
        question = questions[index]
        # 1. The kit's reading of the options is ours.
        options = {
            letter: f"{line[letter]}"
            for letter in string.ascii_uppercase
            if letter in line and not kit.pd.isna(line[letter])
        }
        assert question.options == options
        try:
            messages = dataset.build_prompt(line)
        except IndexError:  # it shows a picture that the row has not
            assert index not in interleaved
            continue
        # 2. Texts and pictures in their order. A text without a letter says nothing.
        asked = interleaved[index]
        shown = [m for m in messages if m["value"] != ""]
        assert len(asked.parts) == len(shown)
        for part, message in zip(asked.parts, shown, strict=True):
            if message["type"] == "text":
                assert part == message["value"]
            else:
                ours = pixels(question.images[part].decode())
                np.testing.assert_array_equal(
                    ours, pixels(Image.open(message["value"]))
                )
        # 3. vLLM joins the parts of a message for a template of texts: pictures first.
        texts = [m["value"] for m in shown if m["type"] == "text"]
        numbers = [part for part in asked.parts if isinstance(part, int)]
        assert front[index].parts == (*numbers, "\n".join(texts))
        compared += 1
    assert compared >= ROWS / 2
