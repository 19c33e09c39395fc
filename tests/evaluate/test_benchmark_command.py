"""The command as it is typed: asked of a server, scored again, refused."""

import csv
import json
import random

import commands
import pytest
from benchmark_files import choices, write_tsv
from model_server_for_tests import completion, model_server, text_of

from r1v3_jax.files import read_json, read_jsonl

COMMAND = ("-m", "r1v3_jax.evaluate")


def letter_of(request: dict) -> str:
    """A model that is right in about two thirds of its answers, by question and seed."""
    rng = random.Random(f"{text_of(request)}{request['seed']}")
    number = int(text_of(request).partition("Question ")[2].partition("?")[0])
    return "ABC"[number % 3] if rng.random() < 0.66 else rng.choice("ABC")


def respond(request, _):
    return 200, completion(rf"A or B?</think>It is \boxed{{{letter_of(request)}}}")


def evaluate(data, out, url, *more, benchmark="pets"):
    arguments = [
        f"--data={data}",
        f"--out={out}",
        f"--endpoint={url}",
        "--runs=3",
        *more,
    ]
    return commands.run(*COMMAND, f"--benchmark={benchmark}", *arguments)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_tsv(folder / "pets.tsv", choices(40, category="animals"))
    return folder


def test_a_server_is_evaluated_and_its_files_say_everything(data, tmp_path):
    with model_server(respond) as server:
        done = evaluate(data, tmp_path / "out", server.url)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "pets"

    # 1. The number, counted anew from what the server said.
    right = [
        letter_of(r) == "ABC"[int(text_of(r).split()[1][:-1]) % 3]
        for r in server.requests
    ]
    summary = read_json(folder / "summary.json")
    assert summary["accuracy"] == pytest.approx(sum(right) / 120, abs=1e-12)
    assert summary["decided_by"] == {"rule": 1.0}
    assert summary["low"] < summary["accuracy"] < summary["high"]
    assert f"| {100 * summary['accuracy']:.1f} |" in done.stdout

    # 2. What was asked, answered and assumed.
    samples = read_jsonl(folder / "samples.jsonl")
    assert {(s["run"], s["index"]) for s in samples} == {
        (run, str(i)) for run in range(3) for i in range(40)
    }
    assert samples[0]["images"] == [[8, 8]]
    sampling = read_json(folder / "protocol.json")["sampling"]
    assert (sampling["temperature"], sampling["runs"], sampling["questions"]) == (
        1.0,
        3,
        40,
    )

    # 3. The predictions as the kit keeps them.
    path = folder / "run1" / "r1v3" / "r1v3_pets.tsv"
    with path.open(newline="") as file:
        head, *rows = csv.reader(file, delimiter="\t")
    assert head == "index question A B C answer category thinking prediction".split()
    assert len(rows) == 40
    assert rows[0][-2] == "A or B?"


def test_another_protocol_is_refused_and_another_scoring_is_not(data, tmp_path):
    with model_server(respond) as server:
        assert evaluate(data, tmp_path / "out", server.url).returncode == 0
        asked = len(server.requests)
        other = evaluate(data, tmp_path / "out", server.url, "--temperature=0.5")
        again = evaluate(data, tmp_path / "out", server.url, "--reading=rule")
        paired = evaluate(
            data, tmp_path / "b", server.url, f"--compare={tmp_path / 'out'}"
        )
    assert other.returncode == 1
    assert "temperature was 1.0 and is 0.5" in other.stderr
    assert again.returncode == 0
    assert len(server.requests) == 2 * asked  # the second folder alone
    assert "pets: +0.0 points" in paired.stdout


def test_rows_that_cannot_be_asked_stay_in_n_and_are_named(data, tmp_path):
    rows = choices(10)
    rows[3]["image"] = "no picture"
    rows[5]["question"] = "Question 5? <image 4>"
    write_tsv(data / "pets.tsv", rows)
    with model_server(respond) as server:
        done = evaluate(data, tmp_path / "out", server.url)
        assert len(server.requests) == 8 * 3
    assert done.returncode == 0, done.stderr
    summary = read_json(tmp_path / "out" / "pets" / "summary.json")
    assert summary["questions"] == 10
    assert sorted(summary["not_asked"]) == ["3", "5"]
    assert summary["decided_by"]["not asked"] == 0.2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--benchmark=pets"], "either --checkpoint=DIR or --endpoint"),
        (["--benchmark=dogs", "--endpoint=http://x/v1"], "no benchmark of that name"),
        (["--endpoint=http://x/v1"], "--benchmark=NAME is missing"),
        (["--benchmark=MMK12", "--endpoint=http://x/v1"], "no parquet file"),
        (["--benchmark=MMStar", "--endpoint=http://x/v1"], "its MD5 is"),
        (
            ["--benchmark=LogicVista", "--endpoint=http://x/v1", "--any_md5"],
            "need a judge",
        ),
        (
            ["--benchmark=pets", "--endpoint=http://x/v1", "--temperature=0"],
            "equal answers",
        ),
        (
            ["--benchmark=pets", "--endpoint=http://x/v1", "--prompts=kit"],
            "--missing=kit",
        ),
        (["--benchmark=pets", "--checkpoint=nowhere"], "model.json: no such file"),
        (["--benchmark=twice", "--endpoint=http://x/v1"], "index '1' is there 2 times"),
        (["--benchmark=foreign", "--endpoint=http://x/v1"], "none of the options"),
    ],
)
def test_a_mistake_is_one_sentence(data, tmp_path, arguments, said):
    write_tsv(data / "MMStar.tsv", choices(3))
    write_tsv(data / "LogicVista.tsv", choices(3))
    write_tsv(data / "twice.tsv", [choices(2)[1]] * 2)
    write_tsv(data / "foreign.tsv", choices(1, answer="D"))
    out = tmp_path / "out"
    done = commands.run(*COMMAND, f"--data={data}", f"--out={out}", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_a_judge_decides_what_the_rule_leaves_open_and_is_asked_once(data, tmp_path):
    rows = [
        {"index": i, "question": f"Question {i}?", "answer": f"number {i}"}
        for i in range(6)
    ]
    write_tsv(data / "words.tsv", rows)

    def policy(request, _):
        number = int(text_of(request).split()[1][:-1])
        said = f"number {number}" if number < 4 else "another"
        return 200, completion(f"</think>I say {said}.")

    def judge(request, times):
        # Three of ten requests fail, once.
        if times == 1 and random.Random(str(request)).random() < 0.3:
            return 500, ""
        data = json.JSONDecoder().raw_decode(
            text_of(request)[text_of(request).find("{") :]
        )[0]
        is_right = data["reference answer"] in data["student's final answer"]
        return 200, completion("CORRECT" if is_right else "INCORRECT")

    with model_server(policy) as server, model_server(judge) as judging:
        flags = [f"--judge_url={judging.url}", "--judge_model=j", "--unjudged"]
        first = evaluate(data, tmp_path / "out", server.url, *flags, benchmark="words")
        assert first.returncode == 0, first.stderr
        distinct = {str(request) for request in judging.requests}
        asked = len(judging.requests)
        again = evaluate(data, tmp_path / "out", server.url, *flags, benchmark="words")
    assert len(distinct) == 6  # three runs say the same: each is asked once
    assert again.stdout.splitlines()[-3:] == first.stdout.splitlines()[-3:]
    assert len(judging.requests) == asked
    summary = read_json(tmp_path / "out" / "words" / "summary.json")
    assert summary["accuracy"] == pytest.approx(4 / 6)
    assert summary["decided_by"] == {"judge": 1.0}
