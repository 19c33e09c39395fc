"""Frames of a video."""

import contextlib
import os
from collections.abc import Sequence

from PIL import Image

from r1v3_jax.processing.image_files import MAX_PIXELS, open_file

# FFmpeg demuxers that read one file. Playlists (hls, concat) would open other files and addresses.
VIDEO_FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,ogg,asf"


def frame_indices(total: int, num_frames: int) -> list[int]:
    """The middle of each of `num_frames` equal segments of frames 0 .. total - 1, list of int.

    A video shorter than that repeats frames. Source: `get_index` in InternVL's model card.
    """
    if total < 1 or num_frames < 1:
        got = f"{total} frames and num_frames {num_frames}"
        raise refusal(
            "video", got, "at least 1 of each", "drop the video or raise num_frames"
        )
    segment = (total - 1) / num_frames
    return [int(segment / 2 + round(segment * k)) for k in range(num_frames)]


def frame_prompt(num_frames: int) -> str:
    """The text before a question about a video: "Frame1: <image>\\nFrame2: <image>\\n"."""
    return "".join(f"Frame{k + 1}: <image>\n" for k in range(num_frames))


def video_frames(
    source: str | os.PathLike | Sequence[Image.Image],
    num_frames: int,
    *,
    max_pixels: int = MAX_PIXELS,
) -> list[Image.Image]:
    """`num_frames` PIL images, evenly spaced, from a list of PIL images or from a video file.

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
        # Once, if every packet becomes a frame. Else (hidden, damaged) by what really came out.
        for _ in range(3 if total else 0):
            wanted, kept, decoded = frame_indices(total, num_frames), {}, 0
            with _video_stream(file, name, max_pixels) as (container, stream):
                for frame in container.decode(stream):
                    if decoded in wanted:
                        kept[decoded] = frame.to_image().rotate(
                            frame.rotation, expand=True
                        )
                    decoded += 1
            if decoded == total:
                return [kept[k] for k in wanted]
            if decoded == 0:
                break
            total = decoded
    got = "no frames, or never the same number"
    raise refusal(name, got, "an intact video", "write it again or drop it")


@contextlib.contextmanager
def _video_stream(file, name, max_pixels):
    """The (container, stream) of an open video file, from its start; whatever fails is refused."""
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
            codec = (
                stream and stream.codec_context
            )  # None if there is no decoder for it
            width, height = (codec.width, codec.height) if codec else (0, 0)
            if 1 <= width * height <= max_pixels:
                codec.options = {"max_pixels": str(max_pixels)}  # should it grow midway
                yield container, stream
                return
    # PyAV trips over damage in its own ways too: OSError, IndexError, UnicodeDecodeError.
    except Exception as error:
        wanted = f"an intact video ({VIDEO_FORMATS})"
        raise refusal(
            name, repr(error), wanted, "convert it or write it again"
        ) from error
    got = (
        f"video of {width} x {height} pixels" if width else "no video stream to decode"
    )
    wanted = f"video of at most max_pixels = {max_pixels}"
    raise refusal(name, got, wanted, "scale it, convert it or raise max_pixels")


def refusal(name, got, wanted, change):
    return ValueError(f"{name}: got {got}, wanted {wanted}; {change}")
