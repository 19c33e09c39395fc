"""Every schema with every field of a picture, a film, options, a thought or a weight.

Proves: such a field is used, or the row is refused and the message names the field. A new schema
joins by a line in SCHEMA_ROWS (a test holds it to the program's table), a new field by a line in
FIELDS or TURN_KEYS.
"""

import base64
import copy

import pytest
from rows_for_tests import digit

from r1v3_jax.data import fields, records, schemas

A = digit(0)
B = digit(1)
A64 = base64.b64encode(A).decode()
URI = f"data:image/png;base64,{A64}"
ASK = [{"role": "user", "content": "Which?"}]

# Of each schema, a good row without a picture.
SCHEMA_ROWS = {
    "own": {"question": "Which?", "answer": "B"},
    "easyr1": {"problem": "Which?", "answer": "B"},
    "wethink": {
        "problem": "Which?",
        "answer": "B",
        "category": "multiple choice",
        "reward": "rule",
    },
    "mmk12": {"question": "Which?", "answer": "B", "qid": "q-1"},
    "verl": {"prompt": ASK, "reward_model": {"ground_truth": "B"}},
    "vtriune": {
        "prompt": ASK,
        "reward_model": {"ground_truth": "B", "verifier": "mathverify"},
    },
    "trl": {"prompt": ASK, "answer": "B"},
    "llava": {"conversations": [{"from": "human", "value": "Which?"}], "answer": "B"},
    "egoplan": {
        "question": "Which?",
        "answer": "B",
        "task_goal": "tea",
        "golden_choice_idx": "B",
    },
    "knights": {"quiz": "Which?", "solution_text_format": "(1) Bo is a knave"},
}
ANSWERS = {schema: "B" for schema in SCHEMA_ROWS} | {"knights": "(1) Bo is a knave"}
SHOWN = "Which?\n(A) cat\n(B) dog"
REFUSED = "refused"
MP4 = b"\0\0\0 ftypisom"
MP4_64 = base64.b64encode(MP4).decode()


class Films(list):
    """The films of a row, where a list alone is its images."""


