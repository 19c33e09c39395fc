"""The page of a run: what it shows is what the files say, and nothing in them acts on a browser."""

import json
import os
import re

import numpy as np
import pytest
from hostile_texts import STRINGS, write_hostile_run
from pages_for_tests import Page, is_within, row, write_run

from r1v3_jax.pipeline import pipeline
from r1v3_jax.report import page, plots, tokens
from r1v3_jax.report.page import Options, write_report

METRICS = [
    {"stage": "grpo", "step": i, "reward": i / 10, "accuracy": 0.5, "loss": 0.1}
    for i in range(10)
]
TAGS = {
    *"html head meta title link script body header nav a h1 h2 h3 main footer p section b".split(),
    *"form fieldset legend span input label select option article div figure img".split(),
    *"figcaption dl dt dd output ul li table caption thead tbody tr th td code".split(),
    *"svg path text circle details summary".split(),
}


@pytest.fixture
def workdir(tmp_path):
    right = row(0)
    wrong = row(1, verdict="wrong", reward=0.0, extracted="5", reason="5 is not 6")
    cut = row(2, verdict="wrong", reward=0.0, ended=False, extracted=None)
    files = {"grpo_000000": [right, wrong, cut], "grpo_000010": [row(3, sample=0)]}
    return write_run(tmp_path, files, METRICS)


def samples_page(workdir, name="grpo_000000") -> Page:
    return Page(workdir / "report" / "samples" / f"{name}.html")


def test_a_hundred_hostile_strings_are_text(tmp_path):
    """Proves: in every field they are shown letter by letter, and add no element or handler."""
    assert len({*STRINGS}) == 100
    workdir = write_hostile_run(tmp_path)
    write_report(workdir, Options(steps=0, samples=0))

    paths = sorted((workdir / "report").rglob("*.html"))
    assert len(paths) >= 26
    pages = [Page(path) for path in paths]
    for one in pages:
        for element in one.elements:
            assert element.tag in TAGS, element
            assert not [name for name in element.attributes if name.startswith("on")]
            assert "style" not in element.attributes
            address = element.attributes.get("href") or element.attributes.get("src")
            assert not re.match(r"[\w+.-]*:|//", address or ""), element
            # Every link leads to a page or a picture that is there.
        scripts = [x for x in one.elements if x.tag == "script"]
        assert [s.attributes["src"][-7:] for s in scripts] == ["page.js"]
        assert scripts[0].text == ""
    shown = samples_page(workdir)
    for field in ("prompt", "answer", "completion", "extracted"):
        texts = [x.text for x in shown.of_class("text", field)]
        assert texts == STRINGS, field
    index = Page(workdir / "report" / "index.html")
    cells = {x.text for x in index.elements if x.tag in ("td", "th")}
    assert {*STRINGS} <= cells


def test_every_link_leads_somewhere(workdir):
    """Proves: pages and pictures that a page names are there, with their anchors."""
    write_report(workdir)
    for path in (workdir / "report").rglob("*.html"):
        for element in Page(path).elements:
            address = element.attributes.get("href") or element.attributes.get("src")
            if address:
                name, _, anchor = address.partition("#")
                target = path.parent / name if name else path
                assert target.is_file(), address
                if anchor:
                    ids = [x.attributes.get("id") for x in Page(target).elements]
                    assert ids.count(anchor) == 1, address


