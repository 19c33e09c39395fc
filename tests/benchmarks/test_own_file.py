"""Questions of a source as a TSV: what is asked is what the source has, pixel for pixel."""

import base64

import numpy as np
import pytest
from benchmark_files import png
from PIL import Image

from r1v3_jax.benchmarks import own_file
from r1v3_jax.evaluate import benchmark_run
from r1v3_jax.evaluate.benchmark_run import Reader
from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.tasks.digits import Digits
from r1v3_jax.types import Example, Film

PLAIN = {"missing": "exact", "placement": "interleaved", "prompts": "plain"}


def test_the_questions_of_a_source_are_asked_as_it_has_them(tmp_path):
    source = Digits(split="held_out", seed=1)
    sets = [(level, source.mix(**{level: 1})) for level in ("normal", "hard")]
    assert own_file.write(tmp_path / "digits.tsv", sets, 5) == 10
    part = benchmark_run.prepare("digits", Reader(tmp_path, **PLAIN))
    asked = iter(part.items)
    for level, make in sets:
        for number in range(5):
            item = next(asked)
            example = make(number)
            assert (item.question.index, item.question.answer) == (
                example.id,
                example.answer,
            )
            assert item.question.fields["category"] == level
            assert item.asked.parts == (0, example.question)
            shown = np.asarray(item.question.images[0].decode().convert("RGB"))
            np.testing.assert_array_equal(shown, np.asarray(example.images[0]))


def test_several_images_stand_where_the_question_has_them(tmp_path):
    red, blue = (Image.new("RGB", (4, 4), name) for name in ("red", "blue"))
    example = Example(
        "7", (red, blue), "Is <image> like\tthis <image>?", "no", verifier="string"
    )
    own_file.write(tmp_path / "pairs.tsv", [("pairs", lambda _: example)], 1)
    (item,) = benchmark_run.prepare("pairs", Reader(tmp_path, **PLAIN)).items
    assert item.asked.parts == ("Is ", 0, " like\tthis ", 1, "?")
    assert item.question.fields["verifier"] == "string"
    colours = [
        image.decode().convert("RGB").getpixel((0, 0)) for image in item.question.images
    ]
    assert colours == [(255, 0, 0), (0, 0, 255)]


@pytest.mark.parametrize("missing", ["exact", "kit"])
def test_line_ends_of_every_kind_stay_in_their_question(tmp_path, missing):
    """Proves: a lone return, which ends a line for pandas and for csv, ends no row."""
    question = 'One\rtwo\nthree\r\nfour\t"five"?'
    example = Example("7", (Image.new("RGB", (4, 4)),), question, "no")
    own_file.write(tmp_path / "ends.tsv", [("ends", lambda _: example)], 1)
    if missing == "kit":
        pytest.importorskip("pandas")
    (item,) = benchmark_run.prepare(
        "ends", Reader(tmp_path, **{**PLAIN, "missing": missing})
    ).items
    assert item.asked.parts == (0, question)


def test_png_files_are_kept_byte_for_byte():
    row = own_file.row_of("x", Example("7", (StoredImage(png()),), "Which?", "A"))
    assert base64.b64decode(row["image"]) == png()


@pytest.mark.parametrize(
    "changes",
    [{"before": (("user", "Hello"),)}, {"films": (Film(0, (), 1),)}],
)
def test_what_a_tsv_cannot_hold_is_refused(changes):
    with pytest.raises(
        ValueError, match="7: a question with turns before it or with a film"
    ):
        own_file.row_of("x", Example("7", (), "Which?", "A", **changes))


def test_the_same_index_twice_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="two questions have the index '7'"):
        own_file.write(
            tmp_path / "a.tsv", [("x", lambda _: Example("7", (), "Which?", "A"))], 2
        )
    assert not (tmp_path / "a.tsv").exists()
