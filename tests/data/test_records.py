"""Rows that are trained on and rows that are dropped: each with its reason, none lost."""

import base64
import collections
import copy
import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from rows_for_tests import DAMAGE, GOOD, damaged_line, digit, write_images

from r1v3_jax.data import Rows, fields, reader, records, schemas
from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.types import REASONS, DroppedRow, Example


def test_every_one_of_2000_rows_is_trained_on_or_dropped_with_its_reason(tmp_path):
    assert len(DAMAGE) >= 20
    write_images(tmp_path)
    lines = [json.dumps(GOOD | {"id": str(i)}).encode() for i in range(1600)]
    expected = collections.Counter({"": 1600})
    for i in range(400):
        damage, reason = DAMAGE[i % len(DAMAGE)]
        lines.append(damaged_line(damage))
        expected[reason] += 1
    random.Random(0).shuffle(lines)
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    source = Rows(str(tmp_path / "rows.jsonl"))

    def outcome(index):
        try:
            example = reader.decoded(source(index))
        except DroppedRow as dropped:
            assert dropped.reason in REASONS and dropped.source == "rows"
            assert "\n" not in str(dropped) and len(str(dropped)) < 500
            return dropped.reason, dropped.id
        assert example.images[0].size == (32, 32)
        return "", example.id

    with ThreadPoolExecutor(4) as threads:  # as rows are read in a run
        outcomes = list(threads.map(outcome, range(2000)))
    assert collections.Counter(reason for reason, _ in outcomes) == expected
    good_ids = [id for reason, id in outcomes if not reason]
    assert sorted(good_ids, key=int) == [str(i) for i in range(1600)]
    assert len({id for _, id in outcomes}) == 2000
    assert outcomes == [outcome(index) for index in range(2000)]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
def test_each_damage_has_its_reason(tmp_path, damage, reason):
    write_images(tmp_path)
    (tmp_path / "one.jsonl").write_bytes(damaged_line(damage))
    with pytest.raises(DroppedRow) as error:
        reader.decoded(Rows(str(tmp_path / "one.jsonl"))(0))
    dropped = error.value
    assert (dropped.source, dropped.id) == ("one", "one/1")
    assert dropped.reason == reason


def test_a_row_is_an_example_in_full():
    record = {
        "id": "x",
        "source": "set",
        "question": "Sum?",
        "answer": "\\boxed{3}",
        "before": [
            {"role": "user", "content": "<image>"},
            {"role": "assistant", "content": "Ok."},
        ],
        "images": [{"bytes": digit(1), "path": "a.png"}],
        "chain": "1 + 2 </think>",
        "level": "easy",
        "verifier": "number",
        "accuracy_weight": 0.5,
        "pass_rate": 0.25,
    }
    example = records.example(record, source="other", id="other/1")
    assert isinstance(example.images[0], StoredImage)
    assert example == Example(
        id="x",
        images=example.images,
        question="Sum?",
        answer="3",
        chain="1 + 2 </think>",
        level="easy",
        verifier="number",
        source="set",
        before=(("user", "<image>"), ("assistant", "Ok.")),
        accuracy_weight=0.5,
        metadata={"pass_rate": 0.25},
    )
    plain = records.example(
        {"question": "q", "answer": "a"}, source="other", id="other/1"
    )
    assert (plain.source, plain.id) == ("other", "other/1")


def test_images_come_as_paths_bytes_dicts_and_uris(tmp_path):
    data = digit(2)
    (tmp_path / "a.png").write_bytes(data)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    for image in ("a.png", data, {"bytes": data, "path": None}, {"path": "a.png"}, uri):
        record = {"question": "q", "answer": "a", "images": [image]}
        stored = records.example(record, root=tmp_path).images[0]
        assert stored.size == (32, 32) and stored.read() == data
    with pytest.raises(DroppedRow, match="or set root, a folder here") as error:
        records.example({"question": "q", "answer": "a", "images": ["a.png"]})
    assert error.value.reason == "image_missing"


def test_markers_count_in_what_the_user_and_the_system_say():
    def row(before, question, images):
        return schemas.CANONICAL | {
            "before": [{"role": role, "content": text} for role, text in before],
            "question": question,
            "answer": "a",
            "images": ["x"] * images,
        }

    system, user, assistant = (
        (role, "<image>") for role in ("system", "user", "assistant")
    )
    for good in (
        row([], "q", 0),
        row([], "q", 2),  # none: they go in front
        row([], "<image> <image>", 2),
        row([system, user, assistant], "q", 2),
    ):
        records.check(good)
    for bad in (
        row([], "<image>", 0),
        row([], "<image>", 2),
        row([assistant], "<image>", 2),
    ):
        with pytest.raises(fields.InvalidRecord, match="markers"):
            records.check(bad)


def test_what_cannot_be_checked_before_a_run_is_no_reason_to_drop():
    for verifier in ("model", "my.module:function", "choice|model"):
        records.check(
            schemas.CANONICAL | {"question": "q", "answer": "B", "verifier": verifier}
        )
    teaches = schemas.CANONICAL | {"question": "q", "chain": "c", "answer": ""}
    records.check(teaches)


def test_dropped_is_one_line_and_survives_a_process():
    dropped = DroppedRow("set", "set/1", "json", "a\nb " + "x" * 1000)
    text = str(dropped)
    assert text.startswith("set, set/1: a b xxx") and text.endswith("(json)")
    without_detail = str(DroppedRow("set", "set/1", "markers"))
    assert without_detail.startswith(f"set, set/1: {REASONS['markers']}")
    twin = copy.copy(dropped)  # by the way that exceptions go from process to process
    assert (twin.source, twin.id, twin.reason, twin.detail) == dropped.args
