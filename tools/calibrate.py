"""Holds the estimate of a decoded token against steps that others measured. Nothing is run.

    python tools/calibrate.py [--rows=qwen3_32b] [--nocompile] [--out=FILE]
    python tools/calibrate.py --config=tpu_v5p_256 [--lengths=2400,0.8]

Each row of `r1v3_jax/tpu/published.py` is a decoding step that was measured on TPUs. Beside it
stand what it takes by the bytes that it reads, and the estimate of this program's own `decode`,
compiled at that shape for those chips with machine code: a minute or more a row on an idle core,
and then cached. --nocompile leaves that out and takes a second. With --config it says, by bytes
too, what decoding takes in the stages of a config, and prints no table; --lengths is
--dry_run_lengths of the launcher. What was found: docs/results/pod.md.
"""

import json
import os
import statistics

from absl import flags

from r1v3_jax import cli
from r1v3_jax.config import Run, load_config
from r1v3_jax.files import write_json
from r1v3_jax.tpu import compiler, dry_run, lengths
from r1v3_jax.tpu.comparison import compare, compile_one
from r1v3_jax.tpu.published import (
    PUBLISHED,
    Published,
    decoding,
    decoding_line,
    figures,
)

ROWS = flags.DEFINE_list(
    "rows", [], "Rows whose name contains one of these; default: all."
)
COMPILE = flags.DEFINE_bool(
    "compile", True, "Compile each row; --nocompile reckons by bytes alone."
)
CONFIG = flags.DEFINE_string("config", None, "A config with a topology, for its band.")
LENGTHS = flags.DEFINE_string(
    "lengths", None, "Lengths of samples, as 2400,0.8; default: every row full."
)
OUT = flags.DEFINE_string("out", None, "A JSON file for the table.")


def main() -> None:
    job = os.environ.get(compiler.CHILD)
    if job:  # this process was started to compile one row
        compile_one(json.loads(job))
        return
    if CONFIG.value:
        show_config(load_config(CONFIG.value))
        return
    if LENGTHS.value:
        raise ValueError(
            "--lengths is about a config; --config=tpu_v5p_256 would do beside it"
        )
    chosen = [row for row in PUBLISHED if is_chosen(row)]
    if not chosen:
        names = ", ".join(row.name for row in PUBLISHED)
        raise ValueError(f"--rows={','.join(ROWS.value)} names none of: {names}")
    table = []
    for row in chosen:
        table.append(compare(row) if COMPILE.value else figures(row))
        print(line(table[-1]), flush=True)
    for int8 in (False, True):
        rows = [entry for entry in table if entry["int8"] == int8]
        for name in ("by_bytes", "estimated"):
            spread(rows, name)
    if OUT.value:
        write_json(OUT.value, {"rows": table})


def spread(rows: list[dict], name: str) -> None:
    """Prints the range of estimate over measurement, if there is an estimate."""
    ratios = [row[name] / row["measured"] for row in rows if row[name]]
    if ratios:
        kind = "8 bits" if rows[0]["int8"] else "bfloat16"
        print(
            f"{kind}, {name.replace('_', ' ')}: {min(ratios):.2f} to {max(ratios):.2f} of "
            f"measured, median {statistics.median(ratios):.2f}"
        )


def show_config(config: Run) -> None:
    """Prints what decoding takes in each stage with a rollout."""
    names = dry_run.sampling_stages(config)
    if not names or not config.topology:
        raise ValueError(
            f"--config={CONFIG.value} has no stage with a rollout on a TPU slice; tpu_v5p_256 "
            "would do"
        )
    given = lengths.parse(LENGTHS.value) if LENGTHS.value else None
    for name in names:
        stage = config.stages[name]
        steps = lengths.drawn(stage, given)
        print(decoding_line(name, decoding(config, stage, steps), None))


def is_chosen(row: Published) -> bool:
    return not ROWS.value or any(part in row.name for part in ROWS.value)


def line(row: dict) -> str:
    """Formats a row of the table."""
    parts = [f"{row['name']:32} measured {row['measured']:6.2f} ms"]
    for name in ("by_bytes", "estimated"):
        if row[name]:
            ratio = row[name] / row["measured"]
            parts.append(f"{name.replace('_', ' ')} {row[name]:6.2f} ({ratio:.2f})")
        elif name == "estimated" and COMPILE.value:
            parts.append("does not fit")
    return ", ".join(parts)


if __name__ == "__main__":
    cli.run(main)
