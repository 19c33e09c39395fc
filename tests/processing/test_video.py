"""Frames of videos: which ones, as they were written, upright; bad files are refused."""

import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from images_for_tests import PNG, linux_only, noise, open_files, run_measured

from r1v3_jax.processing import tiling
from r1v3_jax.processing.video import (
    frame_indices,
    frame_prompt,
    key_frames,
    video_frames,
)


def write_video(path, pictures, *, codec="ffv1", pixels="bgr0", title="", b_frames=0):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=10, options={"bf": str(b_frames)})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size = pixels, 12
        for picture in pictures:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
            )
        container.mux(stream.encode())
    return path


def write_sound(path):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


def solid(*greys):
    return [np.full((48, 64, 3), grey, np.uint8) for grey in greys]


def greys(frames):
    return [int(np.asarray(frame)[24, 32, 0]) for frame in frames]


def test_frames_are_the_middles_of_equal_segments():
    # segment = 99 / 4 = 24.75, half of it is 12.375; then + 0, 25, 50 (round(49.5)), 74
    assert frame_indices(100, 4) == [12, 37, 62, 86]
    assert frame_indices(9, 1) == [4]
    assert frame_indices(1, 3) == [0, 0, 0]
    assert frame_indices(3, 6) == [0, 0, 1, 1, 1, 2]
    for total in (1, 7, 100, 1799):
        for num_frames in (1, 8, 32):
            segment = (
                float(total - 1) / num_frames
            )  # InternVL's get_index, with its numpy
            indices = [
                int(segment / 2 + np.round(segment * k)) for k in range(num_frames)
            ]
            assert frame_indices(total, num_frames) == indices


@pytest.mark.parametrize(
    "call",
    [
        lambda: frame_indices(0, 4),
        lambda: frame_indices(4, 0),
        lambda: video_frames([], 4),
    ],
)
def test_senseless_numbers_of_frames_are_refused(call):
    with pytest.raises(ValueError, match=r"^\w+: got .*, wanted .*; .+$"):
        call()


def test_frame_prompt():
    assert frame_prompt(3) == "Frame1: <image>\nFrame2: <image>\nFrame3: <image>\n"
    assert frame_prompt(0) == ""


def test_key_frames_are_those_that_show_something_new():
    """Embodied-R's rule, written out: both ends, each that differs from the last kept; 4 to 32."""

    def differ(first, second):
        return first != second

    assert key_frames("aaabbccc", differ, least=2) == [0, 3, 5, 7]
    assert key_frames("aaabbccc", differ) == [0, 3, 5, 7]
    assert key_frames("aaaaaaaa", differ) == [0, 2, 5, 7]  # too few: evenly spaced
    assert key_frames("aa", differ) == [0, 1] and key_frames("a", differ) == [0]
    assert key_frames("abab", differ, least=2, most=2) == [0, 3]
    # A slow change adds up: compared is with the frame that was kept, not with the one before.
    far = key_frames(range(9), lambda a, b: b - a > 2, least=1)
    assert far == [0, 3, 6, 8]
    many = key_frames(range(100), differ)
    assert (len(many), many[0], many[-1]) == (32, 0, 99)
    assert len(set(many)) == 32


@pytest.mark.parametrize(
    ("frames", "limits"),
    [("", {}), ("ab", {"least": 0}), ("ab", {"least": 5, "most": 4})],
)
def test_key_frames_of_nothing_are_refused(frames, limits):
    with pytest.raises(ValueError, match=r"least=4 and most=32 would do"):
        key_frames(frames, lambda a, b: True, **limits)


def test_a_list_of_frames_is_sampled():
    frames = [noise(4, 4) for _ in range(100)]
    sampled = video_frames(frames, 4)
    assert [id(frame) for frame in sampled] == [id(frames[k]) for k in (12, 37, 62, 86)]
    tiles, counts = tiling.tile_images(sampled, tile_size=28, max_tiles=1)
    assert (tiles.shape, counts) == ((4, 28, 28, 3), [1, 1, 1, 1])


def test_a_lossless_video_gives_back_its_frames(tmp_path):
    path = write_video(tmp_path / "video.mkv", solid(*range(100)))
    before = open_files()
    sampled = video_frames(path, 4)
    assert greys(sampled) == [12, 37, 62, 86]
    assert all((frame.mode, frame.size) == ("RGB", (64, 48)) for frame in sampled)
    assert greys(video_frames(str(path), 64)) == frame_indices(100, 64)
    short = write_video(tmp_path / "short.mkv", solid(0, 100, 200))
    assert greys(video_frames(short, 6)) == [0, 0, 100, 100, 100, 200]
    assert open_files() == before


@pytest.mark.parametrize("name", ["video.mp4", "video.mov", "video.avi", "video.ts"])
def test_an_mpeg4_video_gives_back_its_frames(name, tmp_path):
    path = write_video(
        tmp_path / name, solid(*range(0, 240, 6)), codec="mpeg4", pixels="yuv420p"
    )
    expected = [6 * k for k in frame_indices(40, 8)]  # 30 apart
    # 6: the codec is lossy, and the neighbouring frame is 6 away
    np.testing.assert_allclose(greys(video_frames(path, 8)), expected, atol=5)


