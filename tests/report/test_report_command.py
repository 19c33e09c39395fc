"""python -m r1v3_jax.report: damaged and unfinished runs, several runs, watching and serving."""

import http.client
import json
import re
import socket
import threading

import pytest
from pages_for_tests import Page, row, write_run

from r1v3_jax.report import __main__ as command
from r1v3_jax.report import serve
from r1v3_jax.report.page import write_report, write_side_by_side

METRICS = [
    {"stage": "grpo", "step": i, "reward": i / 10, "alarm/zero_signal": 1}
    for i in range(9)
]
SUMMARY = {
    "name": "small",
    "accuracy": {"grpo": {"easy": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 100}}},
    "why": "step 9: the highest held-out accuracy, 0.5",
    "versions": {"jax": "1.2", "commit": "0123abcd+", "devices": 8},
}


@pytest.fixture
def workdir(tmp_path):
    run = write_run(tmp_path / "a", {"grpo_000000": [row(0), row(1)]}, METRICS)
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    return run


def notes(workdir) -> str:
    index = Page(workdir / "report" / "index.html")
    return "".join(x.text for x in index.of_class("notes"))


def test_it_prints_pictures_the_table_and_where_the_page_is(workdir, capsys):
    """Proves: what the command printed before is still there, and the page is its last line."""
    command.main([str(workdir)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(workdir / "plots" / "reward.png")
    assert "| grpo  | 50.0 [40.0, 60.0] |" in lines
    assert lines[-1] == str(workdir / "report" / "index.html")


def test_the_summary_says_what_ran(workdir):
    """Proves: name, commit, chips, choice and alarms come from the files; curves have numbers."""
    write_report(workdir)
    index = Page(workdir / "report" / "index.html")
    cells = [x.text for x in index.elements if x.tag in ("td", "th")]
    for text in ("0123abcd+", "8", SUMMARY["why"], "zero signal", "50.0 [40.0, 60.0]"):
        assert text in cells
    assert not notes(workdir)
    points = [x.text for x in index.elements if x.tag == "title"][1:]
    assert points[:2] == ["reward, step 0: 0", "reward, step 1: 0.1"]
    assert len(points) == 9


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda w: (w / "summary.json").unlink(), "The run is not finished"),
        (lambda w: (w / "summary.json").write_text("{"), "summary.json cannot be read"),
        (lambda w: (w / "summary.json").write_text('{"accuracy": {"a": {"b": 1}}}'), "accuracies"),
        (lambda w: (w / "run.json").write_bytes(b"\xff\xfe"), "run.json cannot be read"),
        (lambda w: append(w / "metrics.jsonl", '{"stage": "gr'), "The last line of metrics.jsonl"),
        (lambda w: append(w / "metrics.jsonl", "nonsense\n[1]\n"), "metrics.jsonl: 2 damaged"),
        (lambda w: (w / "metrics.jsonl").unlink(), "metrics.jsonl has no step yet"),
        (lambda w: append(w / "rollouts/grpo_000000.jsonl", "{}\nx\n{"), "3 lines cannot be read"),
        (lambda w: append(w / "rollouts/grpo_000000.jsonl", '{"id": 1, "completion": "", '
                          '"tokens": 7}\n'), "1 lines cannot be read"),
        (lambda w: (w / "tokenizer/tokenizer.json").write_text("{}"), "Tokens have no texts"),
        (lambda w: (w / "drops.jsonl").write_text("?\n"), "drops.jsonl: 1 damaged"),
    ],
)  # fmt: skip
def test_a_damaged_run_shows_what_there_is(workdir, damage, said):
    """Proves: the page is written, and says in a note what is missing."""
    damage(workdir)
    write_report(workdir)
    assert said in notes(workdir)
    shown = Page(workdir / "report" / "samples" / "grpo_000000.html")
    assert [x.text for x in shown.of_class("prompt")] == ["<image>Add the rows."]
    assert len(shown.of_class("sample")) == 2


