"""Metrics as files: each step once, valid JSON, whole files or none; statistics by hand."""

import io
import json
import math
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from r1v3_jax import files
from r1v3_jax.evaluate import statistics
from r1v3_jax.run import metrics
from r1v3_jax.run.compiles import Compiles
from r1v3_jax.run.metrics import Logger, Timer
from r1v3_jax.run.trackers import ShownSample


def lines(directory) -> list[str]:
    return (directory / "metrics.jsonl").read_text().splitlines()


def run(directory, steps, *, stage="grpo", resume_step=0, quiet=True, total_steps=6):
    """Logs `steps` of a run whose numbers depend on the step alone."""
    with Logger(
        directory,
        total_steps=total_steps,
        stage=stage,
        quiet=quiet,
        resume_step=resume_step,
    ) as logger:
        for step in steps:
            timer = Timer()
            with timer("rollout"):
                time.sleep(1e-4)
            values = {
                "reward": step / 3,
                "entropy": math.nan,
                "completions/max_length": 7 + step,
            }
            logger.log(
                step, values | timer.values | {"tokens_per_s": 1 / time.perf_counter()}
            )


def test_a_line_written_out(tmp_path):
    with Logger(tmp_path, total_steps=2, stage="grpo", quiet=True) as logger:
        logger.log(
            0, {"reward": 0.1 + 0.2, "format": np.float32(0.5), "count": np.int64(3)}
        )
        assert len(lines(tmp_path)) == 1  # flushed, before the run ends
        logger.log(
            1, {"kl": math.nan, "loss": math.inf, "ratio": -math.inf, "lr": 1e-300}
        )
    assert lines(tmp_path) == [
        '{"stage": "grpo", "step": 0, "count": 3, "format": 0.5, "reward": 0.30000000000000004}',
        '{"stage": "grpo", "step": 1, "kl": null, "loss": "Infinity", "lr": 1e-300, '
        '"ratio": "-Infinity"}',
    ]
    first, second = metrics.read(tmp_path)
    assert first == {
        "stage": "grpo",
        "step": 0,
        "count": 3,
        "format": 0.5,
        "reward": 0.1 + 0.2,
    }
    assert math.isnan(second.pop("kl"))
    assert second == {
        "stage": "grpo",
        "step": 1,
        "loss": math.inf,
        "ratio": -math.inf,
        "lr": 1e-300,
    }


def without_times(directory) -> bytes:
    content = (directory / "metrics.jsonl").read_bytes()
    return re.sub(rb', "[^"]*_s": [^,}]*', b"", content)


def test_two_runs_differ_in_measured_time_alone(tmp_path):
    run(tmp_path / "a", range(6))
    run(tmp_path / "b", range(6))
    assert without_times(tmp_path / "a") == without_times(tmp_path / "b")
    assert b"_s" not in without_times(tmp_path / "a")
    assert lines(tmp_path / "a") != lines(tmp_path / "b")


@pytest.mark.parametrize("cut", [1, 20, 10_000])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, cut):
    """Killed at step 4 of 6, in the middle of a line; the last checkpoint is of step 2."""
    run(tmp_path / "whole", range(3), stage="cold_start")
    run(tmp_path / "whole", range(6))
    run(tmp_path / "killed", range(3), stage="cold_start")
    run(tmp_path / "killed", range(5))
    path = tmp_path / "killed" / "metrics.jsonl"
    content = path.read_bytes()
    path.write_bytes(
        content[: max(len(content) - cut, content.rindex(b'{"stage"') + 1)]
    )
    run(tmp_path / "killed", range(2, 6), resume_step=2)
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")


def test_a_stage_that_starts_anew_leaves_the_others_alone(tmp_path):
    run(tmp_path, range(2), stage="base")
    run(tmp_path, range(4), stage="grpo")
    run(tmp_path, range(1), stage="grpo")
    got = [(row["stage"], row["step"]) for row in metrics.read(tmp_path)]
    assert got == [("base", 0), ("base", 1), ("grpo", 0)]


def test_a_kill_while_lines_are_dropped_loses_nothing(tmp_path, monkeypatch):
    run(tmp_path, range(4))
    before = lines(tmp_path)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, range(2, 4), resume_step=2)
    assert lines(tmp_path) == before


