"""Writes WORKDIR/report: a summary, pages of samples, lists of those worth a look.

One folder, opened from disk or by any file server. Everything from data and model passes jinja2's
escaping; the policy of every page runs no script but page.js and loads nothing from elsewhere.
"""

import contextlib
import dataclasses
import os
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np

from r1v3_jax.files import write_text
from r1v3_jax.processing.tokenizer import load as load_tokenizer
from r1v3_jax.report import facts
from r1v3_jax.report.benchmarks import read_evaluations
from r1v3_jax.report.charts import short
from r1v3_jax.report.curves import charts_of_stage, charts_side_by_side
from r1v3_jax.report.heat import read_heat
from r1v3_jax.report.pictures import Gallery, Picture
from r1v3_jax.report.rows import plain
from r1v3_jax.report.run_numbers import label
from r1v3_jax.report.samples import (
    Brief,
    Sample,
    StepFile,
    groups_of,
    is_mixed,
    read_briefs,
    read_samples,
    step_files,
)
from r1v3_jax.report.side_by_side import comparison, names_of
from r1v3_jax.report.survey import RANKINGS, best, survey
from r1v3_jax.report.tokens import SCALES, Pieces, tokens_of

# `file:` beside 'self': browsers differ in whether a page on disk has its folder for its own.
POLICY = (
    "default-src 'none'; img-src 'self' file:; style-src 'self' file:; script-src 'self' file:; "
    "base-uri 'none'; form-action 'none'"
)
# What a page can show of its samples: a word of `Brief.kinds`, and what a reader calls it.
FILTERS = {
    "all": "all",
    "right": "right",
    "wrong": "wrong",
    "error": "error",
    "cut": "cut off",
    "blind": "cannot see",
    "gap": "high gap",
}
# What a file of samples holds: those of a step, or of a probe (STAGE.probe_STEP.jsonl).
OF_STEP = "What the policy answered before this step's update."
OF_PROBE = (
    "What the policy answered after this step to questions that are never trained on."
)
STEPS = 20  # that have pages, by default
SAMPLES = 256  # of a step that are shown, by default
STEP_TOKENS = 30_000  # of a step that are shown; at least one group is
GROUP_TOKENS = 30_000  # of a group that have their numbers
PAGE_CHARACTERS = 1_500_000  # after which a step goes on on another page


@dataclasses.dataclass(frozen=True)
class Options:
    """How much of a run is shown."""

    steps: int = STEPS  # that have pages; 0: all
    samples: int = SAMPLES  # of a step, about; 0: all
    refresh: int = 0  # seconds after which a browser loads the page again; 0: never


@dataclasses.dataclass(frozen=True)
class Card:
    """One answer on a page."""

    sample: Sample
    tokens: list
    before: str  # text in front of its tokens, and behind them
    after: str
    anchor: str
    place: str = ""  # address of the page of its step
    step: str = ""


@dataclasses.dataclass(frozen=True)
class Shown:
    """One question with its answers on a page."""

    id: str
    prompt: str
    answer: str
    source: str
    mixed: bool
    pictures: list[Picture]
    unkept: int  # images of the question that the run did not keep, as most frames of a film
    cards: list[Card]


def write_report(workdir, options: Options = Options()) -> Path:
    """Writes WORKDIR/report and returns the path of its first page.

    FileNotFoundError if there is no run in `workdir`.
    """
    files = facts.read_files(Path(workdir))
    writer = Writer(files, options)
    writer.write()
    return writer.report / "index.html"


