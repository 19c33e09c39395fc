"""tools/convert_data.py as a user runs it: what comes out reads back equal, the rest is listed."""

import collections
import io
import json
from pathlib import Path

import numpy as np
import pytest
from film_rows import film
from PIL import Image
from rows_for_tests import (
    DAMAGE,
    GOOD,
    damaged_line,
    digit,
    write_images,
)
from schema_rows import RECORDS
from tools_for_tests import run_tool

from r1v3_jax import checksums
from r1v3_jax.data import Rows
from r1v3_jax.data.records import canonical, dumps, inline
from r1v3_jax.types import REASONS

ROOT = Path(__file__).parents[2]
# What rows of films name: two frames, and two views.
VIEWS = ("1.png", "2.png", "images/EpicKitchens/P01.png", "images/Ego4D/b.png")

pytest.importorskip("datasets")
pytest.importorskip("array_record")


def convert(*arguments):
    return run_tool("convert_data", *arguments)


def noise_png(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_data(folder):
    """Rows of every schema, 30 of ours, 10 with large images, one with an id that was there, every
    kind of damage and a row that was there.
    """
    folder.mkdir()
    (folder / "coco").mkdir()
    (folder / "images").mkdir()
    for name in ("a.png", "b.png", "coco/a.png", "images/a.png", *VIEWS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(digit(len(name)))
    for name in ("a.mp4", "a/b.mp4", "videos/EpicKitchens/P01.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # 10 s: InternVL's row shows seconds 2 to 5.5.
        (folder / name).write_bytes(film(range(len(name), 10 + len(name)), rate=1))
    write_images(folder)
    records = [canonical(record) for _, record, _ in RECORDS.values()]
    lines = [dumps(row).encode() for row in records]
    lines += [json.dumps(GOOD | {"id": f"g{i}", "n": i}).encode() for i in range(30)]
    for i in range(10):
        (folder / f"large{i}.png").write_bytes(noise_png(i))
        names = {"id": f"large{i}", "images": [f"large{i}.png"]}
        large = {"question": "q", "answer": "3"} | names
        lines.append(json.dumps(large).encode())
    lines.append(json.dumps(GOOD | {"id": "g3", "question": "another one"}).encode())
    lines += [damaged_line(damage) for damage, _ in DAMAGE]
    lines.append(json.dumps(GOOD | {"id": "g3", "n": 3}).encode())
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    return len(records) + 41


@pytest.mark.parametrize("kind", ["array_record", "parquet"])
def test_what_is_converted_reads_back_equal(tmp_path, kind):
    count = write_data(tmp_path / "data")
    out = tmp_path / "out"
    process = convert(
        f"--data={tmp_path}/data/rows.jsonl",
        f"--to={kind}",
        f"--out={out}",
        "--name=mine",
        "--shard_mb=1",
    )
    assert process.returncode == 0, process.stderr
    expected = collections.Counter([reason for _, reason in DAMAGE] + ["duplicate"])
    dropped = f"{expected.total()} dropped ("
    assert f"{out}: {count} rows in 4 shards of {kind}; {dropped}" in process.stdout
    total = f"{len(DAMAGE) + count + 1:,} rows"
    assert f"{total}; schemas of some: own" in process.stdout
    lines = (out / "drops.jsonl").read_text().splitlines()
    drops = [json.loads(line) for line in lines]
    assert collections.Counter(drop["reason"] for drop in drops) == expected
    assert [drop["row"] for drop in drops] == list(range(count, count + len(drops)))
    assert set(drops[0]) == {"row", "source", "id", "reason", "detail"}
    assert all(drop["source"] and drop["reason"] in REASONS for drop in drops)

    before = Rows(f"{tmp_path}/data/rows.jsonl", name="mine")
    after = Rows(str(out), cache=str(tmp_path / "cache"))
    assert len(after) == count
    for number in range(count):
        wanted = inline(before.row(number))
        if number == count - 1:  # another question with an id that was there
            wanted["id"] += "#2"
        assert inline(after.row(number)) == wanted
    checksums.check_sums(out)
    assert not (tmp_path / "out.partial").exists()
    # Three images of 360 kB make more than 1 MB. Base64 costs next to nothing.
    sizes = [path.stat().st_size for path in sorted(out.glob("rows-*"))]
    assert len(sizes) == 4 and all(1.0e6 < size < 1.3e6 for size in sizes[:3])


def test_a_mistake_is_one_line(tmp_path):
    other = "tests/rewards/labelled_pairs.jsonl"  # rows of JSON, but no questions
    process = convert(f"--data={other}", f"--out={tmp_path}/out")
    assert process.returncode == 1
    count = (ROOT / other).read_bytes().count(b"\n")
    assert f"pairs.jsonl: no good row; {count} fields; see" in process.stderr
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