def test_a_step_is_logged_once_and_in_order(tmp_path):
    with Logger(
        tmp_path, total_steps=9, stage="grpo", quiet=True, resume_step=3
    ) as logger:
        with pytest.raises(ValueError, match="grpo: step 2 comes after step 2"):
            logger.log(2, {})  # already in the checkpoint
        logger.log(3, {})
        logger.log(5, {})
        for step in (5, 4):
            with pytest.raises(
                ValueError, match=f"step {step} comes after step 5; each step is lo"
            ):
                logger.log(step, {})
        with pytest.raises(ValueError, match="a metric cannot be called 'step'"):
            logger.log(6, {"step": 1.0})
    assert [row["step"] for row in metrics.read(tmp_path)] == [3, 5]


def test_a_torn_last_line_is_not_read(tmp_path):
    whole = '{"stage": "grpo", "step": 0}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + '{"stage": "grpo", "st')
    assert metrics.read(tmp_path) == [{"stage": "grpo", "step": 0}]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    whole = '{"stage": "grpo", "step": 0}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + '{"stage": "gr\n' + whole)
    with pytest.raises(
        ValueError, match=r"metrics.jsonl, line 2: not JSON .*; remove the line"
    ):
        metrics.read(tmp_path)


def test_other_processes_write_and_print_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    run(tmp_path, range(2), quiet=False)
    files.write_json(tmp_path / "summary.json", {})
    files.write_jsonl(tmp_path / "rollouts.jsonl", [{}])
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="step 0 comes after step 0"):
        run(tmp_path, [0, 0])


def test_a_plain_stream_gets_a_line_a_step(tmp_path, capsys):
    run(tmp_path, range(4, 6), resume_step=4, total_steps=7, quiet=False)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"grpo 5/7  reward 1.333  entropy nan  tokens_per_s \S+", first)
    assert re.fullmatch(
        r"grpo 6/7  reward 1.667  entropy nan  tokens_per_s \S+  \S+ s/step  left 00:0\d",
        second,
    )


def test_quiet_prints_nothing(tmp_path, capfd):
    run(tmp_path, range(2))
    assert capfd.readouterr() == ("", "")


def events(directory) -> list:
    """The events of a TensorBoard directory, its files in order: length, crc, event, crc."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def test_tensorboard_scalars_and_restart(tmp_path):
    run(tmp_path, range(3))
    run(tmp_path, range(2, 4), resume_step=2)
    found = events(tmp_path / "tensorboard" / "grpo")
    # TensorBoard drops what it read at or after the step of a start: a resumed step shows once.
    assert [event.step for event in found if event.session_log.status] == [0, 2]
    rewards = [
        (event.step, value.simple_value)
        for event in found
        for value in event.summary.value
        if value.tag == "grpo/reward"
    ]
    assert rewards == [(s, pytest.approx(s / 3)) for s in (0, 1, 2, 2, 3)]
    tags = {value.tag for event in found for value in event.summary.value}
    assert tags == {
        "grpo/reward", "grpo/completions/max_length", "grpo/time/rollout_s", "grpo/tokens_per_s",
    }  # fmt: skip


def test_tensorboard_has_texts_and_pictures_of_samples(tmp_path):
    """Proves: a sample's words are text of the text plugin, its picture the very file."""
    picture = io.BytesIO()
    Image.new("RGB", (4, 2)).save(picture, "JPEG")
    texts = {"id": "7", "prompt": "<b>Add.", "wanted": "6", "completion": "5\n# 6"}
    of_both = {"verdict": "wrong", "reward": 0.25}
    seen = ShownSample(**texts, **of_both, picture=picture.getvalue(), size=(4, 2))
    with Logger(tmp_path, total_steps=1, stage="grpo", quiet=True) as logger:
        logger.log(0, {"reward": 1.0})
        logger.show(0, [seen, ShownSample(**texts, **of_both)])
    found = {
        value.tag: value
        for event in events(tmp_path / "tensorboard" / "grpo")
        for value in event.summary.value
    }
    words = found["grpo/sample_0/text_summary"]
    assert words.metadata.plugin_data.plugin_name == "text"
    (text,) = words.tensor.string_val
    assert text.decode().startswith("**wrong**, reward 0.25")
    # Texts of data and model are blocks of code: no mark of theirs is one of Markdown.
    assert "\n\n    <b>Add.\n" in text.decode()
    assert "    5\n    # 6" in text.decode()
    image = found["grpo/sample_0/picture"].image
    assert (image.width, image.height) == (4, 2)
    assert image.encoded_image_string == picture.getvalue()
    assert "grpo/sample_1/picture" not in found


