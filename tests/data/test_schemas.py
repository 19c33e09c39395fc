"""Rows of other people's layouts against canonical rows written by hand."""

import importlib.resources
import io
import json

import numpy as np
import pytest
from PIL import Image

from r1v3_jax.data import records, schemas


def digit(number: int) -> bytes:
    """A PNG of a handwritten digit."""
    with (importlib.resources.files("r1v3_jax") / "data_files/uci_digits.npz").open(
        "rb"
    ) as file:
        pixels = np.load(file)["x"][number].reshape(8, 8) * 15
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).resize((32, 32)).save(buffer, "PNG")
    return buffer.getvalue()


A, B = digit(0), digit(1)
BOX = '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]'
ASK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "<image>Which?"},
]
V_TRIUNE = {
    "verifier": "mathverify", "verifier_parm": {"det_verifier_normalized": None},
    "format_ratio": 0.1, "accuracy_ratio": 0.9,
}  # fmt: skip

# name: (layout, record, what its canonical row has that an empty one has not)
RECORDS = {
    "EasyR1": (
        "easyr1",
        {"images": [{"bytes": A, "path": None}], "problem": "<image>Which?\n(A) 0\n(B) 1",
         "answer": "A"},
        {"images": [A], "question": "<image>Which?\n(A) 0\n(B) 1", "answer": "A"},
    ),
    "EasyR1, paths and a solution": (
        "easyr1",
        {"images": ["a.png", {"bytes": None, "path": "b.png"}], "problem": "<image><image> 2?",
         "solution": "<think>Two.</think>\n<answer>2</answer>", "difficulty": 3},
        {"images": ["a.png", "b.png"], "question": "<image><image> 2?", "answer": "2",
         "metadata": {"difficulty": 3}},
    ),
    "verl": (
        "verl",
        {"data_source": "geometry3k", "prompt": ASK, "images": [{"bytes": A, "path": "x"}],
         "ability": "math", "reward_model": {"style": "rule", "ground_truth": "2\\sqrt{3}"},
         "extra_info": {"split": "train", "index": 7, "answer": "long", "question": "long"}},
        {"source": "geometry3k", "before": [ASK[0]], "question": "<image>Which?", "images": [A],
         "answer": "2\\sqrt{3}", "metadata": {"ability": "math", "split": "train", "index": 7}},
    ),
    "V-Triune, mathematics": (
        "vtriune",
        {"data_source": "mm_math", "prompt": ASK[1:], "images": [{"bytes": A, "path": None}],
         "ability": "math", "extra_info": {"id": "m-1", "image_path": "a.png"},
         "reward_model": {"answer": "3", "ground_truth": "\\boxed{3}", **V_TRIUNE}},
        {"id": "m-1", "source": "mm_math", "question": "<image>Which?", "images": [A],
         "answer": "3", "verifier": "mathematics", "accuracy_weight": 0.9,
         "metadata": {"ability": "math"}},
    ),
    "V-Triune, detection": (
        "vtriune",
        {"data_source": "coco", "prompt": ASK[1:], "images": [{"bytes": B, "path": None}],
         "reward_model": {**V_TRIUNE, "ground_truth":
                          f"<answer>\n{BOX}\n</answer>".replace('"', "'"),
                          "verifier": "detection", "format_ratio": 1.0, "accuracy_ratio": 1.0}},
        {"source": "coco", "question": "<image>Which?", "images": [B],
         "answer": BOX.replace('"', "'"),
         "verifier": "overlap iou=dynamic completeness=0.0", "accuracy_weight": 0.5},
    ),
    "V-Triune, detection by degrees, in thousandths": (
        "vtriune",
        {"data_source": "coco", "prompt": ASK[1:], "images": [{"bytes": B, "path": None}],
         "reward_model": {"ground_truth": BOX, "verifier": "detection", "format_ratio": None,
                          "verifier_parm": {"det_verifier_normalized": True, "det_reward_ratio": {
                              "iou_max_label_first": 1.0, "iou_max_iou_first": 0.0,
                              "iou_completeness": 0.3, "map": 0.0, "map50": None}}}},
        {"source": "coco", "question": "<image>Which?", "images": [B], "answer": BOX,
         "verifier": "overlap iou=dynamic completeness=0.3",
         "metadata": {"det_verifier_normalized": True}},
    ),
    "TRL, parts": (
        "trl",
        {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "image"},
                                                 {"type": "text", "text": "Sum?"}]}],
         "images": [A, B], "solution": 1},
        {"question": "<image><image>Sum?", "images": [A, B], "answer": "1"},
    ),
    "TRL, a text": (
        "trl",
        {"prompt": "Which?", "image": {"bytes": A, "path": "a.png"}, "answer": "0"},
        {"question": "Which?", "images": [A], "answer": "0"},
    ),
    "TRL, messages": (
        "trl",
        {"messages": [*ASK, {"role": "assistant", "content": "It.\n</think>\n\\boxed{0}"}],
         "images": ["a.png"], "id": 5},
        {"id": "5", "before": [ASK[0]], "question": "<image>Which?", "images": ["a.png"],
         "chain": "It.\n</think>\n\\boxed{0}", "answer": "0"},
    ),
    "TRL, prompt and completion": (
        "trl",
        {"prompt": ASK[1:], "completion": [{"role": "assistant", "content": "Zero."}],
         "images": [A]},
        {"question": "<image>Which?", "images": [A], "chain": "Zero."},
    ),
    "LLaVA": (
        "llava",
        {"id": 12, "image": "coco/a.png", "width": 32, "conversations": [
            {"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A digit."},
            {"from": "human", "value": "Which?"}, {"from": "gpt", "value": "Zero, <image>."}]},
        {"id": "12", "images": ["coco/a.png"], "before": [
            {"role": "user", "content": "<image>\nWhat is it?"},
            {"role": "assistant", "content": "A digit."}],
         "question": "Which?", "chain": "Zero, <image>.", "metadata": {"width": 32}},
    ),
    "InternVL, several images": (
        "llava",
        {"image": ["a.png", "b.png"], "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "A <image>\nB <image>\nEqual?"},
            {"from": "gpt", "value": "No."}], "answer": 0},
        {"images": ["a.png", "b.png"], "before": [{"role": "system", "content": "Be brief."}],
         "question": "A <image>\nB <image>\nEqual?", "chain": "No.", "answer": "0"},
    ),
    "MMK12": (
        "mmk12",
        {"id": "k-3", "question": "<image>Which?", "answer": "B", "subject": "math",
         "image": {"bytes": B, "path": None}},
        {"id": "k-3", "question": "<image>Which?", "answer": "B", "images": [B],
         "metadata": {"subject": "math"}},
    ),
    "ViRL39K": (
        "mmk12",
        {"question": "<image>Which?", "answer": "\\boxed{\\frac{1}{2}}", "image": ["images/a.png"],
         "category": "(GradeSchool) Geometric", "source": "Processed", "qid": "Processed-1",
         "PassRate_32BTrained": 0.75, "PassRate_7BUntrained": 0.125},
        {"id": "Processed-1", "source": "Processed", "question": "<image>Which?",
         "answer": "\\frac{1}{2}", "images": ["images/a.png"],
         "metadata": {"category": "(GradeSchool) Geometric", "PassRate_32BTrained": 0.75,
                      "PassRate_7BUntrained": 0.125}},
    ),
    "ours": (
        "own",
        {"id": "q1", "question": "Which?", "answer": 3, "images": None, "chain": "Three.",
         "level": "hard", "verifier": "number absolute=1", "accuracy_weight": 1, "pass_rate": 0.5,
         "metadata": {"subject": "digits"}},
        {"id": "q1", "question": "Which?", "answer": "3", "chain": "Three.", "level": "hard",
         "verifier": "number absolute=1", "accuracy_weight": 1.0,
         "metadata": {"pass_rate": 0.5, "subject": "digits"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_becomes_the_canonical_row(name):
    schema, record, expected = RECORDS[name]
    before = repr(record)
    assert schemas.recognise(record) == schema
    row = records.canonical(record)
    assert row == schemas.CANONICAL | expected
    records.check(row)
    assert row == records.canonical(record, schema) and repr(record) == before


@pytest.mark.parametrize("name", RECORDS)
def test_a_canonical_row_written_as_json_reads_back_equal(name):
    row = records.canonical(RECORDS[name][1])
    assert records.canonical(json.loads(records.dumps(row))) == row


def test_columns_that_a_row_leaves_empty_say_nothing():
    """Tables of several data sets have the columns of all."""
    empty = dict.fromkeys(
        ["conversations", "reward_model", "prompt", "messages", "problem"]
    )
    for schema, record, expected in RECORDS.values():
        both = (
            empty
            | dict.fromkeys(["question", "answer", "image", "images", "qid"])
            | record
        )
        assert schemas.recognise(both) == schema
        assert records.canonical(both) == schemas.CANONICAL | expected


def test_every_layout_has_a_record():
    assert {schema for schema, *_ in RECORDS.values()} == set(schemas.SCHEMAS)


@pytest.mark.parametrize(
    "record, reason, found",
    [
        ({"text": "a", "label": 1}, "fields", "fields label, text; wanted question"),
        ({}, "fields", "fields none"),
        ({"conversations": "hello"}, "fields", "conversations must be a list"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "fields", "turn 0 is by 'bot'"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "fields", "must be the user's"),
        ({"conversations": ASK, "video": "a.mp4"}, "fields", "a video"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "fields", "'audio'"),
        ({"messages": [ASK[1], ASK[0]]}, "fields", "turn 1 is by 'system'"),
        ({"prompt": 3}, "fields", "lists of turns"),
        ({"prompt": ASK, "reward_model": {"verifier": "clevr"}}, "verifier", "'clevr'"),
        ({"prompt": ASK, "reward_model": V_TRIUNE | {"format_ratio": "all"}}, "fields", "'all'"),
        ({"prompt": ASK, "reward_model": {
            "verifier": "detection", "verifier_parm": {"det_reward_ratio": {"map50": 0.5}}}},
         "verifier", "mean average precision"),
        ({"prompt": ASK, "reward_model": {
            "verifier": "detection", "verifier_parm": {"det_reward_ratio": {"map": "all"}}}},
         "fields", "det_reward_ratio"),
        ({"prompt": ASK, "reward_model": {
            "verifier": "detection", "verifier_parm": {"det_reward_ratio": {
                "iou_completeness": 2}}}},
         "fields", "iou_completeness is 2"),
        ({"question": "q", "answer": "a", "metadata": 3}, "fields", "metadata of type int"),
        ({"question": "q", "answer": "a", "images": [{"bytes": None}]}, "fields", "an image of"),
        ({"question": "q", "answer": "a", "images": ["data:image/png;base64,AA*="]},
         "image_damaged", "base64"),
        ({"question": "q", "answer": "a", "images": ["data:image/png,hello"]},
         "image_damaged", "wanted data:"),
    ],
)  # fmt: skip
def test_what_is_in_no_layout_is_refused(record, reason, found):
    with pytest.raises(schemas.InvalidRecord, match=found) as error:
        records.canonical(record)
    assert error.value.args[0] == reason


def test_json_is_strict():
    assert schemas.loads('{"a": [1, 2.5, "x"]}') == {"a": [1, 2.5, "x"]}
    for text in ("NaN", "-Infinity", "1e999", "[" * 100_000, "{", b"\xff", "9" * 5000):
        with pytest.raises(schemas.InvalidRecord) as error:
            schemas.loads(text)
        assert error.value.args[0] == "json"


def test_metadata_is_small():
    record = {f"c{i}": i for i in range(100)} | {
        "long": "x" * 201,
        "nested": {"a": 1},
        "b": None,
    }
    row = records.canonical(record | {"question": "q", "answer": "a"})
    assert row["metadata"] == {f"c{i}": i for i in range(schemas.MAX_METADATA)}