# (name, value, what becomes of it): the images of the row, its question, or REFUSED.
FIELDS = [
    ("images", [A], [A]),
    ("images", ["a.png", "b.png"], ["a.png", "b.png"]),
    ("images", '["a.png", "b.png"]', ["a.png", "b.png"]),
    ("image", {"bytes": A, "path": None}, [A]),
    ("image", "a.png", ["a.png"]),
    ("Image", "a.png", ["a.png"]),
    ("image", A64, [A]),
    ("image", URI, [A]),
    ("image", 3, REFUSED),
    ("image", {"array": [1, 2]}, REFUSED),
    ("image", [[0, 0], [0, 0]], REFUSED),
    ("pixel_values", [[0, 0], [0, 0]], REFUSED),
    ("decoded_image", {"bytes": A, "path": "1.jpg"}, [A]),
    ("img", A, [A]),
    ("picture", "a.png", ["a.png"]),
    ("photos", ["a.png"], ["a.png"]),
    ("image_1", {"bytes": A}, [A]),
    ("image_7", {"bytes": A}, [A]),
    ("image_path", "a.png", ["a.png"]),
    ("image_paths", ["a.png", "b.png"], ["a.png", "b.png"]),
    ("image_file", "a.png", ["a.png"]),
    ("image_url", "http://x.org/a.png?s=1", ["http://x.org/a.png?s=1"]),
    ("image_url", {"url": URI}, [A]),
    ("image_bytes", A, [A]),
    ("image_base64", A64, [A]),
    ("jpg", A, [A]),
    ("file_name", "a.png", ["a.png"]),
    ("image_id", "COCO/a.jpg", ["COCO/a.jpg"]),
    # Fields of names that nobody knows.
    ("depth", A, REFUSED),
    ("depth", b"II*\0" + bytes(99), REFUSED),
    ("mask", {"bytes": A, "path": None}, REFUSED),
    ("mask", {"path": "a.png"}, REFUSED),
    ("mask", "a.PNG", REFUSED),
    ("flickr_url", "https://x.org/a.jpg?size=2", REFUSED),
    ("before_after", ["a.png", "b.png"], REFUSED),
    ("before_after", '["a.png", "b.png"]', REFUSED),
    ("figure", URI, REFUSED),
    ("figure", A64, REFUSED),
    ("caption", f"see {URI}", REFUSED),
    ("notes", {"by": "me", "pages": [{"image": "scan of page 1"}]}, REFUSED),
    ("notes", {"image": {"path": "scan"}}, REFUSED),
    ("notes", {"reasoning": "because"}, REFUSED),
    # Films and sounds.
    ("video", "a", Films([{"video": "a"}])),
    ("video", 4010069381, REFUSED),
    ("video_id", "v-1", REFUSED),
    ("videos", [MP4], Films([{"video": MP4}])),
    ("videos", ["a.mp4", "b.mp4"], Films([{"video": "a.mp4"}, {"video": "b.mp4"}])),
    ("videos", '["a.mp4"]', Films([{"video": "a.mp4"}])),
    ("videos", [["1.png", "2.png"]], Films([{"frames": ["1.png", "2.png"]}])),
    ("videos", [{"bytes": MP4, "path": "a.mp4"}], Films([{"video": MP4}])),
    (
        "videos",
        [{"type": "video", "video": "a.mp4", "fps": 2, "max_pixels": 9}],
        Films([{"video": "a.mp4", "fps": 2.0}]),
    ),
    (
        "video",
        {"video_path": "a.mp4", "nframes": 4, "video_start": 1, "video_end": 2.5},
        Films([{"video": "a.mp4", "num_frames": 4, "start": 1.0, "end": 2.5}]),
    ),
    (
        "video",
        {"video": "a.mp4", "clip": [1, 2]},
        Films([{"video": "a.mp4", "start": 1.0, "end": 2.0}]),
    ),
    ("video", {"frames": [A, B]}, Films([{"frames": [A, B]}])),
    ("video", ["1.png", {"bytes": B}], Films([{"frames": ["1.png", B]}])),
    ("video", f"data:video/mp4;base64,{MP4_64}", Films([{"video": MP4}])),
    ("video", {"base64": MP4_64}, Films([{"video": MP4}])),
    ("Video_Path", "a.mp4", Films([{"video": "a.mp4"}])),
    ("video_path", "a.mp4", Films([{"video": "a.mp4"}])),
    ("video_url", {"url": "http://x/a"}, Films([{"video": "http://x/a"}])),
    ("film", "a.avi", Films([{"video": "a.avi"}])),
    ("path", "b/a.mp4", Films([{"video": "b/a.mp4"}])),
    ("video_id", "a.webm", Films([{"video": "a.webm"}])),
    ("video", {"array": [[0]]}, REFUSED),
    ("video", {"path": "a.mp4", "video": "b.mp4"}, REFUSED),
    ("video", {"video": "a.mp4", "mask": "a.png"}, REFUSED),
    ("video", {"video": "a.mp4", "fps": 0}, REFUSED),
    ("video", {"video": "a.mp4", "nframes": 2.5}, REFUSED),
    ("video", {"video": "a.mp4", "nframes": 2, "fps": 1}, REFUSED),
    ("video", {"video": "a.mp4", "start": 2, "end": 1}, REFUSED),
    ("video", {"video": "a.mp4", "clip": [1]}, REFUSED),
    ("video", {"frames": ["1.png"], "fps": 1}, REFUSED),
    ("video_1", "a.mp4", REFUSED),
    # Names alone, of which nobody knows the file.
    ("video_ids", ["v-1", "v-2"], REFUSED),
    ("video_filename", "a", REFUSED),
    ("video_link", "https://x.org/watch?v=a", REFUSED),
    ("video_frames_dir", "frames/a", REFUSED),
    ("frames_dir", "frames/a", REFUSED),
    ("clip_id", "c-1", REFUSED),
    ("gif_name", "tumblr_1", REFUSED),
    ("image_id", 458752, REFUSED),
    ("imageId", "n123", REFUSED),
    ("image_name", "scan", REFUSED),
    ("image_list", ["a", "b"], REFUSED),
    ("img_dir", "a/b", REFUSED),
    ("notes", {"frames": ["a", "b"]}, REFUSED),
    ("audio_path", "a.wav", REFUSED),
    ("voice", "a.wav", REFUSED),
    ("audio", {"bytes": b"RIFF", "path": None}, REFUSED),
    ("clip", "b/a.webm", REFUSED),
    ("frames", ["f/1.jpg", "f/2.jpg"], Films([{"frames": ["f/1.jpg", "f/2.jpg"]}])),
    ("frames", {"count": 3}, REFUSED),
    # Options.
    ("options", ["cat", "dog"], SHOWN),
    ("Options", ["A. cat", "B. dog"], SHOWN),
    ("choices", ["(A) cat", "(B) dog"], SHOWN),
    ("choices", "['cat', 'dog']", SHOWN),
    ("choices", '["cat", "dog"]', SHOWN),
    ("choices", "A. cat\nB. dog", SHOWN),
    ("choices", "(A) cat (B) dog", SHOWN),
    ("choices", {"B": "dog", "A": "cat", "C": None}, SHOWN),
    ("choices", {"label": ["A", "B"], "text": ["cat", "dog"]}, SHOWN),
    ("choices", [{"label": "A", "text": "cat"}, {"label": "B", "text": "dog"}], SHOWN),
    ("choices", [{"A": "cat"}, {"B": "dog"}], SHOWN),
    ("option", "A. cat; B. dog", SHOWN),
    ("endings", ["cat", "dog"], SHOWN),
    ("candidates", ["cat", "dog"], SHOWN),
    ("mc1_targets", {"choices": ["cat", "dog"], "labels": [0, 1]}, REFUSED),
    ("options", ["cat"], REFUSED),
    ("options", "cat, dog", REFUSED),
    ("options", ["a.png", "b.png"], REFUSED),
    ("options", [{"bytes": A}, {"bytes": B}], REFUSED),
    ("options", {"first": "cat", "second": "dog"}, REFUSED),
    # Thoughts and weights.
    ("reasoning_content", "because", REFUSED),
    ("reasoning", "because", REFUSED),
    ("thinking", ["because"], REFUSED),
    ("rationale", "because", REFUSED),
    ("cot", "because", REFUSED),
    ("think", "because", REFUSED),
    ("thinking_trajectories", ["because"], REFUSED),
    ("loss_weight", 0.5, REFUSED),
    ("weights", [1, 0], REFUSED),
    ("loss_mask", [0, 1], REFUSED),
]

