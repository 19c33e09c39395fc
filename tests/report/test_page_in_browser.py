"""The page of a run as a browser shows it. Skipped by name without one; see tests/browser.sh."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hostile_texts import STRINGS, write_hostile_run
from pages_for_tests import heat_sample, is_within, row, write_run

from r1v3_jax.report import heat, tokens
from r1v3_jax.report.page import Options, write_report, write_side_by_side

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
PACKAGES = CACHE / "r1v3_jax" / "browser" / "node_modules"
SCRIPT = Path(__file__).parents[1] / "helpers" / "look_at_pages.mjs"
pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not PACKAGES.is_dir(),
    reason="no headless Chromium: bash tests/browser.sh installs one and runs this file",
)
# The elements of a page that are shown, in JavaScript.
VISIBLE = """
const visible = (selector) => [...document.querySelectorAll(selector)]
    .filter((x) => x.getClientRects().length);
"""
KINDS = ("all", "right", "wrong", "error", "cut", "blind", "gap")


@pytest.fixture
def look(tmp_path):
    """look(looks): what `look_at_pages.mjs` saw, a dictionary for each look."""
    # A module finds packages beside itself.
    folder = tmp_path / "browser"
    folder.mkdir()
    (folder / "node_modules").symlink_to(PACKAGES)
    shutil.copy(SCRIPT, folder)

    def run(looks: list[dict]) -> list[dict]:
        chromium = os.environ.get("CHROMIUM", "")
        task = {"out": str(folder), "chromium": chromium, "looks": looks}
        (folder / "task.json").write_text(json.dumps(task))
        command = ["node", SCRIPT.name, "task.json"]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((folder / "results.json").read_text())

    return run


def rows_of_every_kind() -> list[dict]:
    """Returns three questions: a mixed one, one that is all right, one that is all wrong."""
    long = "It has 4 and 2, so that makes six. " * 40
    blind = "I cannot see the image."
    mixed = [
        row(0, sample=0, gap=0.0001),
        row(1, sample=1, verdict="wrong", reward=0.0, extracted="5", reason="5 != 6"),
        row(2, sample=2, verdict="wrong", ended=False, extracted=None, completion=long),
    ]
    right = [row(3 + i, sample=i, id="all right", gap=0.0001) for i in range(3)]
    wrong = [
        row(6, sample=0, id="all wrong", verdict="error", reason="no such form"),
        row(7, sample=1, id="all wrong", verdict="wrong", completion=blind),
        row(8, sample=2, id="all wrong", verdict="wrong", critical=[2], forced=[4, 5]),
    ]
    return mixed + right + wrong


@pytest.fixture
def workdir(tmp_path):
    metrics = [
        {
            "stage": "grpo",
            "step": i,
            "reward": 0.001 * i,
            "loss": 1e-5 * i,
            "entropy": 2 - 0.01 * i,
            "completions/mean_length": 900 + 10.0 * i,
            "grad_norm": 123456.0 / (i + 1),
            "time/update_s": 1.0,
            "alarm/zero_signal": 1,
        }
        for i in range(120)
    ]
    files = {"grpo_000000": rows_of_every_kind(), "grpo_000010": [row(9, sample=0)]}
    workdir = write_run(tmp_path / "run", files, metrics)
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    summary = {"accuracy": {"grpo": {"easy": interval}}}
    (workdir / "summary.json").write_text(json.dumps(summary))
    return workdir


def address(workdir, name: str) -> str:
    return (workdir / "report" / name).as_uri()


def test_every_page_can_be_read_on_a_desk_and_on_a_phone(workdir, look):
    """Proves: at 1,280 and 400 px, light and dark: nothing over another, cut off or too small, no
    horizontal scroll, no rule of axe-core broken (contrast 4.5 is one), nothing on the console.
    """
    token = heat_sample()["tokens"][0]
    many = [{**token, "place": i, "text": "twelve " * i} for i in range(12)]
    samples = [heat_sample(tokens=many), heat_sample(verdict="right")]
    heat.write_heat(
        workdir / "report", samples, {"checkpoint": "runs/digits/grpo/done"}
    )
    write_report(workdir)
    other = shutil.copytree(workdir, workdir.parent / "other run")
    write_report(other)
    write_side_by_side([workdir, other])
    names = (
        "index",
        "side_by_side",
        "samples/grpo_000000",
        "samples/longest_wrong",
        "heat",
    )
    looks = [
        {"url": address(workdir, f"{name}.html"), "name": name.replace("/", "_")}
        for name in names
    ]
    for seen in look(looks):
        assert seen == {"found": [], "said": []}
    # To look at them yourself: bash tests/browser.sh --basetemp=DIR
    pictures = sorted((workdir.parent / "browser").glob("*.png"))
    assert len(pictures) == len(names) * 4
    # A page that shows nothing makes a picture of 4 kB.
    assert min(path.stat().st_size for path in pictures) > 15_000


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no_scripts"])
def test_every_filter_shows_what_it_says(workdir, look, scripts):
    """Proves: each filter, clicked, shows the samples of its kind and no other, and says how many;
    so it does in a browser that runs no script.
    """
    write_report(workdir)
    clicks = [["click", f"#show-{kind}"] for kind in (*KINDS, "all")]
    clicks += [["click", "#only-mixed"], ["click", "#show-right"]]
    read = f"""(() => {{ {VISIBLE} return {{
        shown: visible(".sample").map((x) => x.id),
        said: document.querySelector("fieldset input:checked + label").textContent,
        empty: visible(".empty").length,
    }}; }})()"""
    url = address(workdir, "samples/grpo_000000.html")
    (seen,) = look([{"url": url, "actions": clicks, "read": read, "scripts": scripts}])
    assert seen["said"] == []
    wanted = {
        "all": [*range(9)],
        "right": [0, 3, 4, 5],
        "wrong": [1, 2, 7, 8],
        "error": [6],
        "cut": [2],
        "blind": [7],
        "gap": [1, 2, 6, 7, 8],
    }
    found = seen["found"]
    for kind, state in zip(KINDS, found, strict=False):
        assert state["shown"] == [f"s{i}" for i in wanted[kind]], kind
        assert state["said"].endswith(f"({len(wanted[kind])})")
        assert state["empty"] == 0
    assert found[-2]["shown"] == ["s0", "s1", "s2"]
    assert found[-1]["shown"] == ["s0"]


def test_a_filter_without_answers_says_so(workdir, look):
    """Proves: an empty page is explained, once, not left blank."""
    write_report(workdir)
    read = (
        f"(() => {{ {VISIBLE} return visible('.empty').map((x) => x.textContent); }})()"
    )
    clicks = [["click", f"#{x}"] for x in ("show-wrong", "show-all", "only-mixed")]
    url = address(workdir, "samples/grpo_000010.html")
    (seen,) = look([{"url": url, "actions": clicks, "read": read}])
    wrong, everything, mixed = seen["found"]
    assert wrong == ["No answer on this page is of the kind “wrong”."]
    assert everything == []
    assert mixed == ["No question on this page has both right and wrong answers."]


def test_sorting_and_notes(tmp_path, look):
    """Proves: samples by length and by gap, and back; a tapped token tells its numbers below."""
    sizes = [(7, 0.2), (30, 0.1), (5, 0.3)]
    rows = [row(i, sample=i, length=n, gap=gap) for i, (n, gap) in enumerate(sizes)]
    workdir = write_run(tmp_path / "run", {"grpo_000000": rows}, [])
    write_report(workdir)
    read = """({
        order: [...document.querySelectorAll(".sample")].map((x) => x.id).join(" "),
        note: document.getElementById("note").textContent,
    })"""
    actions = [["select", "#sort", name] for name in ("length", "gap", "")]
    actions += [["click", "#s0 .completion .t"]]
    url = address(workdir, "samples/grpo_000000.html")
    (seen,) = look([{"url": url, "actions": actions, "read": read}])
    assert seen["said"] == []
    orders = [state["order"] for state in seen["found"]]
    assert orders[:3] == ["s1 s0 s2", "s2 s0 s1", "s0 s1 s2"]
    assert f"entropy {rows[0]['entropies'][0]}," in seen["found"][3]["note"]


def test_colours_on_the_screen_are_the_numbers_of_the_file(workdir, look):
    """Proves: of 20 tokens and each scale, the colour behind a token is that of the entry of the
    legend that its number belongs to; the entries of a legend differ in colour.
    """
    write_report(workdir)
    read = f"""(() => {{ {VISIBLE}
        const ground = (x) => getComputedStyle(x).backgroundColor;
        const legend = visible(".legend .t").map((x) => [x.textContent, ground(x)]);
        const shown = visible("#s0 .completion .t, #s1 .completion .t");
        return {{tokens: shown.map(ground), legend}};
    }})()"""
    actions = [["click", f"#by-{name}"] for name in tokens.SCALES]
    url = address(workdir, "samples/grpo_000000.html")
    (seen,) = look([{"url": url, "actions": actions, "read": read}])
    rows = rows_of_every_kind()[:2]
    for name, state in zip(tokens.SCALES, seen["found"], strict=True):
        assert len(state["tokens"]) == 20
        legend = dict(state["legend"])
        assert len({*legend.values()}) == len(legend) == len(state["legend"]), name
        for i, colour in enumerate(state["tokens"]):
            r, k = rows[i // 10], i % 10
            value = {
                "entropy": r["entropies"][k],
                "logprob": -r["logprobs"][k],
                "gap": round(r["logprobs"][k] - r["old_log_probs"][k], 6),
                "advantage": r["advantage"],
            }[name]
            (words,) = [words for words, shown in legend.items() if shown == colour]
            assert is_within(value, words), (name, i, value, words)


def test_a_hundred_hostile_strings_do_nothing(tmp_path, look):
    """Proves: in the DOM of a browser there is no script, handler, style or address of theirs, none
    ran, and the text of every field is the original.
    """
    workdir = write_hostile_run(tmp_path)
    write_report(workdir, Options(steps=0, samples=0))
    read = """(() => {
        const found = (selector) => [...document.querySelectorAll(selector)];
        const texts = (name) => found(`.text.${name}`).map((x) => x.textContent);
        const names = found("*").flatMap((x) => x.getAttributeNames());
        return {
            scripts: [...document.scripts].map((x) => x.src.split("/").pop()),
            handlers: names.filter((x) => x.startsWith("on") || x === "style"),
            tags: [...new Set(found("*").map((x) => x.localName))],
            addresses: found("*").flatMap((x) => [x.getAttribute("href"), x.getAttribute("src")])
                .filter(Boolean),
            prompt: texts("prompt"), answer: texts("answer"),
            completion: texts("completion"), extracted: texts("extracted"),
        };
    })()"""
    paths = sorted((workdir / "report").rglob("*.html"))
    looks = [{"url": path.as_uri(), "read": read} for path in paths]
    results = dict(zip(paths, look(looks), strict=True))
    for path, seen in results.items():
        assert seen["said"] == [], path
        (state,) = seen["found"]
        assert state["scripts"] == ["page.js"]
        assert state["handlers"] == []
        forbidden = "iframe object embed base math style plaintext xmp textarea"
        assert not {*state["tags"]} & {*forbidden.split()}
        for target in state["addresses"]:
            assert not re.match(r"[\w+.-]*:|//", target), target
    (state,) = results[workdir / "report" / "samples" / "grpo_000000.html"]["found"]
    for field in ("prompt", "answer", "completion", "extracted"):
        assert state[field] == STRINGS, field
