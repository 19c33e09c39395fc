"""Rows in other people's schemas against canonical rows written by hand."""

import json

import pytest
from schema_rows import ASK, RECORDS, V_TRIUNE

from r1v3_jax.data import fields, records, schemas


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
    foreign = ("conversations", "reward_model", "prompt", "messages", "problem")
    ours = ("question", "answer", "image", "images", "qid")
    empty = dict.fromkeys((*foreign, *ours))
    for schema, record, expected in RECORDS.values():
        row_of_table = empty | record
        assert schemas.recognise(row_of_table) == schema
        assert records.canonical(row_of_table) == schemas.CANONICAL | expected


def test_every_schema_has_a_record():
    assert {schema for schema, *_ in RECORDS.values()} == set(schemas.SCHEMAS)


@pytest.mark.parametrize("field", ["system", "system_prompt"])
def test_a_system_turn_in_a_field_of_its_own_is_the_first_turn(field):
    """Proves: ms-swift's and LLaVA's column is shown to the model, and differing ones refused."""
    wanted = [{"role": "system", "content": "Be brief."}]
    messages = {"messages": [ASK[1], {"role": "assistant", "content": "a"}]}
    conversation = says("Which?", "human") | {"answer": "a"}
    for record in (messages, conversation):
        row = records.canonical(record | {field: "Be brief."})
        assert (row["before"], row["metadata"]) == (wanted, {})
    messages["messages"] = wanted + messages["messages"]
    assert records.canonical(messages | {field: "Be brief."})["before"] == wanted
    with pytest.raises(fields.InvalidRecord, match="system and a system turn that dif"):
        records.canonical(messages | {field: "Be long."})


def test_fields_that_a_chat_template_shows_are_refused():
    """Proves: functions and ms-swift's placeholders are not lost without a word."""
    reply = {"role": "assistant", "content": "<bbox>"}
    record = {"messages": [{"role": "user", "content": "q"}, reply]}
    with pytest.raises(fields.InvalidRecord, match="tools are not shown"):
        records.canonical(record | {"tools": [{"type": "function"}]})
    objects = {"ref": ["dog"], "bbox": [[1, 2, 3, 4]]}
    with pytest.raises(fields.InvalidRecord, match="not written into <bbox>"):
        records.canonical(record | {"objects": objects})
    # Without a placeholder they are an annotation.
    reply["content"] = "a dog"
    assert records.canonical(record | {"objects": objects})["chain"] == "a dog"


@pytest.mark.parametrize(
    "reward, category, answer, verifier",
    [
        ("rule", "counting", "B", "choice"),
        ("rule", "counting", "3", "mathematics"),
        ("Rule-based", "single-choice", "3 cm", "choice"),
        ("LLM as judge", "multiple choice", "B", "model"),
        ("rule", "parts of a ship model", "B", "choice"),
        (None, "Description", "two cats", "model"),
        (None, None, "B", ""),
    ],
)
def test_how_a_row_of_wethink_is_rewarded(reward, category, answer, verifier):
    """Proves: its words name the verifier; a model only where the reward or a description wants."""
    record = {"problem": "Which?", "answer": answer, "refined_cot": "so it is"}
    row = records.canonical(record | {"reward": reward, "category": category})
    assert row["verifier"] == verifier
    assert row["chain"] == f"so it is\n</think>\n\n\\boxed{{{answer}}}"


def detection(ratio: dict) -> dict:
    """A row of V-Triune that asks for a reward of boxes."""
    parameters = {"det_reward_ratio": ratio}
    model = {"verifier": "detection", "verifier_parm": parameters}
    return {"prompt": ASK, "reward_model": model}


def says(value, speaker: str = "gpt") -> dict:
    """A row of LLaVA with one turn."""
    return {"conversations": [{"from": speaker, "value": value}]}


def with_image(image) -> dict:
    return {"question": "q", "answer": "a", "images": [image]}


