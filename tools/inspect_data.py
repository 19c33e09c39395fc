"""What data looks like before anything is trained on it: rows as the model sees them, and bad rows.

python tools/inspect_data.py --config=tpu_v5e_8 --data=data/grpo.jsonl --out=data.html

The tokenizer, the tiles and the room for a row are those of a stage of the config; without --data
its own training data is shown. The page has the tiles as pictures, the text with what is learnt
from marked, and why rows were left out; without --out a few lines a row are printed.
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
from r1v3_jax.report import rows
from r1v3_jax.stages.kinds import open_reader

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
SCHEMA = flags.DEFINE_string("schema", "", "The layout of --data; default: recognised.")
ROWS = flags.DEFINE_integer("rows", 8, "Rows to show.", lower_bound=1)
SCAN = flags.DEFINE_integer(
    "scan", 500, "Rows to look at, for the counts.", lower_bound=1
)
OUT = flags.DEFINE_string("out", None, "An HTML file to write.")


def main():
    config = load.load_config(CONFIG.value)
    stage = STAGE.value or next(iter(config.to_run()))
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
    count = min(SCAN.value, len(source)) if source else SCAN.value
    shown, sizes, dropped = [], [], []
    for index in range(count):
        made = reader.make(index)
        if isinstance(made, dict):
            dropped.append(made)
            continue
        sizes.append((len(made.encoded.tokens), len(made.encoded.tiles)))
        if len(shown) < ROWS.value:
            shown.append(made)
    facts = [f"{count} rows looked at, {len(dropped)} left out"]
    if dropped:
        facts[0] += (
            f": {format_counts(collections.Counter(drop['reason'] for drop in dropped))}"
        )
    if source:
        found = ", ".join(
            f"{name} ({count})" for name, count in source.recognised().items()
        )
        facts.insert(0, f"layout of some rows: {found}")
    for name, sizes_of in zip(("tokens", "tiles"), np.array(sizes).T, strict=False):
        low, middle, high = np.percentile(sizes_of, (0, 50, 100)).astype(int)
        facts.append(
            f"{name} a row: {low} to {high}, half of the rows at most {middle}"
        )
    title = f"{DATA.value or CONFIG.value} as {stage} of {CONFIG.value} sees it"
    if OUT.value:
        page = rows.page(title, facts, shown, dropped, processor)
        Path(OUT.value).write_text(page, encoding="utf-8")
        facts.append(f"page: {OUT.value}")
    else:
        for item in shown:
            print(rows.on_terminal(item, processor))
    print(rows.plain("\n".join([title, *facts])))


if __name__ == "__main__":
    cli.run(main)
