"""The same rows at every kind of path, and files that are damaged."""

import json
import os
import random
import sys
from pathlib import Path

import pytest
import schema_rows
from PIL import Image
from rows_for_tests import digit, write_array_record, write_tar

from r1v3_jax.data import Rows, schemas, stores
from r1v3_jax.data.records import canonical, dumps
from r1v3_jax.types import DroppedRow

datasets = pytest.importorskip("datasets")
parquet = pytest.importorskip("pyarrow.parquet")

RECORDS = [
    {
        "problem": f"<image>Which, {i}?",
        "answer": str(i),
        "images": [{"bytes": digit(i), "path": None}],
    }
    for i in range(30)
]
CANONICAL = [canonical(record) for record in RECORDS]


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


def write_parquet(path, records, **options):
    import pyarrow

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(records), path, **options)
    return path


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [dumps(canonical(record)) for record in records]
    path.write_text("\n".join(lines), encoding="utf-8")


def write_tfds(folder, records):
    """A builder's folder as TFDS writes it, without TensorFlow."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import example_serializer

    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "problem": tfds.features.Text(),
            "answer": tfds.features.Text(),
            "images": tfds.features.Sequence(tfds.features.Image()),
        }
    )
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    serialized = []
    for record in records:
        images = [image["bytes"] for image in record["images"]]
        encoded = features.encode_example(record | {"images": images})
        serialized.append(serializer.serialize_example(encoded))
    name = "digits-train.array_record-0000{}-of-00002"
    write_array_record(folder / name.format(0), serialized[:20])
    write_array_record(folder / name.format(1), serialized[20:])
    features.save_config(str(folder))
    split = {
        "name": "train",
        "shardLengths": ["20", "10"],
        "numBytes": "1",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {
        "name": "digits",
        "version": "1.0.0",
        "fileFormat": "array_record",
        "splits": [split],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))


def write_everything(folder):
    """Writes the same 30 rows, in order, at each of these paths."""
    write_shards(folder)
    write_saved_datasets(folder)
    write_tfds(folder / "tfds/1.0.0", RECORDS)
    rows = [json.loads(dumps(row)) for row in CANONICAL]
    (folder / "list.json").write_text(json.dumps(rows, ensure_ascii=False))
    # Files beside the shards that hold no rows.
    (folder / "lines/drops.jsonl").write_text('{"reason": "json"}\n')
    (folder / "parquet/info.json").write_text("{}")
    members = []
    for i, record in enumerate(RECORDS):
        fields = {"question": record["problem"], "answer": record["answer"]}
        members.append((f"{i:02}.json", json.dumps(fields).encode()))
        members.append((f"{i:02}.png", digit(i)))
    write_tar(folder / "shard.tar", members)
    return [
        "parquet",
        "parquet/*.parquet",
        "images.parquet",
        "lines",
        "lines/**/*.jsonl",
        "records",
        "list.json",
        "saved",
        "splits@train",
        "tfds/1.0.0@train",
        "shard.tar",
    ]


def write_shards(folder):
    """Three files of 10 rows of each kind that is sharded."""
    for part in range(3):
        records = RECORDS[10 * part : 10 * part + 10]
        write_parquet(folder / f"parquet/{part}.parquet", records, row_group_size=4)
        write_lines(folder / f"lines/deep/{part}.jsonl", records)
        texts = [dumps(canonical(record)).encode() for record in records]
        (folder / "records").mkdir(exist_ok=True)
        name = f"r.array_record-0000{part}-of-00003"
        write_array_record(folder / "records" / name, texts)


def write_saved_datasets(folder):
    """What the library `datasets` writes, with a column that is known to hold images."""
    features = datasets.Features(
        {
            "problem": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
        }
    )
    whole = datasets.Dataset.from_list(RECORDS, features=features)
    whole.to_parquet(folder / "images.parquet")
    whole.save_to_disk(folder / "saved")
    splits = datasets.DatasetDict({"train": whole, "test": whole})
    splits.save_to_disk(folder / "splits")


def test_the_same_rows_at_every_kind_of_path(tmp_path, cache):
    for path in write_everything(tmp_path / "data"):
        store = stores.open_store(f"{tmp_path}/data/{path}", cache)
        assert len(store) == 30, path
        assert [canonical(store[i]) for i in range(30)] == CANONICAL, path
        assert len({store.name_of(i) for i in range(30)}) == 30, path
        for i in random.Random(0).sample(range(30), 10):
            assert canonical(store[i]) == CANONICAL[i]
        source = Rows(f"{tmp_path}/data/{path}", cache=cache)
        source.check()
        assert sorted(int(source(i).answer) for i in range(30)) == list(range(30))
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", schema_rows.RECORDS)
def test_each_schema_from_a_file(tmp_path, cache, name):
    """As tables have them: structs for objects, and columns that only another row fills."""
    schema, record, expected = schema_rows.RECORDS[name]
    table = [record | {"later": None}, {"later": "x"}]
    paths = {"rows.parquet", "rows.jsonl"}
    # A list of texts and objects is in no table.
    if name == "EasyR1, paths and a solution":
        paths.remove("rows.parquet")
    else:
        write_parquet(tmp_path / "rows.parquet", table)
    rows = (record, {"question": "q", "answer": "a"})
    try:
        lines = [json.dumps(row) for row in rows]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    except TypeError:  # bytes are not in JSON
        paths.remove("rows.jsonl")
    assert paths
    for path in paths:
        read_back = stores.open_store(str(tmp_path / path), cache)[0]
        assert schemas.recognise(read_back) == schema
        assert canonical(read_back) == schemas.CANONICAL | expected


def test_records_of_files_of_one_name_have_names_of_their_own(tmp_path):
    for part in ("a", "b"):
        write_lines(tmp_path / part / "train.jsonl", RECORDS[:2])
    store = stores.open_store(str(tmp_path))
    names = [store.name_of(i) for i in range(3)]
    assert names == ["a/train.jsonl/1", "a/train.jsonl/2", "b/train.jsonl/1"]


def test_a_path_that_means_nothing_or_too_much(tmp_path, cache):
    write_everything(tmp_path)
    for path, message in [
        ("none.parquet", "no such file of questions; give"),
        ("none/*.jsonl", "no such file"),
        ("lines/deep/../../..", "files of several kinds"),
        ("splits@validation", r"choose a split, .*splits@train\|test"),
        ("splits", r"choose a split"),
        ("tfds/1.0.0", r"choose a split, .*@train"),
        ("tfds/1.0.0@test", r"choose a split, .*@train"),
        ("saved/state.txt", "no such file"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            stores.open_store(f"{tmp_path}/{path}", cache)
    (tmp_path / "a.csv").write_text("question,answer")
    with pytest.raises(ValueError, match="a.csv: wanted a name ending in jsonl, json"):
        stores.open_store(f"{tmp_path}/a.csv")
    for name in ("nobody/nothing", "nobody/nothing:config"):  # tests are offline
        message = f"{name}@train: no such file here, and on the hub"
        with pytest.raises(ValueError, match=message):
            stores.open_store(f"{name}@train", cache)


# Damage


def test_a_flipped_bit_of_parquet_is_found_and_its_file_named(tmp_path, cache):
    """With checksums of pages, as tools/convert_data.py writes them."""
    options = {"write_page_checksum": True, "row_group_size": 5, "compression": "none"}
    for part in range(3):
        write_parquet(tmp_path / f"data/{part}.parquet", RECORDS, **options)
    path = tmp_path / "data/1.parquet"
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[data.index(digit(13)) + 50] ^= 4  # in the middle of a picture
    path.write_bytes(flipped)
    message = r"data/1\.parquet: damaged \(.*checksum.*copy it again"
    with pytest.raises(ValueError, match=message):
        stores.open_store(f"{tmp_path}/data", cache)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"data/1\.parquet: damaged"):
        stores.open_store(f"{tmp_path}/data", cache)
    path.write_bytes(data)
    assert len(stores.open_store(f"{tmp_path}/data", cache)) == 90


def test_parquet_files_of_different_columns_are_refused(tmp_path, cache):
    write_parquet(tmp_path / "a.parquet", [{"question": "q", "answer": "a"}])
    write_parquet(tmp_path / "b.parquet", [{"problem": 3, "images": ["x"]}])
    with pytest.raises(ValueError, match="a.parquet, ...: not one table"):
        stores.open_store(f"{tmp_path}/*.parquet", cache)


def test_a_damaged_record_is_dropped_and_the_others_stay_in_place(tmp_path, cache):
    """A record of an ArrayRecord shard in the middle, and of TFDS; the order does not move."""
    write_everything(tmp_path)
    for path, shard in [
        ("records", "records/r.array_record-00001-of-00003"),
        ("tfds/1.0.0@train", "tfds/1.0.0/digits-train.array_record-00001-of-00002"),
    ]:
        source = Rows(f"{tmp_path}/{path}", cache=cache)
        expected = [source(i).answer for i in range(60)]
        data = bytearray((tmp_path / shard).read_bytes())
        data[1500] ^= 1  # a record there
        (tmp_path / shard).write_bytes(data)
        stores.cached_store.cache_clear()
        answers = []
        for i in range(60):
            try:
                answers.append(source(i).answer)
            except DroppedRow as dropped:
                assert dropped.reason == "record" and dropped.source == source.source
                answers.append(None)
        pairs = list(zip(expected, answers, strict=True))
        lost = {wanted for wanted, answer in pairs if answer is None}
        assert len(lost) == 1 and answers.count(None) == 2  # the same in both passes
        assert all(answer in (None, wanted) for wanted, answer in pairs)


def test_a_damaged_array_record_shard_names_its_file(tmp_path):
    write_everything(tmp_path)
    shard = tmp_path / "records/r.array_record-00001-of-00003"
    shard.write_bytes(shard.read_bytes()[:5000])
    message = "r.array_record-00001-of-00003: not an ArrayRecord file"
    with pytest.raises(ValueError, match=message):
        stores.open_store(f"{tmp_path}/records")


# Other file systems


def test_remote_files_are_copied_once_and_a_changed_one_again(tmp_path, cache):
    import fsspec

    write_everything(tmp_path)
    remote = fsspec.filesystem("memory")
    remote.put(f"{tmp_path}/records", "/bucket/records", recursive=True)
    remote.put(f"{tmp_path}/parquet", "/bucket/parquet", recursive=True)
    for path in ("records", "records/*", "parquet", "parquet/*.parquet"):
        store = stores.open_store(f"memory://bucket/{path}", cache)
        assert [canonical(store[i]) for i in range(30)] == CANONICAL
    copies = sorted(Path(cache).rglob("r.array_record*"))
    times = [os.stat(copy).st_mtime_ns for copy in copies]
    stores.open_store("memory://bucket/records", cache)
    assert len(copies) == 3 and [os.stat(copy).st_mtime_ns for copy in copies] == times
    assert not list(Path(cache).rglob("*.partial"))
    changed = write_array_record(tmp_path / "changed", [dumps(CANONICAL[5]).encode()])
    remote.put(changed, "/bucket/records/r.array_record-00000-of-00003")
    store = stores.open_store("memory://bucket/records", cache)
    assert len(store) == 21 and canonical(store[0]) == CANONICAL[5]
    message = "bucket/none: no files of questions there"
    with pytest.raises(FileNotFoundError, match=message):
        stores.open_store("memory://bucket/none", cache)


def test_rows_from_elsewhere_hold_their_images_or_have_a_root(tmp_path, cache):
    import fsspec

    record = {"question": "q", "answer": "a", "images": ["a.png"]}
    with fsspec.filesystem("memory").open("/far/a.jsonl", "w") as file:
        file.write(json.dumps(record))
    with pytest.raises(DroppedRow, match="or set root, a folder here"):
        Rows("memory://far/a.jsonl", cache=cache)(0)
    Image.new("RGB", (8, 9)).save(tmp_path / "a.png")
    example = Rows("memory://far/a.jsonl", root=str(tmp_path), cache=cache)(0)
    assert example.images[0].size == (8, 9)
    assert (example.id, example.source) == ("a/1", "a")


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    """Where the extra is not installed."""
    (tmp_path / "a.parquet").write_bytes(b"")
    (tmp_path / "a.array_record").write_bytes(b"")
    (tmp_path / "t").mkdir()
    (tmp_path / "t/features.json").write_text("{}")
    extras = (
        "datasets",
        "array_record.python.array_record_module",
        "tensorflow_datasets",
        "fsspec",
    )
    for name in extras:
        monkeypatch.setitem(sys.modules, name, None)
    paths = (
        f"{tmp_path}/a.parquet",
        f"{tmp_path}/a.array_record",
        f"{tmp_path}/t@train",
        "gs://bucket/a.jsonl",
        "owner/name@train",
    )
    message = r"needs pip install r1v3_jax\[(data|tfds)\]"
    for path in paths:
        with pytest.raises(ImportError, match=message):
            stores.open_store(path)
