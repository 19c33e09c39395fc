"""Questions in files: rows, their order, images that are read late, and what is refused."""

import dataclasses
import json

import pytest
from PIL import Image

from r1v3_jax.config import TINY, Verify
from r1v3_jax.data import Rows, sources, stores
from r1v3_jax.processing import image_files
from r1v3_jax.processing.processor import Processor
from r1v3_jax.stages import grpo
from r1v3_jax.types import DroppedRow


def write(path, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Rows(str(path))


def test_rows_are_examples_and_images_lie_beside_the_file(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (56, 28), "red").save(tmp_path / "pictures/a.png")
    full = {
        "id": "x",
        "question": "How many? <image>",
        "answer": 3,
        "images": ["pictures/a.png"],
        "chain": "Three.",
        "level": "easy",
        "verifier": "number absolute=1",
    }
    example = write(tmp_path / "one.jsonl", full)(0)
    assert (example.id, example.question) == ("x", "How many? <image>")
    assert (example.answer, example.chain, example.level) == ("3", "Three.", "easy")
    assert example.verifier == "number absolute=1"
    assert [image.size for image in example.images] == [(56, 28)]
    assert example.images[0].decode().getpixel((0, 0)) == (255, 0, 0)
    row = {"question": "q", "answer": "a", "images": None}
    bare = write(tmp_path / "two.jsonl", row)(0)
    assert (bare.id, bare.images, bare.chain) == ("two/1", (), None)  # its line
    assert (bare.level, bare.verifier) == ("normal", "")


def test_pixels_are_read_where_they_are_wanted(tmp_path):
    Image.new("RGB", (84, 28)).save(tmp_path / "a.png")
    stored = image_files.StoredImage(tmp_path / "a.png")
    row = {"question": "q", "answer": "a", "images": ["a.png"]}
    example = write(tmp_path / "one.jsonl", row)(0)
    tiles = Processor(TINY, None).tiles(example)
    assert stored.size == (84, 28) and len(tiles) == 4  # three and the thumbnail
    # The pixels are gone: the header's size has been read, and nothing else was.
    (tmp_path / "a.png").unlink()
    assert len(tiles) == 4
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        _ = tiles.array


def test_each_pass_has_every_row_once_in_an_order_of_its_own(tmp_path):
    rows = [{"id": str(i), "question": "q", "answer": "a"} for i in range(20)]
    source = write(tmp_path / "rows.jsonl", *rows)
    passes = [[source(20 * p + i).id for i in range(20)] for p in range(3)]
    for ids in passes:
        assert sorted(ids, key=int) == [str(i) for i in range(20)]
    assert passes[0] != passes[1] != passes[2]
    reopened = Rows(source.path)
    assert [reopened(i).id for i in range(20)] == passes[0]
    reseeded = Rows(source.path, seed=1)
    assert [reseeded(i).id for i in range(20)] != passes[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"Expecting property name .* \(json\)"),
        ("[1]", r"wanted an object, got list \(json\)"),
        ({"question": "q"}, r"\(no_answer\)"),
        (
            {"question": "q", "answer": "a", "images": "a.png"},
            r"images of type str.*\(fields\)",
        ),
        (
            {"question": "q", "answer": "a", "images": [1]},
            r"an image of type int.*\(fields\)",
        ),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, row, message):
    source = write(tmp_path / "rows.jsonl", "", row)  # the blank line counts
    with pytest.raises(DroppedRow, match=f"rows, rows/2: .*{message}"):
        source(0)


def test_what_is_not_there_is_refused(tmp_path):
    message = "none.jsonl: no such file of questions; give"
    with pytest.raises(FileNotFoundError, match=message):
        Rows(str(tmp_path / "none.jsonl")).check()
    (tmp_path / "empty.jsonl").write_text("\n \r\n\n")
    with pytest.raises(ValueError, match="no questions; write one JSON object a line"):
        Rows(str(tmp_path / "empty.jsonl")).check()
    good = write(tmp_path / "good.jsonl", {"question": "q", "answer": "a"})
    message = "schema 'verll': choose from own, easyr1, wethink, verl"
    with pytest.raises(ValueError, match=message):
        Rows(good.path, schema="verll").check()
    with pytest.raises(FileNotFoundError, match="root '/no/where' is no folder"):
        Rows(good.path, root="/no/where").check()
    bad = write(tmp_path / "bad.jsonl", "{", {"question": "q"}, {"question": ""})
    message = r"no good row among 3: 1 x .*\(json\); 1 x .*no_answer"
    with pytest.raises(ValueError, match=message):
        bad.check()


