"""tools/verify.py as a user runs it."""

import json
from pathlib import Path

import pytest
from tools_for_tests import run_tool

ROOT = Path(__file__).parents[2]


def verify(*arguments):
    return run_tool("verify", *arguments)


LINES = [  # line, verdict, extracted, reason
    ('{"id": 5, "completion": "a</think>\\\\boxed{7}", "answer": 7}', "right", "7", "equal"),
    ('{"completion": "a</think>\\\\boxed{8}", "answer": "7"}', "wrong", "8", "another number"),
    ('{"completion": "\\\\boxed{7}</think>7", "answer": "7"}', "wrong", None, "no answer"),
    ('{"completion": "a</think>\\\\boxed{\\\\sqrt{12}}", "answer": "2\\\\sqrt{3}"}', "right",
     "\\sqrt{12}", "equal"),
    ('{"completion": "a</think>\\\\boxed{(B) 7}", "answer": "B", "verifier": "choice"}', "right",
     "(B) 7", "equal"),
    ('{"completion": "a</think>\\\\boxed{7}", "answer": "7", "verifier": "matematics"}', "error",
     "7", "did you mean 'mathematics'?"),
    ('{"completion": "a</think>\\\\boxed{7}", "answer": "7", "verifier": "os:system"}', "error",
     "7", "os:system is not among the functions"),
    ('{"completion": "a</think>\\\\boxed{7}", "answer": "7", "verifier": null}', "right", "7",
     "equal"),
    ('{"completion": "a</think>\\\\boxed{\\ud800}", "answer": "7"}', "wrong", "\ud800", ""),
    ('{"completion": "a</think>\\\\boxed{7}", "answer": "\\\\frac{1}{"}', "error", "7",
     "ValueError"),
    ('{"completion": "a</think>\\\\boxed{7}", "answer": "so \\\\boxed{7}"}', "right", "7", "equal"),
    ('{"completion": 7, "answer": "7"}', "error", None, "no text under `completion`"),
    ('{"completion": "a</think>\\\\boxed{7}"}', "error", None, "no text or number under `answer`"),
    ('[1, 2]', "error", None, "wanted an object, got list"),
    ('{"completion": "cut o', "error", None, "no JSON"),
    ('{"completion": "a", "answer": NaN}', "error", None, "NaN is no JSON"),
    ("[" * 100_000, "error", None, "no JSON"),
]  # fmt: skip


def test_the_rows_come_out_in_order_with_verdicts(tmp_path):
    lines = [line for line, *_ in LINES]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    done = verify(
        f"--file={tmp_path}/answers.jsonl",
        f"--out={tmp_path}/verdicts.jsonl",
        "--processes=1",
    )
    assert done.returncode == 0, done.stderr
    assert "5 right, 3 wrong, 9 error" in done.stdout
    rows = [
        json.loads(line)
        for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()
    ]
    assert len(rows) == len(LINES)
    for row, (line, verdict, extracted, reason) in zip(rows, LINES, strict=True):
        assert (row["verdict"], row["extracted"]) == (verdict, extracted), row
        assert reason in row["reason"], row
        if "line" not in row:  # what came in is still there
            before = json.loads(line)
            assert {key: row[key] for key in before} == before
    assert rows[0]["id"] == 5 and rows[13]["line"] == lines[13]
    assert list(tmp_path.glob("*.partial")) == []


def test_completions_without_thinking(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"completion": "It is \\\\boxed{7}.", "answer": "7"}'
    )
    done = verify(
        f"--file={tmp_path}/a.jsonl", f"--out={tmp_path}/b.jsonl", "--nothinking"
    )
    assert "1 right" in done.stdout


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["--file=no.jsonl", "--out=/tmp/x.jsonl"], "no such file of answers"),
        (
            ["--file=README.md", "--out=no/such/place.jsonl"],
            "its directory does not exist",
        ),
        (["--file=README.md", "--out=/tmp/x", "--model_url=http://a"], "go together"),
        (["--file=README.md", "--out=/tmp/x", "--deadline_s=0"], "deadline_s is 0.0"),
    ],
)
def test_mistakes_are_one_line(arguments, problem):
    done = verify(*arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and problem in done.stderr
