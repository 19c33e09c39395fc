"""Files of questions: every line has an answer or says why not; a second run asks for the rest."""

import json
from pathlib import Path

import pytest
from images_for_tests import PNG
from scripted_engine import ScriptedEngine, serving, text_of

from r1v3_jax.chat import batches
from r1v3_jax.chat.models import LocalModel, RemoteModel, Sampling, Unavailable
from r1v3_jax.files import read_jsonl

SAMPLING = Sampling(max_tokens=50)
MANY = [{"id": f"q{i}", "prompt": f"question {i}"} for i in range(40)]


@pytest.fixture
def engine():
    made = ScriptedEngine()
    made.start()
    made.wait_until_ready()
    return made


def write(path: Path, rows) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def answer(model, prompts: Path, out: Path, problems=None, **options) -> int:
    said = [] if problems is None else problems
    settings = {"at_a_time": 8, "thinking": True, "system": "", "report": said.append}
    return batches.run(model, SAMPLING, prompts, out, **{**settings, **options})


def test_every_line_is_answered_in_its_order(engine, tmp_path):
    prompts = write(tmp_path / "in.jsonl", MANY)
    assert answer(LocalModel(engine), prompts, tmp_path / "out.jsonl") == 0
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["line"] for row in rows] == list(range(1, 41))
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(40)]
    assert rows[7]["answer"] == "You said: question 7"
    assert (rows[7]["thoughts"], rows[7]["finish_reason"]) == ("I see.", "stop")
    # Each line has a seed of its own, which is the same again in another run.
    seeds = {text_of(r): r.settings.seed for r in engine.requests}
    assert seeds["user: question 7"] == 8
    assert len(set(seeds.values())) == 40


def test_rows_of_every_form_are_read(engine, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    rows = [
        {"question": "What?", "images": ["a.png"]},
        {"prompt": "<image>Left, <image>right?", "images": ["a.png", str(tmp_path / "a.png")]},
        {"prompt": "<image> is a tag."},
        {"messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "<image>\nWhat?"},
            {"role": "assistant", "content": "A cat.", "reasoning": "Hm."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "It is left out."},
        ], "images": ["a.png"]},
    ]  # fmt: skip
    prompts = write(tmp_path / "in.jsonl", rows)
    assert answer(LocalModel(engine), prompts, tmp_path / "out.jsonl", at_a_time=1) == 0
    assert [text_of(request) for request in engine.requests] == [
        "user: [0]What?",
        "user: [0]Left, [1]right?",
        "user: <image> is a tag.",
        "system: Be short.\nuser: [0]\nWhat?\nassistant: A cat.\nuser: Why?",
    ]
    out = tmp_path / "out2.jsonl"
    answer(
        LocalModel(engine), prompts, out, at_a_time=1, thinking=False, system="Rhyme."
    )
    again = engine.requests[4:]
    assert text_of(again[0]) == "system: Rhyme.\nuser: [0]What?"
    assert text_of(again[3]).startswith("system: Be short.")
    assert not again[0].thinking


BAD = [
    ("{", "Expecting property name"),
    ("[1]", "wanted an object"),
    ({"text": "hi"}, "got none of them"),
    ({"prompt": "a", "question": "b"}, "got prompt, question"),
    ({"prompt": 7}, "a text as content"),
    ({"prompt": "a", "images": ["missing.png"]}, "no such file"),
    ({"prompt": "a", "images": ["../../etc/passwd"]}, "a path below the data's folder"),
    ({"prompt": "a", "images": ["http://x/a.png"]}, "an address"),
    (
        {"prompt": "<image><image>", "images": ["a.png"]},
        "2 markers <image> for 1 images",
    ),
    ({"prompt": "a", "image": 5}, "images: wanted a list of paths"),
    ({"messages": []}, "got none of them"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "wanted objects with a role"),
    ({"prompt": "word " * 300}, "a prompt of 301 tokens"),
    ("[" * 100_000, ""),
]


def test_a_bad_line_says_why_and_disturbs_no_other(engine, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    rows = [row for bad, _ in BAD for row in (bad, {"prompt": "fine"})]
    prompts = write(tmp_path / "in.jsonl", rows)
    problems = []
    assert answer(LocalModel(engine), prompts, tmp_path / "out.jsonl", problems) == len(
        BAD
    )
    written = read_jsonl(tmp_path / "out.jsonl")
    assert len(written) == 2 * len(BAD)
    for (_, said), row, good in zip(BAD, written[::2], written[1::2], strict=True):
        assert said in row["problem"]
        assert "answer" not in row
        assert good["answer"] == "You said: fine"
    assert len(problems) == len(BAD)


def test_a_run_that_was_killed_goes_on_where_it_was(engine, tmp_path):
    """Half a line at the end and lines with problems are asked again, the others are not."""
    prompts = write(tmp_path / "in.jsonl", MANY)
    whole = tmp_path / "whole.jsonl"
    answer(LocalModel(engine), prompts, whole)
    engine.requests.clear()
    lines = whole.read_text().splitlines()
    failed = {**json.loads(lines[20]), "problem": "the engine failed"}
    kept = [*lines[:20], json.dumps(failed), lines[21][:30]]
    out = tmp_path / "out.jsonl"
    out.write_text("\n".join(kept))
    assert answer(LocalModel(engine), prompts, out) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert len(engine.requests) == 20


def test_answers_to_other_questions_are_not_mixed_with_these(engine, tmp_path):
    prompts = write(tmp_path / "in.jsonl", MANY)
    out = tmp_path / "out.jsonl"
    answer(LocalModel(engine), prompts, out)
    before = out.read_bytes()
    write(prompts, [{"prompt": "another"}, *MANY[1:]])
    with pytest.raises(ValueError, match="line 1 of the questions is another one now"):
        answer(LocalModel(engine), prompts, out)
    assert out.read_bytes() == before


def test_a_server_that_is_busy_or_breaks_off_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BACKOFF_S", 0.01)
    prompts = write(tmp_path / "in.jsonl", MANY)
    with serving(ScriptedEngine(pace=0.002, slots=1, queue=2)) as served:
        model = RemoteModel(f"{served.url}/v1", "r1v3", 60.0)
        original = model.ask
        fails = iter([True, False] * 3)

        def ask(question, sampling):
            if next(fails, False):
                raise Unavailable("the answer breaks off")
            return original(question, sampling)

        monkeypatch.setattr(model, "ask", ask)
        assert answer(model, prompts, tmp_path / "out.jsonl") == 0
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["answer"] for row in rows] == [
        f"You said: question {i}" for i in range(40)
    ]


def test_what_the_server_refuses_is_told(tmp_path):
    prompts = write(tmp_path / "in.jsonl", [{"prompt": "hi"}])
    problems = []
    with serving() as served:
        model = RemoteModel(f"{served.url}/v1", "another", 60.0)
        assert answer(model, prompts, tmp_path / "out.jsonl", problems) == 1
    assert "there is no 'another' here" in problems[0]
