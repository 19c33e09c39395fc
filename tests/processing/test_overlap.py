"""How much of a frame is still seen: cameras that turn, zoom, jump and see nothing."""

import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from r1v3_jax.processing.overlap import overlap, shows_little_of
from r1v3_jax.processing.video import key_frames

WIDTH, HEIGHT = 240, 180


@pytest.fixture(scope="module")
def photo():
    """A real photograph, 640 x 427."""
    return Image.fromarray(load_sample_image("china.jpg"))


def view(photo, x, y=100):
    return photo.crop((x, y, x + WIDTH, y + HEIGHT))


@pytest.mark.parametrize("turned", [0.0, 0.25, 0.4, 0.6])
def test_a_camera_that_turns(photo, turned):
    """Cut out of one photograph, so that the overlap is known."""
    right = round(turned * WIDTH)
    found = overlap(view(photo, 60), view(photo, 60 + right))
    # Features lie on whole pixels of several scales: two of a hundred.
    assert found == pytest.approx(1 - turned, abs=0.02)
    assert shows_little_of(view(photo, 60), view(photo, 60 + right)) == (turned > 0.5)


def test_a_camera_that_goes_forward_and_back(photo):
    """Forward the first frame covers all of the second; back it covers a quarter of it."""
    near = view(photo, 200).resize((WIDTH, HEIGHT))
    box = (200 - WIDTH // 2, 100 - HEIGHT // 2)
    far = photo.crop((*box, box[0] + 2 * WIDTH, box[1] + 2 * HEIGHT))
    far = far.resize((WIDTH, HEIGHT))
    assert overlap(far, near) == pytest.approx(1.0, abs=0.02)
    # ORB's scales are 1.2 apart: half of a step is a tenth of the width.
    assert overlap(near, far) == pytest.approx(0.25, abs=0.05)


def test_frames_of_two_places_and_empty_ones_have_nothing_in_common(photo):
    flower = view(Image.fromarray(load_sample_image("flower.jpg")), 60)
    black = Image.new("RGB", (WIDTH, HEIGHT))
    assert overlap(view(photo, 60), flower) < 0.5
    assert overlap(view(photo, 60), black) == 0.0 == overlap(black, view(photo, 60))


def test_key_frames_of_a_camera_that_turns(photo):
    """50 pixels a frame: after 100 of 240 more than half is still seen, after 150 less."""
    frames = [view(photo, 50 * k) for k in range(8)]
    assert key_frames(frames, shows_little_of, least=2) == [0, 3, 6, 7]


def test_without_opencv_the_error_says_what_to_install(photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'r1v3_jax\[video\]'"):
        overlap(view(photo, 0), view(photo, 0))


def test_a_frame_of_one_colour_with_noise_says_nothing_new_is_known():
    """Noise has features, and none that agree: no homography is invented."""
    rng = np.random.default_rng(0)
    frames = [
        Image.fromarray(rng.integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8))
        for _ in range(2)
    ]
    assert overlap(*frames) < 0.5