def test_a_video_that_lost_its_start_is_spaced_by_what_decodes(tmp_path):
    pictures = solid(*range(0, 240, 6))
    path = tmp_path / "video.ts"
    write_video(path, pictures, codec="mpeg2video", pixels="yuv420p", b_frames=2)
    data = path.read_bytes()
    path.write_bytes(
        data[len(data) // 4 // 188 * 188 :]
    )  # 30 packets, of which 28 decode
    expected = [6 * (12 + k) for k in frame_indices(28, 8)]
    np.testing.assert_allclose(greys(video_frames(path, 8)), expected, atol=5)  # lossy


def test_a_title_in_another_encoding_does_no_harm(tmp_path):
    path = write_video(tmp_path / "video.mkv", solid(1, 2, 3), title="caf#")
    path.write_bytes(path.read_bytes().replace(b"caf#", b"caf\xe9"))
    assert greys(video_frames(path, 3)) == [1, 2, 2]


def test_a_phone_video_is_turned_upright(tmp_path):
    picture = solid(0)[0]
    picture[:24] = 250  # the upper half is bright
    path = write_video(
        tmp_path / "v.mp4", [picture] * 4, codec="mpeg4", pixels="yuv420p"
    )
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # ISO 14496-12, 8.3.2, version 0
    data[matrix : matrix + 36] = struct.pack(
        ">9i", 0, 2**16, 0, -(2**16), 0, 0, 0, 0, 2**30
    )
    path.write_bytes(data)
    frame = video_frames(path, 1)[0]
    assert frame.size == (48, 64)
    # turned clockwise by 90 degrees: what was above is now on the right
    assert frame.getpixel((40, 32))[0] > 200 > 50 > frame.getpixel((8, 32))[0]


def test_bad_videos_are_refused_in_one_line(tmp_path, monkeypatch, capfd):
    good = write_video(
        tmp_path / "v.mp4", solid(*range(20)), codec="mpeg4", pixels="yuv420p"
    )
    data = good.read_bytes()
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{good}\n#EXT-X-ENDLIST\n"
    bad = {
        "empty.mp4": b"",
        "text.mp4": b"hello" * 100,
        "cut.mp4": data[: len(data) // 2],
        "image.mp4": PNG,
        "playlist.m3u8": playlist.encode(),  # would read whatever file or address it names
        "concat.txt": f"ffconcat version 1.0\nfile '{good}'\n".encode(),
    }
    before = open_files()
    for name, content in bad.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            video_frames(path, 4)
        text = str(error.value)
        assert text.startswith(f"{str(path)!r}: got ") and ", wanted " in text
        assert "\n" not in text
    # The name is a file's, but FFmpeg would take it for an order to read v.mp4.
    monkeypatch.chdir(tmp_path)
    Path("concat:v.mp4").write_bytes(b"hello" * 100)
    with pytest.raises(ValueError, match=r"'concat:v\.mp4': got InvalidDataError"):
        video_frames("concat:v.mp4", 4)
    with pytest.raises(ValueError, match="got no video stream to decode"):
        video_frames(write_sound(tmp_path / "sound.mkv"), 4)
    with pytest.raises(
        ValueError, match="got video of 64 x 48 pixels, wanted video of at most"
    ):
        video_frames(good, 4, max_pixels=3071)
    assert open_files() == before
    assert capfd.readouterr() == ("", "")


def test_damaged_videos_open_or_are_refused(tmp_path):
    dice = random.Random(0)
    outcomes = {"opened": 0, "refused": 0}
    path = tmp_path / "damaged"
    for name, codec, pixels in [("v.mp4", "mpeg4", "yuv420p"), ("v.mkv", "ffv1", "bgr0"),
                                ("v.ts", "mpeg2video", "yuv420p")]:  # fmt: skip
        video = write_video(
            tmp_path / name, solid(*range(40)), codec=codec, pixels=pixels
        )
        data = video.read_bytes()
        for k in range(60):
            damaged = bytearray(data)
            for _ in range(10):
                damaged[dice.randrange(len(data))] = dice.randrange(256)
            path.write_bytes(damaged[: dice.randrange(len(data))] if k % 2 else damaged)
            try:
                assert len(video_frames(path, 8)) == 8
                outcomes["opened"] += 1
            except ValueError as error:
                assert str(error).startswith(
                    f"{str(path)!r}: got "
                ) and "\n" not in str(error)
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def test_a_video_that_grows_midway_is_refused(tmp_path):
    options = {"codec": "mpeg2video", "pixels": "yuv420p"}
    small = write_video(tmp_path / "small.ts", solid(*range(20)), **options)
    large = [np.zeros((480, 640, 3), np.uint8)] * 20
    large = write_video(tmp_path / "large.ts", large, **options)
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    assert video_frames(path, 4)[3].size == (640, 480)
    with pytest.raises(ValueError, match="got .*, wanted an intact video"):
        video_frames(path, 4, max_pixels=10_000)


@linux_only
def test_a_long_video_is_never_held_whole(tmp_path):
    options = {"codec": "mpeg4", "pixels": "yuv420p"}
    pictures = [np.full((360, 640, 3), grey, np.uint8) for grey in (50, 200)]
    short = write_video(tmp_path / "short.mp4", pictures * 4, **options)
    long = write_video(tmp_path / "long.mp4", pictures * 200, **options)
    code = """
video.video_frames(sys.argv[1], 8)
before = peak_mb()
print(len(video.video_frames(sys.argv[2], 8)), peak_mb() - before)
"""
    num_frames, growth_mb = run_measured(code, short, long)
    assert int(num_frames) == 8
    assert float(growth_mb) < 50  # all 400 frames would take 276 MB


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "av", None)  # import av now fails
    with pytest.raises(ImportError, match=r"pip install r1v3_jax\[video\]"):
        video_frames(path, 4)