# (key, value, what becomes of it) in the assistant's turn that says "\boxed{5}".
TURN_KEYS = [
    ("reasoning_content", "because", "because\n</think>\n\n\\boxed{5}"),
    ("reasoning", "<think>\nbecause\n</think>\n", "because\n</think>\n\n\\boxed{5}"),
    ("thinking", " because ", "because\n</think>\n\n\\boxed{5}"),
    ("reasoning_content", "", "\\boxed{5}"),
    ("thinking", {"text": "because"}, REFUSED),
    ("reasoning_details", [{"text": "because"}], REFUSED),
    ("weight", 1, "\\boxed{5}"),
    ("train", True, "\\boxed{5}"),
    ("loss", None, "\\boxed{5}"),
    ("weight", 0, REFUSED),
    ("weight", 0.5, REFUSED),
    ("loss", False, REFUSED),
    ("loss_weight", "1", REFUSED),
    ("tool_calls", [{"name": "f"}], REFUSED),
    ("tool_calls", [], "\\boxed{5}"),
    ("name", "ann", REFUSED),
    ("images", ["a.png"], REFUSED),
    ("whatever", "x", REFUSED),
]


def outcome(record: dict) -> dict | str:
    """Returns the row of a record, or the message that refuses it."""
    before = repr(record)
    try:
        row = records.canonical(record)
    except fields.InvalidRecord as error:
        assert error.args[0] in ("fields", "image_damaged")
        return error.args[1]
    finally:
        assert repr(record) == before
    records.check(row)
    return row


