"""What a file of each kind looks like, byte by byte, and what a failed write leaves behind."""

import json
import math

import numpy as np
import pytest

from r1v3_jax import files

VALUE = {"ü": np.float32(1.5), "nan": math.nan, "bounds": (1, -math.inf)}


def test_a_run_s_file_is_ascii_without_words_that_json_lacks(tmp_path):
    files.write_json(tmp_path / "new" / "summary.json", VALUE)
    assert (tmp_path / "new" / "summary.json").read_bytes() == (
        b'{\n  "\\u00fc": 1.5,\n  "nan": null,\n  "bounds": [\n    1,\n'
        b'    "-Infinity"\n  ]\n}\n'
    )


def test_rows_are_read_back_without_the_torn_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.write_jsonl(path, [VALUE, {"a": "\u2028"}])
    first = b'{"\\u00fc": 1.5, "nan": null, "bounds": [1, "-Infinity"]}\n'
    assert path.read_bytes() == first + b'{"a": "\\u2028"}\n'
    with path.open("a") as file:
        file.write('{"torn": ')
    assert files.read_jsonl(path)[1:] == [{"a": "\u2028"}]
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 3: not JSON .* remove the"):
        files.read_jsonl(path)


def test_settings_keep_their_letters_and_numbers(tmp_path):
    """A tokenizer's settings come from other programs and go to others."""
    settings = {"pad_token": "<｜end▁of▁sentence｜>", "model_max_length": math.inf}
    files.write_settings(tmp_path / "tokenizer_config.json", settings)
    assert (tmp_path / "tokenizer_config.json").read_text(encoding="utf-8") == (
        '{\n  "pad_token": "<｜end▁of▁sentence｜>",\n  "model_max_length": Infinity\n}\n'
    )


@pytest.mark.parametrize("shared", [False, True])
def test_a_failed_write_changes_nothing(tmp_path, shared):
    """The next attempt overwrites what it left, unless others may be writing at the moment."""
    path = tmp_path / "file"
    path.write_text("old")
    for content in ("torn", "new"):
        try:
            with files.atomic_file(path, shared=shared) as partial:
                partial.write_text(content)
                if content == "torn":
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert len(list(tmp_path.glob("file*.partial"))) == shared


def test_only_the_first_process_writes_about_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    files.write_json(tmp_path / "a.json", {})
    files.write_jsonl(tmp_path / "b.jsonl", [{}])
    assert not list(tmp_path.iterdir())
    # Each process has a manifest of its own, and settings are written by whoever calls.
    files.write_text(tmp_path / "1-of-2.json", json.dumps({}))
    files.write_settings(tmp_path / "config.json", {})
    assert len(list(tmp_path.iterdir())) == 2