def test_images_lie_where_the_path_begins(tmp_path):
    (tmp_path / "parts").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "parts/a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    row = {"question": "q", "answer": "a", "images": ["a.png"]}
    for part in ("1", "2"):
        write(tmp_path / f"parts/{part}.jsonl", row)
    for path, folder, name in [
        (f"{tmp_path}/parts", tmp_path / "parts", "parts"),
        (f"{tmp_path}/parts/*.jsonl", tmp_path / "parts", "parts"),
        (f"{tmp_path}/*/2.jsonl", tmp_path, tmp_path.name),
        (f"{tmp_path}/parts/1.jsonl", tmp_path / "parts", "1"),
    ]:
        example = Rows(path)(0)
        assert example.images[0].source == folder / "a.png" and example.source == name
    moved = Rows(f"{tmp_path}/parts", root=str(tmp_path), name="mine")
    assert moved(0).images[0].source == tmp_path / "a.png" and moved(0).source == "mine"
    assert len(moved) == 2 and moved.recognised() == {"own": 2}
    assert {moved(i).id for i in range(2)} == {"1/1", "2/1"}


def test_a_verifier_that_does_not_exist_is_named_before_a_run(tmp_path):
    row = {"question": "q", "answer": "a"}
    good = {**row, "verifier": "choice|model"}
    write(tmp_path / "good.jsonl", good, "{", "[1]").check()
    source = write(tmp_path / "typo.jsonl", row, {**row, "verifier": "chioce"})
    message = "typo.jsonl, typo/2: no verifier 'chioce'; did you mean"
    with pytest.raises(ValueError, match=message):
        source.check()


def test_many_sources_stay_open_and_keep_their_orders(tmp_path):
    """As a mixture asks them, in turn: each file is opened once, each order drawn once."""
    rows = [{"id": str(i), "question": "q", "answer": "a"} for i in range(10)]
    many = []
    for i in range(25):
        source = write(tmp_path / f"{i}.jsonl", *rows[: 4 + i // 5])
        many.append(dataclasses.replace(source, seed=i))

    def misses():
        caches = (stores.cached_store, sources.pass_order)
        return [cache.cache_info().misses for cache in caches]

    before = misses()
    for index in (0, 1, 2):
        for source in many:
            source(index)
    after = misses()
    assert (after[0] - before[0], after[1] - before[1]) == (25, 25)


def test_a_verifier_that_the_run_does_not_have_is_named_before_it(tmp_path):
    row = {"question": "q", "answer": "7"}
    plain = write(tmp_path / "plain.jsonl", row, "{", {**row, "verifier": "number"})
    grpo.check_verifiers(plain, Verify())
    asks = write(tmp_path / "asks.jsonl", row, {**row, "verifier": "number|model"})
    message = "asks, asks/2: .* verify.model_url is not set"
    with pytest.raises(ValueError, match=message):
        grpo.check_verifiers(asks, Verify())
    model = Verify(model_url="http://localhost:1/v1", model_name="m")
    grpo.check_verifiers(asks, model)
    calls = write(tmp_path / "calls.jsonl", {**row, "verifier": "os:system"})
    with pytest.raises(ValueError, match="os:system is not among the functions"):
        grpo.check_verifiers(calls, Verify())


def test_data_that_changed_has_another_fingerprint(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(200)]
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    fingerprint = Rows(str(path)).fingerprint()
    assert fingerprint.startswith("200 rows, ")
    copy = tmp_path / "elsewhere" / "rows.jsonl"
    copy.parent.mkdir()
    copy.write_text(path.read_text())
    assert Rows(str(copy), seed=3).fingerprint() == fingerprint
    changed = tmp_path / "changed.jsonl"
    changed.write_text("\n".join([lines[1], *lines[1:]]) + "\n")
    longer = tmp_path / "longer.jsonl"
    longer.write_text("\n".join([*lines, lines[0]]) + "\n")
    assert Rows(str(changed)).fingerprint() != fingerprint
    assert Rows(str(longer)).fingerprint() != fingerprint