def test_every_schema_has_a_row():
    assert SCHEMA_ROWS.keys() == schemas.SCHEMAS.keys()
    for schema, record in SCHEMA_ROWS.items():
        assert schemas.recognise(record) == schema
        row = outcome(record)
        wanted = ("Which?", ANSWERS[schema], [], [])
        got = row["question"], row["answer"], row["images"], row["videos"]
        assert got == wanted


@pytest.mark.parametrize("place", ["", "extra_info", "metadata"])
@pytest.mark.parametrize("schema", SCHEMA_ROWS)
def test_every_field_is_used_or_refused_by_name(schema, place):
    for name, value, expected in FIELDS:
        record = copy.deepcopy(SCHEMA_ROWS[schema])
        (record.setdefault(place, {}) if place else record)[name] = value
        row = outcome(record)
        if expected == REFUSED:
            assert isinstance(row, str) and name in row, (name, value, row)
            continue
        assert isinstance(row, dict), (name, value, row)
        if isinstance(expected, Films):
            # Of a row of EgoPlan without an image, the film's last frame is what is asked about.
            view = [expected[-1] | {"last": True}] if schema == "egoplan" else []
            assert row["videos"] == expected + view, (name, value)
            assert row["images"] == []
        elif isinstance(expected, list):
            assert row["images"] == expected, (name, value)
        else:
            assert row["question"] == expected, (name, value)
        assert name not in row["metadata"] and row["answer"] == ANSWERS[schema]


@pytest.mark.parametrize("schema", SCHEMA_ROWS)
def test_columns_of_letters_are_options(schema):
    for names in (
        "AB",
        ("option_a", "option_b"),
        ("choiceA", "choiceB"),
        ("opa", "opb"),
        ("Option A", "Option B"),
        ("option1", "option2"),
        ("answerA", "answerB"),
    ):
        columns = dict(zip(names, ("cat", "dog"), strict=True))
        row = outcome(SCHEMA_ROWS[schema] | columns | {"C": None, "D": float("nan")})
        assert row["question"] == SHOWN, names
        assert not row["metadata"].keys() & {*names}
    alone = outcome(SCHEMA_ROWS[schema] | {"A": "cat"})
    assert (alone["question"], alone["metadata"]["A"]) == ("Which?", "cat")


def conversations(key: str, value) -> dict[str, dict]:
    """Returns rows whose assistant's turn has one more key, in each schema that has turns."""
    reply = {"role": "assistant", "content": "\\boxed{5}", key: value}
    llava = {"from": "gpt", "value": "\\boxed{5}", key: value}
    human = {"from": "human", "value": "Which?"}
    model = {"ground_truth": "5"}
    return {
        "verl": {"prompt": [*ASK, reply], "reward_model": model},
        "vtriune": {
            "prompt": [*ASK, reply],
            "reward_model": model | {"verifier": "mathverify"},
        },
        "trl": {"messages": [*ASK, reply]},
        "trl, apart": {"prompt": ASK, "completion": [reply]},
        "trl, from and value": {"messages": [human, llava]},
        "llava": {"conversations": [human, llava]},
        "llava, role and content": {"conversations": [*ASK, reply]},
        "own": {"question": "Why?", "before": [*ASK, reply], "answer": "5"},
    }


@pytest.mark.parametrize(("key", "value", "expected"), TURN_KEYS)
def test_every_key_of_a_turn_is_used_or_refused_by_name(key, value, expected):
    for name, record in conversations(key, value).items():
        row = outcome(record)
        if expected == REFUSED:
            assert isinstance(row, str) and key in row.replace("a thought", key), name
            continue
        reply = row["before"][-1]["content"] if name == "own" else row["chain"]
        assert (reply, row["answer"]) == (expected, "5"), name


