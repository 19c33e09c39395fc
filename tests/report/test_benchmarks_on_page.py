"""Benchmarks on the page of a run: the numbers of evaluate's files, found where docs say."""

import json

import commands
import pytest
from benchmark_files import choices, write_tsv
from hostile_texts import STRINGS
from pages_for_tests import Page, write_run

from r1v3_jax.evaluate import benchmark_run, benchmark_summary, protocol
from r1v3_jax.evaluate.benchmark_run import Reader
from r1v3_jax.evaluate.benchmark_summary import Scorer
from r1v3_jax.evaluate.samples import Sample, SampleFile
from r1v3_jax.report.page import write_report
from r1v3_jax.rewards.settings import Verify

RUNS = 2
QUESTIONS = 12


@pytest.fixture
def workdir(tmp_path):
    """A run with an evaluation in its folder `benchmark`, scored by evaluate's own functions.

    Of 12 questions with 2 answers each, 8 are right in both runs, 3 wrong, and the last has a
    picture that cannot be read. One right answer of the second run needs 1,500 tokens.
    """
    write_run(tmp_path, {}, [])
    rows = choices(QUESTIONS)
    rows[-1]["image"] = "<b>no picture</b>"
    write_tsv(tmp_path / "pets.tsv", rows)
    part = benchmark_run.prepare("pets", Reader(tmp_path, "exact", "front"))
    folder = tmp_path / "benchmark" / "pets"
    samples = []
    for run in range(RUNS):
        for number, item in enumerate(part.items[:-1]):
            said = item.question.answer if number < 8 else "Z"
            text = f"thoughts</think>{said}"
            is_long = run == 1 and number == 0
            samples.append(
                Sample(
                    run,
                    item.question.index,
                    text,
                    tokens=1500 if is_long else 20,
                    cuts={"1024": 4} if is_long else {},
                )
            )
    scorer = Scorer("box", Verify(processes=1), None, thinking=True)
    settings = {
        "sampling": {**part.described, "runs": RUNS},
        "scoring": scorer.protocol(),
    }
    protocol.settle(folder / "protocol.json", settings)
    SampleFile(folder / "samples.jsonl").add(samples)
    benchmark_summary.summarise(part, RUNS, folder, scorer)
    return tmp_path


def tables(workdir) -> dict[str, list[list[str]]]:
    """Returns {first cell of a table's head: its rows, without the head} of the first page."""
    write_report(workdir)
    rows = []
    for element in Page(workdir / "report" / "index.html").elements:
        if element.tag == "table":
            rows.append([])
        elif element.tag == "tr":
            rows[-1].append([])
        elif element.tag in ("th", "td"):
            rows[-1][-1].append(element.text)
    return {
        (table[0][0], table[0][1]): table[1:] for table in rows if len(table[0]) > 1
    }


def test_scores_budgets_and_what_was_not_asked_are_shown(workdir):
    shown = tables(workdir)
    # 16 of 24 answers are right: 8 of 12 questions in each run.
    (score,) = shown["benchmark", "n"]
    assert score[:4] == ["pets", "12", "2", "66.7"]
    assert score[-1] == "66.7, 66.7"
    # 11 of 12 questions were asked, and the rule decided all of those.
    assert score[6:9] == ["91.7", "0.0", "0.0"]
    # Of the beginning of 1,024 tokens one answer fewer is right.
    (budget,) = shown["benchmark", "1,024 tokens"]
    assert budget == ["pets", "62.5", "", "", "", ""]
    (not_asked,) = shown["benchmark", "index"]
    assert not_asked[:2] == ["pets", "11"]
    fields = dict(shown["field", "pets"])
    assert (fields["runs"], fields["reading"], fields["judge"]) == ("2", "box", "None")


def test_an_evaluation_that_goes_on_is_not_shown_and_a_damaged_one_is_noted(workdir):
    summary = workdir / "benchmark" / "pets" / "summary.json"
    text = summary.read_text()
    summary.unlink()
    assert ("benchmark", "n") not in tables(workdir)
    cuts = [text.replace('"cut": 0.0', f'"cut": {cut}') for cut in ("[]", 10**400)]
    for damaged in (text[:40], *cuts, "[1]"):
        summary.write_text(damaged)
        assert ("benchmark", "n") not in tables(workdir)
        page = Page(workdir / "report" / "index.html")
        notes = [x.text for x in page.elements if x.tag == "li"]
        assert any("benchmark/pets cannot be shown" in note for note in notes), damaged


def test_of_many_questions_that_were_not_asked_the_page_names_some(workdir):
    path = workdir / "benchmark" / "pets" / "summary.json"
    reasons = {f"q{i}": "a prompt of 9000 tokens" for i in range(20_000)}
    path.write_text(json.dumps({**json.loads(path.read_text()), "not_asked": reasons}))
    shown = tables(workdir)["benchmark", "index"]
    assert shown[99][:2] == ["pets", "q99"]
    assert shown[100:] == [["pets", "", "and 19,900 more, see its summary.json"]]


def test_hostile_names_are_text(workdir):
    path = workdir / "benchmark" / "pets" / "summary.json"
    text = path.read_text()
    for hostile in STRINGS[:20]:
        path.write_text(json.dumps({**json.loads(text), "benchmark": hostile}))
        assert tables(workdir)["benchmark", "n"][0][0] == hostile


def test_the_workdir_itself_is_refused_as_the_out_of_an_evaluation(workdir):
    """Its summary.json is the run's."""
    (workdir / "run.json").write_text("{}")
    done = commands.run(
        *("-m", "r1v3_jax.evaluate", "--endpoint=http://x/v1", "--benchmark=pets"),
        f"--data={workdir}",
        f"--out={workdir}",
    )
    assert done.returncode == 1
    assert f"--out={workdir}/benchmark" in done.stderr
