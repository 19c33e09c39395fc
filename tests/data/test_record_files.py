"""Files of records: every record once, by number, and damage that is found and named."""

import io
import json
import random
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from rows_for_tests import digit, write_array_record, write_tar

from r1v3_jax.data import Rows, record_files
from r1v3_jax.types import DroppedRow

pytest.importorskip("array_record.python.array_record_module")


def peak_mb():
    """The most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text()
    kilobytes = status.split("VmHWM:")[1].split()[0]
    return int(kilobytes) / 1024


# JSON


@pytest.mark.parametrize("chunk", [1, 2, 7, 10**6])
def test_lines_are_found_wherever_chunks_end(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(record_files, "CHUNK", chunk)
    path = tmp_path / "a.jsonl"
    for text in [
        '{"a": 1}\n\n{"a": 2}\r\n  \n\r\n{"a": 3}',
        '\ufeff{"a": 1}\n{"a": 2}\n{"a": 3}\n\n',
    ]:
        path.write_bytes(text.encode())
        lines = record_files.JsonLines(str(path))
        assert [lines[i] for i in range(len(lines))] == [{"a": 1}, {"a": 2}, {"a": 3}]
        numbered = enumerate(text.split("\n"), start=1)
        names = [f"a/{number}" for number, line in numbered if line.strip()]
        assert [lines.name_of(i) for i in range(3)] == names
    for text in ("", "\n", "\n\n \n"):
        path.write_text(text)
        assert len(record_files.JsonLines(str(path))) == 0


def test_a_line_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(record_files, "MAX_RECORD", 1000)
    (tmp_path / "a.jsonl").write_text(
        '{"a": "' + "x" * 1000 + '"}\n{"a": 1}\n[3]\n{"a": '
    )
    lines = record_files.JsonLines(str(tmp_path / "a.jsonl"))
    assert lines[1] == {"a": 1}
    for i, reason, message in [
        (0, "record", "1009 bytes"),
        (2, "json", "list"),
        (3, "json", "char"),
    ]:
        with pytest.raises(DroppedRow, match=message) as error:
            lines[i]
        assert (error.value.id, error.value.reason) == (f"a/{i + 1}", reason)


def index_of(path, count):
    """Opens a file of `count` lines; returns seconds and MB that it took."""
    question = "What is this? " + "x" * 400
    fields = json.dumps({"question": question, "answer": "3"})[1:]
    with open(path, "w") as file:
        for start in range(0, count, 1000):
            numbers = range(start, start + 1000)
            file.writelines(f'{{"id": {i}, {fields}\n' for i in numbers)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak_mb()
    started = time.perf_counter()
    lines = record_files.JsonLines(str(path))
    seconds = time.perf_counter() - started
    assert len(lines) == count
    for i in random.Random(0).sample(range(count), 100):
        assert lines[i]["id"] == i
    return seconds, peak_mb() - before


def test_an_index_of_50_000_lines(tmp_path):
    seconds, megabytes = index_of(tmp_path / "a.jsonl", 50_000)
    assert seconds < 1 and megabytes < 50


@pytest.mark.slow
def test_an_index_of_a_million_lines(tmp_path):
    seconds, megabytes = index_of(tmp_path / "a.jsonl", 1_000_000)
    print(f"\nindex of a million lines: {seconds:.2f} s, {megabytes:.0f} MB")
    assert seconds < 5 and megabytes < 500


def test_a_json_file_is_a_list_or_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(' [{"a": 1}, {"a": 2}, 3]')
    records = record_files.SHARDS["json"](str(path))
    assert len(records) == 3
    assert [records[0], records[1]] == [{"a": 1}, {"a": 2}]
    assert records.name_of(1) == "a/1"
    with pytest.raises(DroppedRow, match="wanted an object, got int"):
        records[2]
    path.write_text('[{"a": 4}]', encoding="utf-8-sig")
    assert record_files.SHARDS["json"](str(path))[0] == {"a": 4}
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert record_files.SHARDS["json"](str(path))[1] == {"a": 2}
    path.write_text("[NaN]")
    with pytest.raises(
        ValueError, match="a.json: .*NaN is no JSON; one object a line goes"
    ):
        record_files.SHARDS["json"](str(path))


# ArrayRecord


def test_array_record_finds_every_flipped_bit_and_names_the_record(tmp_path):
    noise = np.random.default_rng(0).bytes  # nothing to compress: little padding
    records = [{"id": i, "text": noise(3000).hex()} for i in range(60)]
    write_array_record(tmp_path / "good.array_record", records)
    data = (tmp_path / "good.array_record").read_bytes()
    dice = random.Random(0)
    outcomes = {"dropped": 0, "refused": 0, "none": 0}
    path = tmp_path / "bad.array_record"
    for _ in range(60):
        damaged = bytearray(data)
        damaged[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        try:
            shard = record_files.ArrayRecords(str(path))
        except ValueError as error:
            assert str(path) in str(error) and "copy it again" in str(error)
            outcomes["refused"] += 1
            continue
        assert len(shard) == 60
        bad = 0
        for i in range(60):
            try:
                assert shard[i] == records[i]  # never anything else
            except DroppedRow as error:
                assert (error.reason, error.id) == ("record", f"bad/{i}")
                bad += 1
        assert bad <= 1
        outcomes["dropped" if bad else "none"] += 1  # none: in the padding
    assert outcomes["dropped"] > 40


def test_array_record_cut_short_or_of_something_else(tmp_path):
    path = tmp_path / "a.array_record"
    write_array_record(path, [{"i": i} for i in range(50)])
    data = path.read_bytes()
    for cut in (b"", data[: len(data) // 2], b"hello" * 100):
        path.write_bytes(cut)
        with pytest.raises(
            ValueError, match="a.array_record: not an ArrayRecord file, empty, or"
        ):
            record_files.ArrayRecords(str(path))
    write_array_record(path, [b"\x0a\x03abc", b"[1]"])
    for i in range(2):
        with pytest.raises(DroppedRow) as error:
            record_files.ArrayRecords(str(path))[i]
        assert error.value.reason == "json"


# Tar


def members(count):
    for i in range(count):
        row = {"question": f"<image>Which, {i}?", "answer": str(i), "image": "gone.png"}
        yield f"set/{i:03}.json", json.dumps(row).encode()
        yield f"set/{i:03}.png", digit(i)
        if i % 2:
            yield f"set/{i:03}.seg.png", digit(i + 1)
        yield f"set/{i:03}.cls", b"7"


def test_tar_members_are_grouped_and_images_stay_in_the_file(tmp_path):
    tar = record_files.Tar(write_tar(tmp_path / "a.tar", members(9)))
    assert len(tar) == 9 and tar.name_of(3) == "a/set/003"
    for i in np.random.default_rng(0).permutation(9):
        images = [digit(i)] + [digit(i + 1)] * (i % 2)
        fields = {"question": f"<image>Which, {i}?", "answer": str(i)}
        assert tar[i] == fields | {"images": images}
    # Nothing was extracted.
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_images_of_a_tar_member_are_in_order_of_their_numbers(tmp_path):
    names = ["a.10.png", "a.2.png", "a.b.png", "a.1.jpg", "a.b1.png", "a.png"]
    path = write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    tar = record_files.Tar(path)
    ordered = [b"a.1.jpg", b"a.2.png", b"a.10.png", b"a.b1.png", b"a.b.png", b"a.png"]
    assert tar[0] == {"images": ordered}


def test_tar_without_json_and_with_bad_json(tmp_path):
    files = [("a.png", b"x"), ("b.json", b"{"), ("c.txt", b"hello")]
    path = write_tar(tmp_path / "a.tar", files)
    tar = record_files.Tar(path)
    assert tar[0] == {"images": [b"x"]} and tar[2] == {}  # no schema: dropped as rows
    with pytest.raises(DroppedRow, match="a, a/b: JSONDecodeError"):
        tar[1]


def test_tar_with_hostile_members_opens_nothing_else(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind, link in [
            ("../../up.json", tarfile.REGTYPE, ""),
            ("link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "../../etc/passwd"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
        ]:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = link
            info.size = 2 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"{}"))
    tar = record_files.Tar(str(tmp_path / "a.tar"))
    assert len(tar) == 1 and tar[0] == {} and tar.name_of(0) == "a/../../up"


def test_tar_cut_short_or_damaged_between_members_is_named(tmp_path):
    path = Path(write_tar(tmp_path / "a.tar", members(9)))
    data = path.read_bytes()
    end = data.rstrip(b"\0")
    for size in (*range(0, len(end), 700), 100, len(end)):
        path.write_bytes(data[:size])
        with pytest.raises(
            ValueError, match=r"a\.tar: (no tar, or|damaged or) cut short"
        ):
            record_files.Tar(str(path))
    path.write_bytes(data)
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar.getmembers()]
    for header in headers[1:]:  # its checksum no longer holds
        damaged = bytearray(data)
        damaged[header + 5] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.tar: damaged or cut short at byte"):
            record_files.Tar(str(path))


def test_a_film_in_a_tar_is_no_row_without_it(tmp_path):
    row = json.dumps({"question": "q", "answer": "a"}).encode()
    for ending in (".mp4", ".wav", ".left.tiff", ".SVG"):
        members = [("7.json", row), (f"7{ending}", b"x"), ("7.cls", b"1")]
        path = write_tar(tmp_path / f"a{ending}.tar", members)
        with pytest.raises(DroppedRow, match=f"7{ending.lower()}") as error:
            Rows(path)(0)
        assert error.value.reason == "fields"