def append(path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_samples_of_older_versions_are_shown(tmp_path):
    """Proves: a row without the newer fields has its text and its colours, and says what is not."""
    new = "step source tiles extracted reason length ended advantage gap old_log_probs weights"
    old = {k: v for k, v in row(0).items() if k not in new.split()}
    oldest = {k: v for k, v in old.items() if k not in ("terms", "problem")}
    rows = [old | {"images": 1}, oldest | {"images": 2, "id": "other"}]
    workdir = write_run(tmp_path, {"grpo_000000": rows}, METRICS)
    write_report(workdir)
    shown = Page(workdir / "report" / "samples" / "grpo_000000.html")
    assert len([x for x in shown.of_class("missing") if "older run" in x.text]) == 3
    first, second = shown.of_class("sample")
    assert "10 tokens, end not known" in first.text
    assert "accuracy 1 format 1" in second.text
    assert len([x for x in shown.of_class("t") if "title" in x.attributes]) == 20
    assert "no log-probabilities of the trainer" in " ".join(
        x.text for x in shown.elements if x.tag == "main"
    )
    assert "by-gap" not in {x.attributes.get("id") for x in shown.elements}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no/such"], "no/such: no such directory; give the --workdir of a run"),
        (["."], "not a run's directory, it has none of metrics.jsonl, run.json"),
        (["run", "run"], "a run is compared with itself"),
    ],
)
def test_a_mistake_is_one_sentence(workdir, arguments, said, monkeypatch, tmp_path):
    """Proves: the message names what was got and what would do, without a traceback."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    arguments = [str(workdir) if x == "run" else x for x in arguments]
    with pytest.raises(SystemExit, match=f"^error: .*{re.escape(said)}") as error:
        command.main(arguments)
    assert "\n" not in str(error.value)


def test_a_port_in_use_is_one_sentence(workdir):
    """Proves: nothing is shown on a port of another program."""
    with socket.socket() as taken:
        taken.bind((serve.ADDRESS, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            SystemExit, match=f"error: --serve={port}: the port cannot be"
        ):
            command.main([str(workdir), f"--serve={port}"])


def test_the_server_shows_the_report_and_nothing_else(workdir):
    """Proves: pages with the policy; no other folder, no listing, no other name of this machine."""
    path = write_report(workdir)
    with serve.make_server(path.parent, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]

        def get(address, host=f"localhost:{port}"):
            connection = http.client.HTTPConnection(serve.ADDRESS, port, timeout=10)
            connection.request("GET", address, headers={"Host": host})
            answer = connection.getresponse()
            return answer, answer.read()

        answer, body = get("/")
        assert (answer.status, body) == (200, path.read_bytes())
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert get("/page.js")[0].status == 200
        assert get("/samples/")[0].status == 404
        assert get("/../metrics.jsonl")[0].status == 404
        assert get("/%2e%2e/metrics.jsonl")[0].status == 404
        assert get("/", host=f"evil.example:{port}")[0].status == 403
        server.shutdown()


def test_watching_writes_again_what_has_changed(workdir):
    """Proves: nothing is written while nothing changes; a new step is."""
    states = iter([1, 1, 1, 2, 2])
    written = []

    def state():
        try:
            return next(states)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        serve.watch(lambda: written.append(1), state, pause=0.0)
    assert len(written) == 1
    before = serve.state_of([workdir])
    append(workdir / "metrics.jsonl", json.dumps(METRICS[0] | {"step": 9}) + "\n")
    assert serve.state_of([workdir]) != before


def verdicts(workdir, right: dict[str, list]) -> None:
    rows = [
        json.dumps({"set": name, "id": str(i), "right": [bool(x)]}) + "\n"
        for name, answers in right.items()
        for i, x in enumerate(answers)
    ]
    (workdir / "grpo").mkdir()
    (workdir / "grpo" / "verdicts.jsonl").write_text("".join(rows))


def test_runs_side_by_side(workdir, tmp_path):
    """Proves: curves of all, and differences of the same questions: 20 of 40 gained, none lost."""
    other = write_run(tmp_path / "b", {}, METRICS)
    verdicts(workdir, {"easy": [1, 0] * 20, "hard": [0] * 10})
    verdicts(other, {"easy": [1, 1] * 20, "hard": [0] * 9})
    path = write_side_by_side([workdir, other])
    page = Page(path)
    cells = [x.text for x in page.elements if x.tag in ("td", "th")]
    row_of = cells.index("40", cells.index("pairs"))
    assert cells[row_of - 2 : row_of] == ["b", "easy"]
    assert re.match(r"\+50\.0 \[\+3\d\.\d, \+6\d\.\d\]", cells[row_of + 1])
    assert cells[row_of + 2] == "more"
    assert "hard has other questions" in "".join(x.text for x in page.of_class("notes"))
    lines = [x.text for x in page.elements if x.tag == "li"]
    for name in ("a, grpo", "b, grpo"):
        assert any(name in line for line in lines)
