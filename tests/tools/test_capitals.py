"""The text-only questions: which capitals are asked for, and when an answer names one."""

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "tools" / "capitals.py"
SPEC = importlib.util.spec_from_file_location("capitals", PATH)
capitals = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(capitals)

RECORDS = [
    {"name": "France", "capital": "Paris", "population": 66},
    {"name": "Colombia", "capital": "Bogotá", "population": 48},
    {"name": "United States", "capital": "Washington D.C.", "population": 319},
    {"name": "Burundi", "capital": "Bujumbura", "population": 9},  # it moved
    {"name": "Antarctica", "population": 1},
    {"name": "Macao", "capital": "Macao"},
]


def test_who_is_asked_and_in_which_order():
    asked = capitals.questions(RECORDS)
    assert [example.id for example in asked] == ["Colombia", "France", "United States"]
    assert asked[1].question == "What is the capital of France?"
    assert asked[1].answer == "Paris"
    assert not asked[1].images


@pytest.mark.parametrize(
    "text, capital, is_named",
    [
        ("The capital of France is Paris.", "Paris", True),
        ("PARIS", "Paris", True),
        ("Parisian cafes", "Paris", False),
        ("It is Bogota.", "Bogotá", True),
        ("Washington, D.C.", "Washington D.C.", True),
        ("Washington", "Washington D.C.", False),
        ("", "Paris", False),
    ],
)
def test_an_answer_names_a_capital(text, capital, is_named):
    assert capitals.names(text, capital) == is_named


def write(folder, texts):
    (folder / "capitals").mkdir(parents=True)
    rows = [json.dumps({"index": i, "text": text}) for i, text in texts.items()]
    (folder / "capitals" / "samples.jsonl").write_text("\n".join(rows) + "\n")
    return str(folder)


def test_two_folders_are_compared_question_by_question(tmp_path, monkeypatch):
    monkeypatch.setattr(capitals, "countries", lambda: RECORDS)
    before = write(tmp_path / "a", {"France": "Paris.", "Colombia": "Bogota."})
    after = write(tmp_path / "b", {"France": "Paris.", "Colombia": "Quito."})
    first, second = capitals.compare([before, after], "capitals")
    assert "100.0%" in first and "2 of 2 the same string" in first
    assert "50.0%" in second and "1 of 2 the same string" in second
    # Of two questions one is lost; the bootstrap draws none, one or both of them.
    assert "-50.0 points (-100.0 to +0.0)" in second


def test_folders_with_other_questions_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(capitals, "countries", lambda: RECORDS)
    before = write(tmp_path / "a", {"France": "Paris."})
    after = write(tmp_path / "b", {"Colombia": "Quito."})
    with pytest.raises(ValueError, match="other questions"):
        capitals.compare([before, after], "capitals")