def test_a_tensorboard_that_cannot_start_is_warned_of_once(tmp_path):
    (tmp_path / "tensorboard").write_text("a file where the directory should be")
    with pytest.warns(
        UserWarning, match="no more TensorBoard scalars of grpo"
    ) as warned:
        run(tmp_path, range(6))
    assert len(warned) == 1 and len(lines(tmp_path)) == 6


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_tensorboard_that_fails_later_is_warned_of_once(tmp_path, monkeypatch):
    from tensorboardX.event_file_writer import EventsWriter

    with Logger(tmp_path, total_steps=50, stage="grpo", quiet=True) as logger:
        logger.log(0, {"reward": 0.0})
        monkeypatch.setattr(EventsWriter, "write_event", full_disk)
        with pytest.warns(UserWarning, match="No space left on device") as warned:
            for step in range(1, 50):
                logger.log(step, {"reward": 0.0})
    assert len(warned) == 1 and len(lines(tmp_path)) == 50


def test_an_error_in_training_closes_the_file_and_is_not_hidden(tmp_path):
    with pytest.raises(FloatingPointError, match="loss nan"):
        with Logger(tmp_path, total_steps=2, stage="grpo", quiet=True) as logger:
            logger.log(0, {"reward": 1.0})
            raise FloatingPointError("loss nan")
    assert logger.file.closed and len(lines(tmp_path)) == 1


def test_timer_adds_up_by_purpose():
    timer = Timer()
    for _ in range(2):
        with timer("rollout"):
            time.sleep(0.02)
    with pytest.raises(KeyError), timer("update"):
        raise KeyError
    assert set(timer.values) == {"time/rollout_s", "time/update_s"}
    assert timer.values["time/rollout_s"] >= 0.04 > timer.values["time/update_s"]


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_write_json_written_out(tmp_path):
    value = {
        "chosen_step": np.int32(4),
        "rank_correlation": math.nan,
        "accuracy": {"grpo": {"digits": {"mean": np.float64(0.5), "n": 2}}},
        "bounds": (1, -math.inf),
        "counts": np.arange(2),
    }
    files.write_json(tmp_path / "new" / "summary.json", value)
    text = (tmp_path / "new" / "summary.json").read_text()
    assert json.loads(text, parse_constant=refuse) == {
        "chosen_step": 4,
        "rank_correlation": None,
        "accuracy": {"grpo": {"digits": {"mean": 0.5, "n": 2}}},
        "bounds": [1, "-Infinity"],
        "counts": [0, 1],
    }
    assert text.index("chosen_step") < text.index(
        "accuracy"
    )  # the order it was given in
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["summary.json"]


@pytest.mark.parametrize("fault", ["full disk", "a row that is not JSON"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, fault):
    path = tmp_path / "rollouts" / "grpo_000010.jsonl"
    files.write_jsonl(path, [{"id": "a"}, {"id": "b"}])
    before = path.read_bytes()
    rows = [{"id": "c"}, {"id": object() if fault != "full disk" else "d"}]
    if fault == "full disk":
        monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises((OSError, TypeError)):
        files.write_jsonl(path, rows)
    assert path.read_bytes() == before
    monkeypatch.undo()
    files.write_jsonl(path, [{"id": "e"}])
    assert path.read_text() == '{"id": "e"}\n'
    assert [p.name for p in path.parent.iterdir()] == ["grpo_000010.jsonl"]


def test_rollout_rows_come_back_as_they_were(tmp_path):
    rows = [
        {
            "id": "digits-7",
            "prompt": "<image>\nAdd the row.\u2028",
            "completion": "<think>Wait\n</think> \\boxed{9} \ud800 \0",  # as bytes may decode
            "rewards": {"accuracy": 1.0, "format": np.float32(0.25)},
            "logprobs": [-0.1, -math.inf],
            "entropies": np.float32([0.5, 0.25]),
            "images": ["digits-7/0.png"],
        }
    ]
    files.write_jsonl(tmp_path / "rollouts.jsonl", rows)
    (line,) = (tmp_path / "rollouts.jsonl").read_bytes().splitlines()
    rows[0]["rewards"]["format"] = 0.25
    rows[0]["logprobs"][1] = "-Infinity"
    rows[0]["entropies"] = [0.5, 0.25]
    assert json.loads(line, parse_constant=refuse) == rows[0]


@pytest.mark.parametrize(
    "successes, n, expected",
    [  # by hand; z^2 = 3.8416
        (0, 10, (0.0, 0.0, 3.8416 / 13.8416)),
        (10, 10, (1.0, 10 / 13.8416, 1.0)),
        (5, 10, (0.5, 0.5 - 0.26341, 0.5 + 0.26341)),
        (8, 10, (0.8, 0.49016, 0.94332)),
        (90, 1000, (0.09, 0.07380, 0.10934)),
    ],
)
def test_wilson_written_out(successes, n, expected):
    np.testing.assert_allclose(statistics.wilson(successes, n), expected, atol=1e-5)


def test_wilson_bounds_solve_their_equation():
    """Wilson's bounds are the p at which the observed share is z standard errors of p away."""
    mean, low, high = statistics.wilson(37, 250)
    for p in (low, high):
        assert abs(mean - p) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / 250))


