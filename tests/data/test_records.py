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


@pytest.mark.parametrize(
    ("answer", "verifier", "gold"),
    [
        ("24 + 48 = 72\n#### 72", "", "72"),
        ("The answer is 72.", "mathematics", "72"),
        ("Answer: 72", "string", "Answer: 72"),  # what stands on a sign
    ],
)
def test_the_verifier_says_what_is_the_answer(answer, verifier, gold):
    record = {"question": "q", "answer": answer, "verifier": verifier}
    assert records.canonical(record)["answer"] == gold


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


@pytest.mark.parametrize(
    "record",
    [
        {"id": "r-7", "question": "q", "answer": True},
        {"qid": "r-7", "question": 3.5, "answer": "a", "video": "a.mp4"},
        {"id": "r-7", "source": "set", "nothing": "else"},
        {"prompt": 3, "extra_info": {"id": "r-7"}, "data_source": "set"},
        {"id": "r-7", "conversations": "hello"},
        {"id": "r-7", "question": "q", "answer": "a", "images": ["none.png"]},
    ],
)
def test_a_row_that_is_refused_keeps_its_own_id(record, tmp_path):
    with pytest.raises(DroppedRow) as error:
        records.example(record, source="rows", id="rows/13", root=tmp_path)
    assert error.value.id == "r-7"
    assert error.value.source == record.get("source", record.get("data_source", "rows"))


def test_an_id_that_is_none_is_replaced_by_the_place_in_the_file():
    for id in (None, "", ["r-7"], {"a": 1}, "x" * 2000, "a\0"):
        with pytest.raises(DroppedRow) as error:
            records.example({"id": id, "question": "q", "answer": True}, id="rows/13")
        assert error.value.id == "rows/13"
    with pytest.raises(DroppedRow, match="rows/13"):
        records.example([], id="rows/13")


def test_empty_texts_are_empty_columns():
    """A table fills its columns with "" where another has nothing."""
    foreign = dict.fromkeys(("conversations", "messages", "prompt", "problem"), "")
    row = records.canonical(
        foreign | {"question": "q", "answer": "", "clean_answer": "3", "image": ""}
    )
    assert (row["question"], row["answer"], row["images"]) == ("q", "3", [])
    row = records.canonical({"problem": "q", "answer": "", "solution": "\\boxed{3}"})
    assert row["answer"] == "3"
    with pytest.raises(fields.InvalidRecord) as error:
        records.check(records.canonical({"question": "", "answer": "a"}))
    assert error.value.args[0] == "no_question"


def test_a_clean_answer_comes_before_the_others():
    for question in ("question", "problem", "prompt"):
        record = {question: "q", "answer": "24+48=72, so 72.", "clean_answer": 72}
        assert records.canonical(record)["answer"] == "72"


@pytest.mark.parametrize(
    ("chain", "answer", "verifier"),
    [
        ("why\n</think>\n\n\\boxed{0.5}", "\\frac{1}{2}", ""),
        ("\\boxed{7}, no\n</think>\n\n\\boxed{5}", "5", ""),  # only a thought
        ("why\n</think>\n\nIt is 6.", "5", ""),  # no box
        ("(B) \\boxed{B}", "B", "choice"),
        ("\\boxed{5}", "6", "model"),  # whose verdict nobody knows here
    ],
)
def test_a_chain_with_the_answer_in_its_box_is_kept(chain, answer, verifier):
    record = {"question": "q", "chain": chain, "answer": answer, "verifier": verifier}
    records.check(records.canonical(record))


@pytest.mark.parametrize(
    ("chain", "answer"),
    [
        ("why\n</think>\n\n\\boxed{6}", "5"),
        ("\\boxed{6}", "5"),
        ("\\boxed{5}\n</think>\n\n\\boxed{B}", "C"),
    ],
)
def test_a_chain_with_another_answer_in_its_box_is_refused(chain, answer):
    for record in (
        {"question": "q", "chain": chain, "answer": answer},
        {"prompt": "q", "completion": chain, "solution": answer},
    ):
        with pytest.raises(fields.InvalidRecord, match="the box") as error:
            records.check(records.canonical(record))
        assert error.value.args[0] == "chain"