def test_a_thought_in_a_field_of_a_reply_is_kept_once():
    twice = {"prompt": ASK, "completion": "why\n</think>\n\n\\boxed{5}", "cot": "why"}
    assert outcome(twice)["chain"] == twice["completion"]
    assert "cot" in outcome(twice | {"cot": "5"})  # that is in the reply alone
    assert "cot" in outcome(twice | {"completion": "why? \\boxed{5}"})
    reply = {"role": "assistant", "content": twice["completion"], "thinking": "why"}
    assert outcome({"messages": [*ASK, reply]})["chain"] == twice["completion"]
    other = reply | {"thinking": "another"}
    assert "another one before </think>" in outcome({"messages": [*ASK, other]})


def test_the_turns_that_are_not_read_are_searched_as_well():
    turn = {"role": "user", "content": [{"type": "image", "image": "a.png"}]}
    for record in (
        {"messages": ASK, "prompt": [turn], "answer": "B"},
        {"conversations": ASK, "messages": [turn], "answer": "B"},
        {"problem": "Which?", "question": "![](a.png)", "turns": [turn], "answer": "B"},
    ):
        assert "a picture" in outcome(record) or "an image" in outcome(record)


def test_only_the_assistant_thinks():
    ask = [ASK[0] | {"reasoning": "because"}]
    assert "reasoning" in outcome({"prompt": ask, "answer": "5"})


@pytest.mark.parametrize("schema", SCHEMA_ROWS)
def test_no_place_is_too_deep_to_be_searched(schema):
    for name, value in (
        ("metadata", {"extra_info": {"mask": "a.png"}}),
        ("extra_info", {"metadata": '{"mask": "a.png"}'}),
        ("metadata", '{"mask": {"path": "a.png"}}'),
        ("metadata", {"pages": [[{"mask": ["a.png"]}]]}),
        ("info", '["a.png"]'),
        ("info", ["x", ["a.png"]]),
    ):
        row = outcome(copy.deepcopy(SCHEMA_ROWS[schema]) | {name: value})
        assert isinstance(row, str) and name in row, (name, value)


def test_flags_are_facts_about_a_row():
    flags = {"thinking": True, "video": False, "weight": 70, "loss_weight": 1}
    row = outcome(SCHEMA_ROWS["own"] | flags)
    assert row["metadata"] == flags


def test_names_beside_a_medium_and_times_of_frames_are_facts():
    beside = {"image": "a.png", "image_id": 7, "video_id": "v-1"}
    row = outcome(SCHEMA_ROWS["own"] | beside)
    assert row["images"] == ["a.png"]
    assert row["metadata"] == {"image_id": 7, "video_id": "v-1"}
    outcome_of_times = outcome(SCHEMA_ROWS["own"] | {"notes": {"frames": [0, 16]}})
    assert outcome_of_times["question"] == "Which?"


@pytest.mark.parametrize(
    ("fields_of_row", "message"),
    [
        # Without progress there is no film; without a view nothing would be left.
        ({"task_progress_metadata": []}, "video_basename: a row about a video"),
        ({"video": "b.mp4"}, "films in video_basename, a.mp4, and others in another"),
    ],
)
def test_a_row_of_egoplan_never_loses_the_film_that_it_names(fields_of_row, message):
    record = SCHEMA_ROWS["egoplan"] | {"video_basename": "a.mp4"} | fields_of_row
    assert message in outcome(record)
    # What it names once more in another field is the same film.
    same = outcome(record | {"task_progress_metadata": [{}], "video": "clips/a.mp4"})
    assert same["videos"][0] == {"video": "clips/a.mp4"}


def test_a_record_nested_as_deep_as_a_stack_is_refused_and_not_a_crash():
    deep = "a"
    for _ in range(5000):
        deep = {"image": deep}
    with pytest.raises(fields.InvalidRecord, match="nested too deep"):
        records.canonical(SCHEMA_ROWS["own"] | {"image": deep})
    with pytest.raises(fields.InvalidRecord, match="an image, by its name"):
        records.canonical(SCHEMA_ROWS["own"] | {"notes": deep})
