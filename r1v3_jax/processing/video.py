"""Turns a video into evenly spaced images; each is then tiled like any other image.

Files are decoded with PyAV, which is optional. Knows nothing about tiles, tokens or models.
"""

import contextlib
import os
from collections.abc import Sequence

from PIL import Image

from r1v3_jax.processing.image_files import MAX_PIXELS, open_file, refusal

# FFmpeg demuxers that read one file. Playlists (hls, concat) would open other files and addresses.
VIDEO_FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,ogg,asf"


def frame_indices(total: int, num_frames: int) -> list[int]:
    """Returns the middle of each of `num_frames` equal segments of frames 0 .. total - 1.

    A video with fewer frames repeats them. Source: `get_index` in InternVL's model card.
    """
    if total < 1 or num_frames < 1:
        actual = f"{total} frames and num_frames {num_frames}"
        change = "drop the video or raise num_frames"
        raise refusal("video", actual, "at least 1 of each", change)
    # total = 100, num_frames = 4: segments of 24.75 frames, whose middles are 12, 37, 62 and 86.
    segment = (total - 1) / num_frames
    return [int(segment / 2 + round(segment * k)) for k in range(num_frames)]


def frame_prompt(num_frames: int) -> str:
    """Returns the text before a question about a video: "Frame1: <image>\\nFrame2: <image>\\n"."""
    return "".join(f"Frame{k + 1}: <image>\n" for k in range(num_frames))


def video_frames(
    source: str | os.PathLike | Sequence[Image.Image],
    num_frames: int,
    *,
    max_pixels: int = MAX_PIXELS,
) -> list[Image.Image]:
    """Picks `num_frames` PIL images, evenly spaced, of a list of images or a video file.

    A file is decoded in order and only the frames returned are kept; they are turned upright as
    the container says (so does decord, which the reference reads with). ValueError for a bad video,
    FileNotFoundError for a missing one, ImportError without the extra "video" (PyAV).
    """
    if isinstance(source, list | tuple):
        return [source[k] for k in frame_indices(len(source), num_frames)]
    name = repr(str(source))
    with open_file(source) as file:
        with _video_stream(file, name, max_pixels) as (container, stream):
            total = sum(packet.size > 0 for packet in container.demux(stream))
        # Usually every packet becomes a frame and one attempt is enough. If some do not (hidden or
        # damaged), the frames that really came out are counted and spaced anew.
        attempts = 3 if total else 0
        for _ in range(attempts):
            indices = frame_indices(total, num_frames)
            with _video_stream(file, name, max_pixels) as (container, stream):
                frames, decoded = _decode(container, stream, indices)
            if decoded == total:
                return [frames[k] for k in indices]
            if decoded == 0:
                break
            total = decoded
    actual = "no frames, or never the same number"
    raise refusal(name, actual, "an intact video", "write it again or drop it")


def _decode(container, stream, indices: list[int]) -> tuple[dict, int]:
    """Decodes a stream; returns ({index: image} for `indices`, number of frames decoded)."""
    frames = {}
    decoded = 0
    for frame in container.decode(stream):
        if decoded in indices:
            frames[decoded] = frame.to_image().rotate(frame.rotation, expand=True)
        decoded += 1
    return frames, decoded


@contextlib.contextmanager
def _video_stream(file, name: str, max_pixels: int):
    """Opens a video file from its start; yields (container, stream).

    Any error while it is open becomes a ValueError about the video.
    """
    try:
        import av  # optional, and only needed for files
    except ImportError:
        raise ImportError(
            "a video file needs PyAV: pip install r1v3_jax[video]"
        ) from None
    file.seek(0)
    options = {"format_whitelist": VIDEO_FORMATS}
    try:
        # The open file, not its name: FFmpeg would follow names such as http:// and concat:.
        with av.open(file, options=options, metadata_errors="replace") as container:
            stream = next(iter(container.streams.video), None)
            # The context is None if there is no decoder for the stream.
            codec = stream.codec_context if stream else None
            width, height = (codec.width, codec.height) if codec else (0, 0)
            if 1 <= width * height <= max_pixels:
                # The decoder checks the size too, because it may grow midway.
                codec.options = {"max_pixels": str(max_pixels)}
                yield container, stream
                return
    # PyAV trips over damage in its own ways too: OSError, IndexError, UnicodeDecodeError.
    except Exception as error:
        wanted = f"an intact video ({VIDEO_FORMATS})"
        change = "convert it or write it again"
        raise refusal(name, repr(error), wanted, change) from error
    if width:
        actual = f"video of {width} x {height} pixels"
    else:
        actual = "no video stream to decode"
    wanted = f"video of at most max_pixels = {max_pixels}"
    raise refusal(name, actual, wanted, "scale it, convert it or raise max_pixels")