@pytest.mark.parametrize(
    "record, reason, message",
    [
        ({"text": "a", "label": 1}, "fields", "fields label, text; wanted question"),
        ({}, "fields", "fields none"),
        ({"conversations": "hello"}, "fields", "conversations must be a list"),
        (says("x", "bot"), "fields", "turn 0 is by 'bot'"),
        (says("x"), "fields", "must be the user's"),
        ({"conversations": ASK, "audio": "a.wav"}, "fields", "audio: .*a sound"),
        ({"conversations": ASK, "video_id": "a"}, "fields", "video_id: .*its file"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
            "fields",
            "'audio'",
        ),
        ({"messages": [ASK[1], ASK[0]]}, "fields", "turn 1 is by 'system'"),
        ({"prompt": 3}, "fields", "lists of turns"),
        (
            {"prompt": ASK, "reward_model": {"verifier": "clevr"}},
            "verifier",
            "'clevr'",
        ),
        (
            {"prompt": ASK, "reward_model": V_TRIUNE | {"format_ratio": "all"}},
            "fields",
            "'all'",
        ),
        (
            {"problem": "q", "answer": "a", "category": "song", "reward": "applause"},
            "verifier",
            "reward 'applause', category 'song'; wanted 'rule' or 'model'",
        ),
        (detection({"map50": 0.5}), "verifier", "mean average precision"),
        (detection({"map": "all"}), "fields", "det_reward_ratio"),
        (detection({"iou_completeness": 2}), "fields", "iou_completeness is 2"),
        (
            {"question": "q", "answer": "a", "metadata": 3},
            "fields",
            "metadata of type int",
        ),
        (with_image({"bytes": None}), "fields", "an image of"),
        (with_image("data:image/png;base64,AA*="), "image_damaged", "base64"),
        (with_image("data:image/png,hello"), "image_damaged", "wanted data:"),
    ],
)
def test_what_is_in_no_schema_is_refused(record, reason, message):
    with pytest.raises(fields.InvalidRecord, match=message) as error:
        records.canonical(record)
    assert error.value.args[0] == reason


def test_json_is_strict():
    assert fields.loads('{"a": [1, 2.5, "x"]}') == {"a": [1, 2.5, "x"]}
    for text in ("NaN", "-Infinity", "1e999", "[" * 100_000, "{", b"\xff", "9" * 5000):
        with pytest.raises(fields.InvalidRecord) as error:
            fields.loads(text)
        assert error.value.args[0] == "json"


@pytest.mark.parametrize("place", ["", "extra_info", "metadata"])
def test_facts_of_a_row_reach_its_reward(place):
    """A list, one as a text, one fact alone: the term `facts` finds them all."""
    written = (["area 9", 4], '["area 9", 4]', "area 9", ["", None], {"area": 9})
    wanted = (["area 9", "4"], ["area 9", "4"], ["area 9"], None, None)
    for value, facts in zip(written, wanted, strict=True):
        record = {"question": "q", "answer": "a"}
        if place == "extra_info":  # verl's
            turn = {"role": "user", "content": "q"}
            record = {"prompt": [turn], "reward_model": {"ground_truth": "a"}}
        (record.setdefault(place, {}) if place else record)["facts"] = value
        row = records.canonical(record)
        assert row["metadata"].get("facts") == facts
    with pytest.raises(fields.InvalidRecord, match="at most 20000 are read"):
        fields.read_facts(["x" * 20_001])


def test_metadata_is_small():
    small = {f"c{i}": i for i in range(100)}
    others = {"long": "x" * 201, "nested": {"a": 1}, "b": None}
    row = records.canonical(small | others | {"question": "q", "answer": "a"})
    assert row["metadata"] == {f"c{i}": i for i in range(fields.MAX_METADATA)}


REPLY = {"role": "assistant", "content": "5"}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"chosen": [{"role": "user", "content": "5"}]},
            "chosen ends with a turn of the user",
        ),
        (
            {"chosen": [ASK[1], REPLY], "prompt": "Who?"},
            "chosen begins with other turns",
        ),
        ({"completion": "7"}, "a reply beside chosen and rejected"),
        ({"rejected": [3]}, "turns must be a list of objects"),
        ({"rejected": "a\0"}, "rejected has a NUL"),
    ],
)
def test_answers_that_are_no_pair_are_refused(changes, message):
    record = {"prompt": "Which?", "chosen": "5", "rejected": "6"} | changes
    with pytest.raises(fields.InvalidRecord) as error:
        records.canonical(record)
    assert message in error.value.args[1]


def test_a_picture_or_a_control_token_in_an_answer_is_refused():
    row = records.canonical(
        {"prompt": "Which?", "chosen": "5", "rejected": "<|im_end|>"}
    )
    with pytest.raises(fields.InvalidRecord, match="control token"):
        records.check(row)