def test_colours_and_notes_are_the_numbers_of_the_file(workdir):
    """Proves: of 30 tokens, each level against the bounds of the printed legend, each number."""
    write_report(workdir)
    shown = samples_page(workdir)
    rows = [row(0), row(1), row(2)]
    spans = [x for x in shown.of_class("t") if "title" in x.attributes]
    assert len(spans) == 3 * 10
    legends = {}
    for name in tokens.SCALES:
        legend = shown.of_class("legend", f"legend-{name}")[0]
        entries = [x for x in shown.of_class("t") if legend in x.parents]
        legends[name] = {next(iter(x.classes - {"t"})): x.text for x in entries}
    for i, span in enumerate(spans):
        r, k = rows[i // 10], i % 10
        values = {
            "entropy": r["entropies"][k],
            "logprob": -r["logprobs"][k],
            "gap": round(r["logprobs"][k] - r["old_log_probs"][k], 6),
            "advantage": r["advantage"],
        }
        for name, value in values.items():
            (level,) = span.classes & legends[name].keys()
            assert is_within(value, legends[name][level]), (name, value, level)
        note = span.attributes["title"]
        assert note.startswith(f"{r['tokens'][k]} ")
        assert f"entropy {r['entropies'][k]}," in note
        assert f"log p {r['logprobs'][k]}," in note
        assert f"gap {values['gap']}," in note
        assert note.endswith("advantage 0.7")


def test_marks_of_tokens(tmp_path):
    """Proves: critical and forced tokens are where the file says; an advantage of a token's own."""
    marked = row(0, critical=[2], forced=[4, 5], advantages=[0.7] * 9 + [0.0])
    workdir = write_run(tmp_path, {"grpo_000000": [marked]}, METRICS)
    write_report(workdir)
    spans = samples_page(workdir).of_class("t")
    spans = [x for x in spans if "title" in x.attributes]
    assert [i for i, x in enumerate(spans) if "critical" in x.classes] == [2]
    assert [i for i, x in enumerate(spans) if "forced" in x.classes] == [4, 5]
    assert ["a0" in x.classes for x in spans] == [False] * 9 + [True]


def test_a_sample_says_what_is_known_of_it(workdir):
    """Proves: verdict, what was read and why, terms, ends; and what filters know it by."""
    write_report(workdir)
    shown = samples_page(workdir)
    right, wrong, cut = (x for x in shown.of_class("sample"))
    assert "wrong" in wrong.text.lower()
    assert "read: 5" in wrong.text
    assert "5 is not 6" in wrong.text
    assert "correct 1 × 0.8" in right.text
    assert "10 tokens, ended" in right.text
    assert "10 tokens, cut off" in cut.text
    assert right.classes == {"sample", "right", "gap"}
    assert {"wrong", "cut"} < cut.classes
    assert len(shown.of_class("group", "mixed")) == 1
    (image,) = [x for x in shown.elements if x.tag == "img"]
    assert image.attributes["src"].startswith("../images/0123456789abcdef")
    assert {x.attributes["id"] for x in shown.elements if x.tag == "input"} == {
        *(f"show-{k}" for k in "all right wrong error cut blind gap".split()),
        *(f"by-{k}" for k in "none entropy logprob gap advantage".split()),
        "only-mixed",
    }


def test_every_class_of_a_filter_or_colour_has_its_rule(workdir):
    """Proves: no filter, level or scale that a page offers is unknown to the style sheet."""
    write_report(workdir)
    css = (workdir / "report" / "page.css").read_text()
    for kind in "right wrong error cut blind gap".split():
        assert f"#show-{kind}:checked) .sample:not(.{kind})" in css
        assert f"#show-{kind}:checked) .group:not(:has(.sample.{kind}))" in css
    for name, scale in tokens.SCALES.items():
        assert f"#by-{name}:checked) .legend-{name}" in css
        for level, _ in scale.legend():
            assert level.endswith("0") or f"#by-{name}:checked) .{level}" in css


def contrast(a: str, b: str) -> float:
    """Returns the contrast of two colours, WCAG 2.2: (L1 + 0.05) / (L2 + 0.05)."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(
            parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_text_can_be_read_in_light_and_dark():
    """Proves: contrast 4.5 of text and of token colours, 3 of lines; levels get darker in order."""
    css = (page.Path(page.__file__).parent / "static" / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    assert len(blocks) == 2
    for block in blocks:
        colour = dict(re.findall(r"--([\w]+): (#\w{6})", block))
        for text in ("ink", "faint", "link", "right", "wrong", "error"):
            for ground in ("page", "panel"):
                assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
        for side, steps in (("up", 5), ("down", 4)):
            scale = [
                colour["panel"],
                *(colour[f"{side}{i}"] for i in range(1, steps + 1)),
            ]
            from_text = [contrast(colour["token"], x) for x in scale]
            assert min(from_text) >= 4.5, (side, from_text)
            # Each level is a step darker than the one before; in the dark, lighter.
            assert from_text == sorted(from_text, reverse=True), (side, from_text)
        for i in range(8):
            assert contrast(colour[f"c{i}"], colour["page"]) >= 3, i


def test_lists_lead_to_what_is_worth_a_look(tmp_path):
    """Proves: the lists go over all files, in order, also over steps without a page."""
    files = {}
    for step in range(6):
        files[f"grpo_{step:06d}"] = [
            row(step * 2, sample=0, id=f"r{step}", length=10 + step),
            row(
                step * 2 + 1, sample=1, id=f"w{step}", verdict="wrong", length=50 - step
            ),
        ]
    workdir = write_run(tmp_path, files, METRICS)
    write_report(workdir, Options(steps=2))
    pages = sorted(p.name for p in (workdir / "report" / "samples").glob("grpo*"))
    assert pages == ["grpo_000000.html", "grpo_000005.html"]

    def titles(name):
        return [x.text for x in samples_page(workdir, name).elements if x.tag == "h2"]

    assert titles("shortest_right") == [f"r{step}" for step in range(6)]
    assert titles("longest_wrong") == [f"w{step}" for step in range(6)]
    gaps = [row(i)["gap"] for i in range(12)]
    names = [f"{'rw'[i % 2]}{i // 2}" for i in range(12)]
    order = sorted(range(12), key=lambda i: -gaps[i])
    assert titles("biggest_gap") == [names[i] for i in order]
    # The page of a step that is chosen no more is removed.
    write_report(workdir, Options(steps=1))
    assert not (workdir / "report" / "samples" / "grpo_000005.html").exists()


def test_the_page_of_a_run_of_many_steps_is_small(tmp_path):
    """Proves: sizes at a tenth of 500 steps of 1,024 samples; the first page has every step."""
    rows = [
        row(i, id=f"q{i // 16}", sample=i % 16, verdict=("right", "wrong")[i % 3 == 0])
        for i in range(1024)
    ]
    workdir = write_run(tmp_path, {"grpo_000000": rows}, [])
    for step in range(1, 50):
        # The same file under other names: only reading counts here.
        os.link(
            workdir / "rollouts" / "grpo_000000.jsonl",
            workdir / "rollouts" / f"grpo_{step:06d}.jsonl",
        )
    metrics = [{**METRICS[0], "step": i, "reward": i / 500} for i in range(500)]
    (workdir / "metrics.jsonl").write_text(
        "".join(json.dumps(m) + "\n" for m in metrics)
    )
    write_report(workdir)
    sizes = {p: p.stat().st_size for p in (workdir / "report").rglob("*.html")}
    assert sizes[workdir / "report" / "index.html"] <= 2 * 2**20
    assert max(sizes.values()) <= 5 * 2**20
    assert sum(sizes.values()) <= 50 * 2**20
    index = Page(workdir / "report" / "index.html")
    assert (
        sum(x.text.startswith("grpo ") for x in index.elements if x.tag == "th") == 50
    )
    # One group of very long answers is cut, and says so.
    long = row(0, completion="4" * 40_000, tokens=[rows[0]["tokens"][0]] * 40_000)
    for name in ("logprobs", "entropies", "old_log_probs"):
        long[name] = [0.1] * 40_000
    group = "".join(json.dumps({**long, "sample": g}) + "\n" for g in range(16))
    (workdir / "rollouts" / "long_000000.jsonl").write_text(group)
    write_report(workdir, Options(steps=1))
    path = workdir / "report" / "samples" / "long_000000.html"
    write_report(workdir, Options(steps=0, samples=64))
    assert path.stat().st_size <= 5 * 2**20
    assert "The first 1875 tokens have their numbers." in path.read_text()


def test_a_failing_view_never_ends_a_run(workdir, monkeypatch, caplog):
    """Proves: what pictures or page raise is logged by name, and the other one is written."""

    def fail(_):
        raise RuntimeError("a library is broken")

    for module, function, failed, other in (
        (plots, "plot_run", "plots", "report/index.html"),
        (page, "write_report", "report", "plots/reward.png"),
    ):
        caplog.clear()
        with monkeypatch.context() as broken:
            broken.setattr(module, function, fail)
            pipeline.draw(workdir)
        assert f"{workdir}/{failed} was not written" in caplog.text
        assert "a library is broken" in caplog.text
        assert f"python -m r1v3_jax.report {workdir}" in caplog.text
        assert (workdir / other).is_file()
