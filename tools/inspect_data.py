"""Shows data before anything is trained on it: rows as the model sees them, and bad rows.

python tools/inspect_data.py --config=tpu_v5e_8 --data=data/grpo.jsonl --out=data.html

The tokenizer, the tiles and the room for a row are those of a stage of the config; without --data
its own training data is shown. The page has the tiles as pictures, films as strips of frames, the
text with the parts that are learnt from marked, what was done to images (turned, put on white, cut
off at 8 bits), and why rows were left out; without --out a few lines a row are printed.
"""

import collections
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from r1v3_jax import cli
from r1v3_jax.config import load
from r1v3_jax.data import Rows
from r1v3_jax.data.reader import format_counts
from r1v3_jax.pipeline import start
from r1v3_jax.processing import image_files
from r1v3_jax.report import rows
from r1v3_jax.rewards.verifiers import boxes
from r1v3_jax.stages.kinds import open_reader
from r1v3_jax.types import Example

CONFIG = flags.DEFINE_string(
    "config", None, "Whose model sees the rows.", required=True
)
STAGE = flags.DEFINE_string("stage", None, "A stage of the config; default: its first.")
DATA = flags.DEFINE_string(
    "data", None, "Rows to read; default: what the stage learns from."
)
ROOT = flags.DEFINE_string(
    "root", "", "The folder of --data's images; default: that of the file."
)
SCHEMA = flags.DEFINE_string("schema", "", "That of --data; default: recognised.")
ROWS = flags.DEFINE_integer("rows", 8, "Rows to show.", lower_bound=1)
SCAN = flags.DEFINE_integer(
    "scan", 500, "Rows to look at, for the counts.", lower_bound=1
)
OUT = flags.DEFINE_string("out", None, "An HTML file to write.")


def main():
    # 1. The data, and the model's side of it: a tokenizer is written only to be read again.
    config = load.load_config(CONFIG.value)
    stage = STAGE.value or next(iter(config.selected_stages()))
    if stage not in config.stages:
        raise ValueError(f"--stage={stage}: choose from {', '.join(config.stages)}")
    source = None
    if DATA.value:
        source = Rows(DATA.value, schema=SCHEMA.value, root=ROOT.value)
        source.check()
    with tempfile.TemporaryDirectory() as directory:
        start.write_tokenizer(config, Path(directory))
        processor = start.make_processor(config, Path(directory))
    reader = open_reader(config.stages[stage], processor, config.data, source=source)

    # 2. Reading. Sources of a config may have no end, so only --data limits the count.
    count = SCAN.value
    if source:
        count = min(count, len(source))
    shown, sizes, dropped, notes = read_rows(reader, count, ROWS.value)

    # 3. What is shown.
    facts = describe(count, sizes, dropped)
    facts += [f"{note}: {number} rows" for note, number in notes.most_common()]
    if source:
        schemas = source.recognised().items()
        names = ", ".join(f"{name} ({number})" for name, number in schemas)
        facts.insert(0, f"schemas of some rows: {names}")
    title = f"{DATA.value or CONFIG.value} as {stage} of {CONFIG.value} sees it"
    if OUT.value:
        page = rows.page(title, facts, shown, dropped, processor)
        Path(OUT.value).write_text(page, encoding="utf-8")
        facts.append(f"page: {OUT.value}")
    else:
        for item in shown:
            print(rows.on_terminal(item, processor))
    print(rows.plain("\n".join([title, *facts])))


def read_rows(
    reader, count: int, num_shown: int
) -> tuple[list, list, list[dict], collections.Counter]:
    """Reads `count` rows.

    Returns (up to `num_shown` items, (tokens, tiles) of each good row, the dropped rows, and how
    many rows have what `notes_of` says).
    """
    shown = []
    sizes = []
    dropped = []
    notes = collections.Counter()
    for index in range(count):
        item = reader.make(index)
        if isinstance(item, dict):  # why the row was dropped
            dropped.append(item)
            continue
        sizes.append((len(item.encoded.tokens), len(item.encoded.tiles)))
        notes.update(notes_of(item.example))
        # The others are not kept: 500 rows of images would fill the memory.
        if len(shown) < num_shown:
            shown.append(item)
    return shown, sizes, dropped, notes


def notes_of(example: Example) -> set[str]:
    """Says what is worth a look in a good row."""
    notes = set()
    for image in example.images:
        notes |= {f"an image {change}" for change in image_files.changes(image)}
    # A chain with another answer in its box is left out. One without a box may be meant so.
    if example.chain is not None and example.answer:
        thinking = "</think>" in example.chain
        if boxes.extract(example.chain, thinking=thinking) is None:
            notes.add("a chain without a box, beside an answer")
    return notes


def describe(count: int, sizes: list, dropped: list[dict]) -> list[str]:
    """Writes lines about all rows: how many were dropped and why, and how large the others are."""
    summary = f"{count} rows looked at, {len(dropped)} left out"
    if dropped:
        reasons = collections.Counter(drop["reason"] for drop in dropped)
        summary += f": {format_counts(reasons)}"
    facts = [summary]
    # Without a good row there are no columns, and no line about them.
    columns = np.array(sizes).T
    for name, column in zip(("tokens", "tiles"), columns, strict=False):
        # Smallest, median and largest.
        low, middle, high = np.percentile(column, (0, 50, 100)).astype(int)
        facts.append(
            f"{name} a row: {low} to {high}, half of the rows at most {middle}"
        )
    return facts


if __name__ == "__main__":
    cli.run(main)
