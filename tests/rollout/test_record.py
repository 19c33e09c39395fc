"""The rows and the images of WORKDIR/rollouts."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.processing.processor import Encoded, Tiles
from r1v3_jax.rewards.reward import Score
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.record import Learnt, Pictures, json_rows
from r1v3_jax.sampling.state import Completions
from r1v3_jax.stages.samples import SHOWN_TEXT, shown_samples
from r1v3_jax.types import Example

RED = Image.new("RGB", (6, 4), "red")


def stored(image: Image.Image, kind: str) -> StoredImage:
    file = io.BytesIO()
    image.save(file, kind)
    return StoredImage(file.getvalue())


def group(images=(RED,)) -> Group:
    """One question with two samples: of 3 tokens, right; and of 2, cut off, where one is forced."""
    completions = Completions(
        tokens=np.array([[7, 8, 2], [7, 9, 0]], np.int32),
        logprobs=np.array([[-0.5, -0.25, -1], [-2, -3, 0]], np.float32),
        entropies=np.array([[1, 0.5, 0.25], [2, 1, 0]], np.float32),
        chosen=np.array([[True, True, True], [True, False, False]]),
        lengths=np.array([3, 2], np.int32),
        ended=np.array([True, False]),
    )
    right = Score(
        1.0, 1.0, 1.0, Verdict.RIGHT, "4", "equal", {"correct": 1.0}, {"correct": 0.8}
    )
    wrong = Score(0.0, 0.0, 0.0, Verdict.WRONG, None, "no box")
    prompt = Encoded(
        tokens=np.arange(5),
        labels=np.arange(5),
        loss_mask=np.zeros(5, bool),
        tiles=Tiles([1] * len(images), 2, lambda out: None),
    )
    example = Example("q7", tuple(images), "How many?", "4", source="counts")
    return Group(example, prompt, completions, ["four 4", "five"], [right, wrong])


def test_a_row_has_every_number_of_its_sample():
    """Proves: each field against one written by hand; the gap is sampler against trainer."""
    learnt = Learnt(
        advantages=[np.full(3, 0.7, np.float32), np.array([-0.7, 0], np.float32)],
        old_logprobs=[np.float32([-0.5, -0.5, -1]), np.float32([-2, -3])],
    )
    rows = list(
        json_rows([group()], step=20, learnt=[learnt], images=[["images/1f.png"]])
    )
    assert rows[0] == {
        "id": "q7",
        "step": 20,
        "source": "counts",
        "images": ["images/1f.png"],
        "tiles": [1],
        "prompt": "How many?",
        "answer": "4",
        "sample": 0,
        "completion": "four 4",
        "reward": 1.0,
        "accuracy": 1.0,
        "format": 1.0,
        "terms": {"correct": 1.0},
        "weights": {"correct": 0.8},
        "problem": "",
        "verdict": "right",
        "extracted": "4",
        "reason": "equal",
        "length": 3,
        "ended": True,
        "advantage": 0.7,
        "gap": 0.083333,  # (0 + 0.25 + 0) / 3
        "tokens": [7, 8, 2],
        "logprobs": [-0.5, -0.25, -1.0],
        "entropies": [1.0, 0.5, 0.25],
        "old_log_probs": [-0.5, -0.5, -1.0],
    }
    # The forced token is not pushed.
    assert rows[1]["advantage"] == -0.7
    assert rows[1]["advantages"] == [-0.7, 0.0]
    assert rows[1]["forced"] == [1]
    assert (rows[1]["extracted"], rows[1]["ended"]) == (None, False)


def test_the_lists_of_tokens_come_last():
    """Proves: the head of a line, up to its first list of tokens, is an object of its own."""
    row = next(json_rows([group()]))
    head, cut, _ = json.dumps(row).partition(', "tokens": [')
    assert cut
    assert json.loads(head + "}")["verdict"] == "right"


def test_a_picture_is_saved_once_by_its_content(tmp_path):
    """Proves: equal pixels have one file, a JPEG keeps its bytes, other kinds become PNG."""
    jpeg = stored(RED, "JPEG")
    bitmap = stored(RED, "BMP")
    pictures = Pictures(tmp_path)
    names = pictures.save(group([RED, RED.copy(), jpeg, bitmap]))
    names += pictures.save(group([RED, Image.new("RGB", (4, 6), "red")]))
    pictures.close()
    assert names[0] == names[1] == names[4]
    assert len({*names}) == 4  # another shape of the same bytes is another picture
    assert {f"images/{path.name}" for path in tmp_path.glob("images/*")} == {*names}
    assert (tmp_path / names[2]).read_bytes() == jpeg.source
    for name in (names[0], names[3]):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
            assert image.tobytes() == RED.tobytes()


def test_a_picture_that_cannot_be_saved_is_logged_and_ends_nothing(tmp_path, caplog):
    """Proves: neither a missing file, damaged bytes nor a full folder reaches the step."""
    (tmp_path / "images").write_text("a file where the folder would be")
    pictures = Pictures(tmp_path)
    gone = StoredImage(tmp_path / "gone.png")
    damaged = StoredImage(b"GIF89a and then nothing")
    names = pictures.save(group([gone, damaged, RED]))
    pictures.close()
    assert names[0] == ""
    assert "" not in names[1:]
    assert caplog.text.count("was not saved") == 2
    assert "an image of q7 is not kept" in caplog.text


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P"])
def test_every_kind_of_pixels_is_saved(tmp_path, mode):
    """Proves: a picture that a program made can be shown, whatever its mode."""
    pictures = Pictures(tmp_path)
    (name,) = pictures.save(group([RED.convert(mode)]))
    pictures.close()
    with Image.open(tmp_path / name) as image:
        assert image.size == RED.size


def test_a_row_without_an_update_has_no_advantage():
    """Proves: what is not known is left out, not written as 0."""
    rows = list(json_rows([dataclasses.replace(group())]))
    assert not {"advantage", "gap", "old_log_probs"} & {*rows[0]}
    assert rows[0]["images"] == []


def test_of_a_film_some_frames_are_kept(tmp_path):
    """Proves: first, last and evenly between; a large frame is a JPEG; names keep their places."""
    frames = [Image.new("RGB", (300, 300), (i, 0, 0)) for i in range(31)]
    pictures = Pictures(tmp_path)
    names = pictures.save(group(frames))
    pictures.close()
    assert [i for i, name in enumerate(names) if name] == [*range(0, 31, 2)]
    assert len([*tmp_path.glob("images/*.jpg")]) == 16
    with Image.open(tmp_path / names[30]) as image:
        assert image.format == "JPEG"
        assert abs(image.getpixel((9, 9))[0] - 30) <= 2  # JPEG keeps colours nearly


def test_a_few_samples_are_shown_elsewhere():
    """Proves: questions with different rewards first, of each the best and the worst answer, and of
    equal ones one; at most four questions.
    """
    mixed = group()
    equal = dataclasses.replace(group(), scores=[group().scores[1]] * 2)
    seen = shown_samples([equal, equal, mixed, equal, equal])
    assert [s.completion for s in seen] == [
        "four 4",
        "five",
        "four 4",
        "four 4",
        "four 4",
    ]
    assert [s.verdict for s in seen] == ["right", *["wrong"] * 4]
    assert (seen[0].id, seen[0].prompt, seen[0].wanted) == ("q7", "How many?", "4")
    with Image.open(io.BytesIO(seen[0].picture)) as picture:
        assert picture.size == seen[0].size == (6, 4)


def test_what_is_shown_elsewhere_is_small(tmp_path, caplog):
    """Proves: a long text loses its middle and says so, a large picture its size; a picture that is
    gone is logged, and the texts are shown.
    """
    large = Image.effect_noise((900, 600), 90).convert("RGBA")
    long = dataclasses.replace(group((large,)), texts=["a" * 5000 + "b", "five"])
    best, _ = shown_samples([long])
    assert len(best.completion) < SHOWN_TEXT + 30
    assert best.completion.endswith("ab") and "[3001 letters]" in best.completion
    assert best.size == (256, 171)
    assert len(best.picture) < 50_000
    (none, _) = shown_samples([group((StoredImage(tmp_path / "gone.png"),))])
    assert (none.picture, none.size) == (b"", (0, 0))
    assert "its image is not shown" in caplog.text
    assert shown_samples([group(())])[0].picture == b""
    # Half of a pair, which no file of TensorBoard can hold.
    odd = dataclasses.replace(group(()), texts=["four \ud83d", "five"])
    assert shown_samples([odd])[0].completion == "four ?"