def test_wilson_without_trials_knows_nothing():
    mean, low, high = statistics.wilson(0, 0)
    assert math.isnan(mean) and (low, high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        statistics.wilson(3, 2)


@pytest.mark.parametrize(
    "x, y, expected",
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [10, 100, 1000, 10_000], 1.0),  # ranks, not values
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        (
            [1, 2, 3, 4, 5],
            [2, 1, 4, 3, 5],
            0.8,
        ),  # 1 - 6 * (1 + 1 + 1 + 1 + 0) / (5 * 24)
        # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(22.5)),
    ],
)
def test_rank_correlation_written_out(x, y, expected):
    assert statistics.rank_correlation(x, y) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_scipys(seed):
    stats = pytest.importorskip("scipy.stats")
    x, y = np.random.default_rng(seed).integers(0, 6, (2, 12)).astype(float)
    assert statistics.rank_correlation(x, y) == pytest.approx(
        stats.spearmanr(x, y).statistic
    )


@pytest.mark.parametrize(
    "x, y",
    [([], []), ([1], [2]), ([1, 1, 1], [1, 2, 3]), ([1, math.nan, 3], [1, 2, 3])],
)
def test_rank_correlation_where_undefined_is_nan(x, y):
    assert math.isnan(statistics.rank_correlation(x, y))


def test_rank_correlation_wants_pairs():
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\)"):
        statistics.rank_correlation([1, 2, 3], [1, 2])


STATUS = Path("/proc/self/status")


@pytest.mark.skipif(
    not STATUS.exists(), reason="no kernel but Linux tells its peak in a file"
)
def test_peak_rss_is_what_the_kernel_says():
    block = np.ones(2**24)  # 0.125 GiB
    kernel = int(re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())[1]) / 2**20
    assert metrics.peak_rss_gib() == pytest.approx(
        kernel, rel=0.02
    )  # pages counted per thread
    assert kernel > block.nbytes / 2**30


def test_versions_name_all_that_matters():
    got = metrics.versions()
    assert set(got) == set(
        "r1v3_jax python jax jaxlib flax optax transformers numpy platform device_kind "
        "devices commit".split()
    )
    assert got["devices"] == jax.device_count()
    assert got["jax"] == jax.__version__ and got["numpy"] == np.__version__
    assert got["platform"] == got["device_kind"] == "cpu"
    assert json.loads(json.dumps(got)) == got


def test_a_picture_library_is_not_loaded_by_training():
    modules = "sys, r1v3_jax.run.metrics, r1v3_jax.report.plots"
    code = f"import {modules}; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- compilations


def test_a_recompilation_is_told_from_a_first_compilation():
    @jax.jit
    def double(x):
        return 2 * x

    short, long = np.ones(3, np.float32), np.ones(4, np.float32)
    compiles = Compiles()
    double(short)
    compiles.after("step")
    double(short)
    compiles.after("step")
    double(long)
    compiles.after("step", "probe")  # the probe is new: that one is its own
    assert compiles.after_warmup == 0
    double(np.ones(5, np.float32))
    compiles.after("step")
    assert compiles.after_warmup == 1
    assert compiles.programs(("double", "other")) == {"double": 3, "other": 0}
    assert Compiles().programs(("double",)) == {"double": 0}
