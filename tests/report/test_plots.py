"""The pictures show the numbers of the files, and only where there are some; the table as text."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from r1v3_jax.evaluate.statistics import wilson
from r1v3_jax.files import write_json
from r1v3_jax.report import plots

PICTURES = ["reward", "length", "entropy", "accuracy_by_stage", "selection", "loss"]


def measured(successes: int, n: int) -> dict:
    return dict(zip(("mean", "low", "high"), wilson(successes, n), strict=True)) | {
        "n": n
    }


ROWS = [
    *({"stage": "cold_start", "step": i, "loss": 2.0 - i / 10} for i in range(9)),
    {"stage": "cold_start", "step": 9, "loss": 1.1, "eval/loss": 1.25},
    *(
        {
            "stage": "grpo",
            "step": i,
            "reward": 0.2 + 0.01 * i,
            "accuracy": 0.01 * i,
            "format": 0.9,
            "completions/mean_length": 30 + i,
            "completions/max_length": 64,
            "completions/clipped_ratio": 0.5 - 0.01 * i,
            "length_limit": 64,
            "entropy": 0.5,
            "critical_entropy": None if i % 2 else 0.7,
        }
        for i in range(40)
    ),
]
SUMMARY = {
    "accuracy": {
        "cold_start": {"normal": measured(124, 1000), "hard": measured(0, 997)},
        "grpo": {"normal": measured(630, 1000), "hard": measured(1000, 1000)},
    },
    "blind": {"normal": measured(30, 1000)},
    "checkpoints": [
        {"step": 10, "critical_entropy": 0.8, "accuracy": measured(100, 250)},
        {"step": 20, "critical_entropy": 0.9, "accuracy": measured(150, 250)},
        {"step": 30, "critical_entropy": None, "accuracy": measured(50, 250)},
    ],
    "chosen_step": 20,
    "rank_correlation": 1.0,
}


def write(directory, rows=ROWS, summary=SUMMARY):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "metrics.jsonl").write_text(text)
    write_json(directory / "summary.json", summary)


def test_every_picture_is_a_png_of_sensible_size(tmp_path):
    write(tmp_path)
    paths = plots.plot_run(tmp_path)
    assert paths == [tmp_path / "plots" / f"{name}.png" for name in PICTURES]
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG" and 1000 <= image.width <= 1600
            assert 600 <= image.height <= 1000
            colours = {
                tuple(c)
                for c in np.asarray(image.convert("RGB"))[::3, ::3].reshape(-1, 3)
            }
        assert len(colours) > 10  # not an empty frame


@pytest.mark.parametrize(
    "stages, summary, expected",
    [
        ((), {}, []),
        (("cold_start",), {}, ["loss"]),
        (("grpo",), {"checkpoints": []}, ["reward", "length", "entropy"]),
        ((), {"accuracy": SUMMARY["accuracy"]}, ["accuracy_by_stage"]),
        (
            (),
            {"accuracy": {"grpo": {}}, "checkpoints": SUMMARY["checkpoints"]},
            ["selection"],
        ),
        ((), {"checkpoints": SUMMARY["checkpoints"][2:]}, []),
    ],
)
def test_a_picture_without_numbers_is_left_out(tmp_path, stages, summary, expected):
    write(tmp_path, [row for row in ROWS if row["stage"] in stages], summary)
    assert [path.stem for path in plots.plot_run(tmp_path)] == expected


def test_each_stage_with_rewards_has_its_own_pictures(tmp_path):
    """Not one that only collects, whose answers have rewards too: it has no prompts to learn."""
    learning = [row | {"prompts/padded_length": 26} for row in ROWS[-40:]]
    asked = [row | {"stage": "asked"} for row in ROWS[-40:]]
    again = [row | {"stage": "again"} for row in learning[:20]]
    write(tmp_path, [*asked, *learning, *again], {})
    names = [path.stem for path in plots.plot_run(tmp_path)]
    first = ["reward", "length", "entropy"]
    assert names == [*first, *(f"{name}_again" for name in first)]
    title = plots.reward(again, "again").get_suptitle()
    assert title == "Mean reward 0.20 → 0.39 over 20 steps of again"


def test_a_run_in_progress_has_pictures_too(tmp_path):
    """No summary yet, and the last line is being written."""
    write(tmp_path)
    (tmp_path / "summary.json").unlink()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "grpo", "st')
    names = [path.stem for path in plots.plot_run(tmp_path)]
    assert names == ["reward", "length", "entropy", "loss"]


def test_a_directory_without_metrics_has_none(tmp_path):
    assert plots.plot_run(tmp_path) == [] and not list(tmp_path.iterdir())


def shown(axes) -> dict[str, np.ndarray]:
    """What is plotted against the step, by its name in the legend."""
    return {
        line.get_label(): line.get_ydata()
        for line in axes.lines
        if line.get_label()[0] != "_"
    }


def test_lines_are_the_logged_numbers():
    figure = plots.length(ROWS, "grpo")
    above, below = figure.axes
    assert list(shown(above)) == ["mean", "longest", "limit"]
    raw, smoothed = above.lines[:2]
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(40))
    np.testing.assert_array_equal(raw.get_ydata(), 30 + np.arange(40))
    np.testing.assert_allclose(
        smoothed.get_ydata()[3:-3], 33 + np.arange(34)
    )  # a line stays one
    np.testing.assert_allclose(
        below.lines[0].get_ydata(), 50 - np.arange(40)
    )  # percent
    assert (
        figure.get_suptitle() == "Mean completion 31 → 68 tokens over 40 steps of grpo"
    )


def test_gaps_are_bridged_by_the_smoothed_line_only():
    (axes,) = plots.entropy(ROWS, "grpo").axes
    raw, smoothed = axes.lines[2:]
    np.testing.assert_array_equal(np.isnan(raw.get_ydata()), np.arange(40) % 2 == 1)
    np.testing.assert_allclose(smoothed.get_ydata(), 0.7)


def test_loss_has_a_panel_a_stage():
    rows = [*ROWS, {"stage": "connector", "step": 0, "loss": 0.5}]
    figure = plots.loss(rows, {})
    cold_start, connector = figure.axes
    assert shown(cold_start)["held out"].tolist() == [1.25]
    assert list(shown(connector)) == ["training"]
    assert figure.get_suptitle() == "Loss at the end: cold start 1.10, connector 0.50"


def test_bars_are_the_accuracies():
    figure = plots.accuracy_by_stage(ROWS, SUMMARY)
    (axes,) = figure.axes
    bars = [
        bar
        for bar in axes.containers
        if bar.get_label() != "" and hasattr(bar, "patches")
    ]
    heights = {
        c.get_label(): [round(p.get_height(), 6) for p in c.patches] for c in bars
    }
    assert heights == {
        "cold start": [12.4, 0.0], "grpo": [63.0, 100.0], "images as noise": [3.0],
    }  # fmt: skip
    assert [text.get_text() for text in axes.texts] == ["12", "0", "63", "100", "3"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["normal", "hard"]
    assert figure.get_suptitle() == "Held-out accuracy after each stage"


def test_the_title_of_the_bars_says_what_was_gained():
    normal = {
        stage: {"normal": sets["normal"]} for stage, sets in SUMMARY["accuracy"].items()
    }
    figure = plots.accuracy_by_stage(
        [], {"accuracy": normal, "blind": SUMMARY["blind"]}
    )
    assert (
        figure.get_suptitle()
        == "Held-out accuracy, first to last stage: normal 12% → 63%"
    )


def test_the_chosen_checkpoint_is_marked():
    figure = plots.selection(ROWS, SUMMARY)
    dots, ring = [c for c in figure.axes[0].collections if hasattr(c, "get_sizes")]
    np.testing.assert_allclose(dots.get_offsets(), [[0.8, 40], [0.9, 60]])
    np.testing.assert_allclose(ring.get_offsets(), [[0.9, 60]])
    assert ring.get_label() == "chosen: step 20"
    expected = "2 checkpoints: rank correlation of entropy and accuracy +1.00"
    assert figure.get_suptitle() == expected


@pytest.mark.parametrize("correlation", [None, math.nan])
def test_an_undefined_correlation_is_not_shown(correlation):
    figure = plots.selection(ROWS, SUMMARY | {"rank_correlation": correlation})
    assert figure.get_suptitle() == "2 checkpoints"


def test_smooth_written_out():
    # 16 values: weights 1/2, 1, 1/2; what is missing has none
    values = np.array([0.0, 4, 0, 0, np.nan, 8, 0, *[2.0] * 8, 5])
    expected = [
        (0 + 4 / 2) / 1.5, 4 / 2, (4 / 2) / 2, 0, (0 / 2 + 8 / 2) / 1, 8 / 1.5, (8 / 2 + 2 / 2) / 2,
        (0 / 2 + 2 + 2 / 2) / 2, *[2] * 6, (2 / 2 + 2 + 5 / 2) / 2, (2 / 2 + 5) / 1.5,
    ]  # fmt: skip
    np.testing.assert_allclose(plots.smooth(values), expected, atol=1e-12)
    np.testing.assert_array_equal(plots.smooth(values[:7]), values[:7])


def test_series_takes_one_stage_and_keeps_gaps():
    rows = [
        {"stage": "grpo", "step": 0, "kl": 1},
        {"stage": "base", "step": 0, "kl": 9},
        {"stage": "grpo", "step": 1, "kl": None},
        {"stage": "grpo", "step": 2},
        {"stage": "grpo", "step": 3, "kl": "Infinity"},
        {"stage": "grpo", "step": 4, "kl": 0.5},
    ]
    steps, values = plots.series(rows, "grpo", "kl")
    np.testing.assert_array_equal(steps, [0, 1, 3, 4])
    np.testing.assert_array_equal(values, [1, np.nan, np.nan, 0.5])
    assert plots.series(rows, "grpo", "entropy") is None
    assert plots.series(rows[2:3], "grpo", "kl") is None


def test_table_written_out():
    assert plots.table(SUMMARY) == (
        "Held-out accuracy in percent, with 95% intervals.\n"
        "\n"
        "| stage           | normal (n = 1000) | hard (n = 997 to 1000) |\n"
        "| --------------- | ----------------: | ---------------------: |\n"
        "| cold start      | 12.4 [10.5, 14.6] |       0.0 [ 0.0,  0.4] |\n"
        "| grpo            | 63.0 [60.0, 65.9] |    100.0 [99.6, 100.0] |\n"
        "| images as noise |  3.0 [ 2.1,  4.3] |                      - |"
    )


@pytest.mark.parametrize(
    "nothing", [None, math.nan]
)  # from the file, and before it is written
def test_table_of_a_set_whose_verifications_all_failed(nothing):
    empty = {"mean": nothing, "low": 0.0, "high": 1.0, "n": 0}
    lines = plots.table({"accuracy": {"grpo": {"digits": empty}}}).splitlines()
    assert lines[-1] == "| grpo  |              - |"
    assert plots.table({"accuracy": {}}) == "No held-out set was evaluated."