class Writer:
    """Writes the report of one run."""

    def __init__(self, files: facts.Files, options: Options):
        self.files = files
        self.options = options
        self.rollouts = files.workdir / "rollouts"
        self.report = files.workdir / "report"
        self.gallery = Gallery(self.rollouts, self.report)
        self.pieces = Pieces(self._tokenizer())
        self.environment = environment()
        self.title = str(files.summary.get("name") or files.workdir.resolve().name)
        self.written: set[str] = set()  # names of pages of samples
        self.page_of: dict[tuple[str, int], str] = {}  # of (file, line) of a sample

    def write(self) -> None:
        """Writes all pages."""
        write_static(self.report)
        files = {file.name: file for file in step_files(self.files.workdir)}
        surveys = survey(self.files.workdir, self.report / "survey.json")
        self._note_damage(surveys)

        # 1. Pages of samples.
        chosen = chosen_steps(surveys, self.options.steps)
        first_pages = {}
        for i, name in enumerate(chosen):
            around = [("../index.html", "summary")]
            around += [(address(chosen[i - 1]), "step before")] if i else []
            around += (
                [(address(chosen[i + 1]), "next step")] if i + 1 < len(chosen) else []
            )
            self._write_step(files[name], around)
            first_pages[name] = f"samples/{address(name)}"
        rankings = self._write_rankings(files, surveys)

        # 2. What tokens looked at: made by a tool, on demand.
        self._write_heat()

        # 3. The summary, last: what it links is there.
        self._write_index(surveys, first_pages, rankings)
        self._tidy()

    def _tokenizer(self):
        """Returns the run's tokenizer, or None with a note if it cannot be read."""
        if not self.rollouts.is_dir():
            return None
        try:
            return load_tokenizer(self.files.workdir / "tokenizer", text_only=True)
        except (OSError, ValueError) as error:
            self.files.notes.append(f"Tokens have no texts and no colours: {error}.")
            return None

    def _note_damage(self, surveys: list[dict]) -> None:
        """Notes what of the samples cannot be read."""
        for entry in surveys:
            if entry["damaged"]:
                self.files.notes.append(
                    f"rollouts/{entry['name']}.jsonl: {entry['damaged']} lines cannot be read, "
                    "or are cut off."
                )

    # ---------------------------------------------------------------------------------------------
    # samples

    def _write_step(self, file: StepFile, nav: list[tuple[str, str]]) -> None:
        """Writes the pages of a step."""
        briefs = [brief for brief in read_briefs(file.path) if brief is not None]
        groups = groups_of(briefs)
        lines, num_groups = chosen_lines(groups, self.options.samples)
        notes = []
        if len(lines) < len(briefs):
            notes.append(
                f"{num_groups} of {len(groups)} questions are shown, those with right and wrong "
                "answers first; --samples=0 shows all."
            )
        whole = read_samples(file.path, lines)
        groups = groups_of([sample for sample in whole if sample is not None])
        shown = [self._shown(group, str) for group in groups]
        parts = cut_into_pages(shown)
        names = [
            f"{file.name}.html" if i == 0 else f"{file.name}.{i + 1}.html"
            for i in range(len(parts))
        ]
        for i, (name, part) in enumerate(zip(names, parts, strict=True)):
            for group in part:
                for card in group.cards:
                    place = f"{quote(name)}#s{card.anchor}"
                    self.page_of[file.name, card.sample.line] = place
            more = [(quote(other), f"part {k + 1}") for k, other in enumerate(names)]
            self._write_samples(
                name,
                title=f"{self.title}: {label(file.stage)}, step {file.step}",
                explanation=OF_PROBE if file.stage.endswith(".probe") else OF_STEP,
                groups=part,
                notes=notes,
                nav=nav,
                more=[pair for k, pair in enumerate(more) if k != i],
            )

    def _write_rankings(self, files: dict[str, StepFile], surveys: list[dict]) -> list:
        """Writes the lists; returns (address, ranking) of each that has samples."""
        written = []
        for name, ranking in RANKINGS.items():
            places = best(surveys, name)
            if not places:
                continue
            shown = []
            for i, (file_name, line) in enumerate(places):
                file = files[file_name]
                (sample,) = read_samples(file.path, {line})
                # A run in progress may have replaced the file since it was counted.
                if sample is None:
                    continue
                group = self._shown([sample], lambda _, i=i: str(i))
                place = self.page_of.get((file_name, line), "")
                step = f"{label(file.stage)}, step {file.step}"
                card = dataclasses.replace(group.cards[0], place=place, step=step)
                shown.append(dataclasses.replace(group, cards=[card]))
            self._write_samples(
                f"{name}.html",
                title=f"{self.title}: {ranking.title.lower()}",
                explanation=f"{ranking.explanation} Of all steps that were written.",
                groups=shown,
                notes=[],
                nav=[("../index.html", "summary")],
                more=[],
            )
            written.append((f"samples/{name}.html", ranking))
        return written

    def _shown(self, group: list[Sample], anchor) -> Shown:
        """Returns a group as its page shows it; anchor: writes the number of a sample's line."""
        first = group[0]
        limit = max(200, GROUP_TOKENS // len(group))
        cards = []
        for sample in group:
            tokens, before, after = tokens_of(sample, self.pieces, limit)
            cards.append(Card(sample, tokens, before, after, anchor(sample.line)))
        # Without names only their number is known.
        tiles = [*first.tiles, *[0] * len(first.images)]
        pictures = self.gallery.pictures(first.images, tiles)
        problem = "An older run: its images were not saved."
        for number in range(len(first.images) + 1, first.num_images + 1):
            pictures.append(Picture(problem=problem, number=number))
        return Shown(
            id=first.id,
            prompt=first.prompt,
            answer=first.answer,
            source=first.source,
            mixed=is_mixed(group),
            pictures=pictures,
            unkept=first.images.count(""),
            cards=cards,
        )

    def _write_samples(self, name: str, **values) -> None:
        """Writes a page of samples."""
        samples = [card.sample for group in values["groups"] for card in group.cards]
        absent = set()
        if not any("old_log_probs" in sample.lists for sample in samples):
            absent.add("gap")
        if not any(sample.advantage is not None for sample in samples):
            absent.add("advantage")
        scales = {k: scale for k, scale in SCALES.items() if k not in absent}
        kinds = [kind for sample in samples for kind in ("all", *sample.kinds)]
        counts = {kind: kinds.count(kind) for kind in FILTERS}
        self._render(
            "samples.html",
            f"samples/{name}",
            scales=scales,
            filters=FILTERS,
            counts=counts,
            **values,
        )
        self.written.add(name)

    def _write_heat(self) -> None:
        """Writes the page of what tokens looked at, or of how to find out."""
        checkpoint, samples = read_heat(self.report, self.files.notes)
        self._render(
            "heat.html",
            "heat.html",
            title=f"{self.title}: what a token looked at",
            nav=[("index.html", "summary")],
            checkpoint=checkpoint,
            samples=samples,
            command=f"python tools/look.py --workdir={self.files.workdir} --samples=4",
        )

    # ---------------------------------------------------------------------------------------------
    # the summary

    def _write_index(
        self, surveys: list[dict], pages: dict[str, str], rankings
    ) -> None:
        """Writes the first page."""
        files = self.files
        steps = [{**entry, "page": pages.get(entry["name"])} for entry in surveys]
        stages = dict.fromkeys(row["stage"] for row in files.rows)
        curves = [(label(s), charts_of_stage(files.rows, s)) for s in stages]
        accuracy = facts.accuracy_table(files)
        benchmarks = read_evaluations(files.workdir, files.notes)
        self._render(
            "index.html",
            "index.html",
            title=self.title,
            nav=[
                *([("#benchmarks", "benchmarks")] if benchmarks else []),
                *([("#samples", "samples")] if steps else []),
                *([("#curves", "curves")] if curves else []),
                ("heat.html", "what a token looked at"),
                ("#time", "time and config"),
            ],
            files=files,
            head=facts.head_facts(files),
            accuracy=accuracy,
            benchmarks=benchmarks,
            checkpoints=facts.checkpoint_table(files),
            alarms=facts.alarm_table(files),
            drops=facts.drop_table(files),
            times=facts.time_table(files),
            config=facts.config_table(files),
            curves=curves,
            steps=steps,
            hidden=len(steps) - len(pages),
            rankings=rankings,
        )

    def _render(self, template: str, name: str, **values) -> None:
        """Writes one page."""
        depth = name.count("/")
        write_text(
            self.report / name,
            self.environment.get_template(template).render(
                static="../" * depth,
                policy=POLICY,
                refresh=self.options.refresh,
                **values,
            ),
        )

    def _tidy(self) -> None:
        """Removes pages and pictures of an earlier report that this one has not."""
        for path in (self.report / "samples").glob("*.html"):
            if path.name not in self.written:
                path.unlink(missing_ok=True)
        self.gallery.tidy()


def address(name: str) -> str:
    """Returns the address of the first page of a step, relative to the pages of samples.

    A stage may be called anything: "a:b" must not be taken for a scheme.
    """
    return quote(f"{name}.html", safe="")


def environment() -> jinja2.Environment:
    """Returns the templates; whatever they print is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters["shown"] = lambda value: plain(str(value))
    made.filters["short"] = lambda value: "-" if value is None else short(value)
    return made


def write_static(report: Path) -> None:
    """Writes the style sheet and the script."""
    for path in (Path(__file__).parent / "static").iterdir():
        write_text(report / path.name, path.read_text(encoding="utf-8"))


def chosen_steps(surveys: list[dict], limit: int) -> list[str]:
    """Returns the files that have pages: evenly from the first to the last; limit 0: all."""
    names = [entry["name"] for entry in surveys]
    if not limit or len(names) <= limit:
        return names
    places = np.linspace(0, len(names) - 1, limit).round().astype(int)
    return [names[i] for i in dict.fromkeys(places.tolist())]


def chosen_lines(groups: list[list[Brief]], limit: int) -> tuple[set[int], int]:
    """Returns the lines of the samples that are shown, and of how many groups they are.

    Groups with right and wrong answers come first. limit: of samples; 0: all.
    """
    lines: set[int] = set()
    num_tokens = 0
    count = 0
    for group in sorted(groups, key=lambda group: not is_mixed(group)):
        size = sum(sample.length for sample in group)
        is_full = len(lines) + len(group) > limit or num_tokens + size > STEP_TOKENS
        if limit and count and is_full:
            break
        lines |= {sample.line for sample in group}
        num_tokens += size
        count += 1
    return lines, count


def cut_into_pages(groups: list[Shown]) -> list[list[Shown]]:
    """Puts groups on pages of about PAGE_CHARACTERS characters; one page at least."""
    pages = [[]]
    room = PAGE_CHARACTERS
    for group in groups:
        size = 1000 + len(group.prompt)
        for card in group.cards:
            # A token is its text, its classes and its note in a tag.
            notes = sum(60 + len(t.classes) + len(t.note) for t in card.tokens)
            size += 1000 + len(card.sample.completion) + notes
        if pages[-1] and size > room:
            pages.append([])
            room = PAGE_CHARACTERS
        pages[-1].append(group)
        room -= size
    return pages


def write_side_by_side(workdirs: list[Path]) -> Path:
    """Writes a page that compares runs, into the report of the first; returns its path."""
    runs = [facts.read_files(Path(workdir)) for workdir in workdirs]
    names = names_of([files.workdir for files in runs])
    notes: list[str] = []
    for name, files in zip(names, runs, strict=True):
        notes += [f"{name}: {note}" for note in files.notes]
    accuracy, differences = comparison([files.workdir for files in runs], notes)
    report = runs[0].workdir / "report"
    write_static(report)
    nav = [("index.html", f"summary of {names[0]}")]
    # From page to page between the runs, where they lie on one disk.
    for name, files in zip(names[1:], runs[1:], strict=True):
        with contextlib.suppress(ValueError):
            path = os.path.relpath(files.workdir / "report" / "index.html", report)
            nav.append((quote(Path(path).as_posix()), f"summary of {name}"))
    rows = {name: files.rows for name, files in zip(names, runs, strict=True)}
    html = environment().get_template("side_by_side.html")
    path = report / "side_by_side.html"
    write_text(
        path,
        html.render(
            static="",
            policy=POLICY,
            refresh=0,
            title=f"{len(runs)} runs side by side",
            nav=nav,
            notes=notes,
            first=names[0],
            accuracy=accuracy,
            differences=differences,
            charts=charts_side_by_side(rows),
        ),
    )
    return path
