"""Published decoding steps, and the command that holds the estimate against them.

The table itself is compiled by tools/calibrate.py, in minutes; docs/results/pod.md has it.
"""

import math

import commands
import pytest

from r1v3_jax.config import TextConfig, load_config, topology
from r1v3_jax.tpu import lengths
from r1v3_jax.tpu.chips import CHIPS, SMALL_OP_SECONDS
from r1v3_jax.tpu.published import (
    PUBLISHED,
    SMALL_OPS,
    by_bytes,
    decoding,
    decoding_line,
)


def test_every_row_is_on_its_chips():
    names = [row.name for row in PUBLISHED]
    assert len(set(names)) == len(names) == 13
    assert "qwen3_32b_16x4096+1024" in names
    for row in PUBLISHED:
        assert topology.parse(row.topology).chips == math.prod(row.mesh), row.name
        assert row.config.text.kv_heads % math.prod(row.mesh[1:]) == 0, row.name
        assert row.rows % row.mesh[0] == 0, row.name
        # No step is faster than its weights are read, at 819 or 1,640 GB/s.
        itemsize = 1 if row.int8 else 2
        text = row.config.text
        width = text.heads * text.head_dim
        keys = text.kv_heads * text.head_dim
        layer = text.embed * (2 * width + 2 * keys + 3 * text.mlp)
        rate = 819e9 if row.topology.startswith("v5e") else 1640e9
        seconds = itemsize * text.layers * layer / math.prod(row.mesh[1:]) / rate
        assert seconds * 1e3 < row.measured, row.name


def test_steps_by_bytes_are_near_the_measured_ones():
    """The constants of `chips.py`: bfloat16 within 15%, 8 bits within 25%."""
    for row in PUBLISHED:
        ratio = row.by_bytes / row.measured
        bound = 1.25 if row.int8 else 1.15
        assert 1 / bound < ratio < bound, (row.name, ratio)


def test_a_step_by_bytes_by_hand():
    """One chip, one layer, no head and no cache: weights and small ops are all there is."""
    text = TextConfig(
        vocab_size=1, embed=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp=16
    )
    chip = CHIPS["v6e"]
    seconds = by_bytes(text, chip, shards=1, rows=1, slots=0)
    weights = 2 * (8 * (16 + 8 + 48) + 8)
    small = SMALL_OPS * SMALL_OP_SECONDS
    assert seconds == pytest.approx(weights / (0.68 * 1640e9) + small)
    # Ten slots: keys and values of 4 numbers of 2 bytes.
    more = by_bytes(text, chip, shards=1, rows=1, slots=10)
    assert more - seconds == pytest.approx(10 * 2 * 4 * 2 / (0.40 * 1640e9))


def test_a_row_that_is_not_there_is_refused():
    process = commands.run_tool("calibrate", "--rows=gemma", devices=1)
    assert process.returncode == 1
    assert "--rows=gemma names none of: qwen3_32b_8x1024+1024" in process.stderr
    assert "Traceback" not in process.stderr


def test_decoding_of_a_stage_is_inside_its_band():
    """Full rows: on average half of the samples' own slots are in use."""
    run = load_config("tpu_v5p_256")
    stage = run.stages["grpo"]
    found = decoding(run, stage, lengths.drawn(stage, None))
    # 16 groups of 8 chips: 64 samples of 2 prompts.
    slots = 2 * 4096 + 64 * 8191 / 2
    chip = CHIPS["v5p"]
    token = by_bytes(run.model.text, chip, shards=8, rows=64, slots=slots)
    assert found["seconds"] == pytest.approx(8192 * token)
    assert found["least"] < found["seconds"] < found["most"]
    line = decoding_line("grpo", found, 49.0)
    assert f"decoding takes {found['seconds']:.0f} s" in line
    assert line.count(" to ") == 2
