"""Films as images: which frames, upright, and within limits; each is then tiled like an image.

Files are decoded with PyAV, which is optional, in order and on one thread; only the frames that are
wanted are kept. Film files are not trusted: bytes, pixels, frames and seconds are checked before
anything is decoded. All limits are counts and none is a clock, so every process leaves out the same
rows. Knows nothing about tokens or models.
"""

import contextlib
import dataclasses
import io
import os
import struct
from collections.abc import Callable, Sequence

from PIL import Image

from r1v3_jax.config import Video
from r1v3_jax.processing.image_files import (
    MAX_PIXELS,
    ImageError,
    StoredImage,
    open_file,
    raise_machine_error,
    refusal,
)

# FFmpeg demuxers that read one file. Playlists (hls, concat) would open other files and addresses.
VIDEO_FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,ogg,asf"
MAX_VIDEO_BYTES = 512 * 2**20
# Of a frame: 4096 x 2160. A decoder may hold 16 of them, at 1.5 bytes a pixel.
MAX_FRAME_PIXELS = 9_000_000
MAX_FRAMES = 30_000  # of a whole film: 20 minutes at 25 a second
# Of all frames of a film together: 4 minutes at 1280 x 720 and 25 a second, some 10 s of a core.
MAX_DECODED_PIXELS = 6_000_000_000
# Of the frames that are kept, at 4 bytes a pixel: 400 MB.
MAX_KEPT_PIXELS = 100_000_000
# What the container says -> what turns a frame upright. PyAV counts counter-clockwise.
ROTATIONS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}

# Which frames are wanted, of frames at these seconds: their numbers, in order.
Choice = Callable[[Sequence[float]], list[int]]


class VideoError(ImageError):
    """A film that is not used. reason: a word of `types.REASONS`."""


# 1. Which frames


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


def key_frames(
    frames: Sequence,
    differ: Callable[[object, object], bool],
    *,
    least: int = 4,
    most: int = 32,
) -> list[int]:
    """Returns the numbers of the frames that show something new, in order.

    The first and the last are kept, and each that differs from the one that was kept last. Fewer
    than `least`: that many, evenly spaced, in their place. More than `most`: that many of them.
    differ: whether the second frame shows something else than the first; for a camera that moves
    `overlap.shows_little_of`, as Embodied-R has it (arXiv 2504.12680).
    ValueError if there are no frames, or limits that no film can meet.

        frames a a a b b c c c, least 2   ->   [0, 3, 5, 7]
    """
    if not len(frames) or not 1 <= least <= most:
        actual = f"{len(frames)} frames, least {least} and most {most}"
        wanted = "a frame, and 1 <= least <= most"
        raise refusal("key frames", actual, wanted, "least=4 and most=32 would do")
    kept = [0]
    for k in range(1, len(frames)):
        if differ(frames[kept[-1]], frames[k]):
            kept.append(k)
    last = len(frames) - 1
    if kept[-1] != last:
        kept.append(last)
    if len(kept) < least:
        return _spread(len(frames), least)
    return [kept[k] for k in _spread(len(kept), most)]


def _spread(total: int, count: int) -> list[int]:
    """Returns at most `count` numbers from 0 to total - 1, evenly spaced, with both ends."""
    if total <= count:
        return list(range(total))
    if count == 1:
        return [total - 1]
    # total = 10, count = 4: 0, 3, 6, 9.
    return [round(k * (total - 1) / (count - 1)) for k in range(count)]


# 2. Films of rows


@dataclasses.dataclass(frozen=True)
class Frames:
    """What is shown of a film."""

    images: list[Image.Image]
    seconds: tuple[float, ...]  # of each, from the film's start; () if nobody knows


@dataclasses.dataclass(frozen=True)
class StoredVideo:
    """A film as a path, as the bytes of a file, or as frames, and what a row asks of it.

    What is None is not asked, and the run's settings (`config.Video`) hold.
    """

    source: str | os.PathLike | bytes | tuple[StoredImage, ...]
    num_frames: int | None = None  # so many, evenly spaced
    fps: float | None = None  # so many a second, at most `max_frames`
    min_frames: int | None = None  # with fps
    max_frames: int | None = None
    start: float | None = None  # seconds: the part of the film that is shown
    end: float | None = None
    last: bool = False  # the last frame alone, as one image

    @property
    def is_file(self) -> bool:
        return not isinstance(self.source, tuple)

    def check(self) -> None:
        """Raises VideoError for a file that is missing or too large, and ImportError without PyAV.

        Nothing is decoded.
        """
        if self.is_file:
            import_av()
            with _opened(self.source):
                pass
            return
        if self.start is not None or self.end is not None or self.fps is not None:
            change = "leave them out"
            wanted = "these with a film's file alone"
            _refuse("frames", "fps, start or end", wanted, change, "video_format")
        for image in self.source:
            _ = image.size

    def read(self) -> bytes | list[bytes]:
        """Returns the bytes of the file, or those of each frame."""
        if not self.is_file:
            return [image.read() for image in self.source]
        with _opened(self.source) as file:
            return file.read()

    def decode(
        self, settings: Video, *, side: int = 0, conversion: str = "served"
    ) -> Frames:
        """Decodes the frames that are shown, in order.

        side: a frame is stretched to side x side pixels at once, to save memory; 0: it is kept as
        it is. VideoError if the film or what is asked of it is beyond a limit; ImageError for a
        frame that is an image file; ImportError without PyAV.
        """
        most = settings.max_frames
        for name in ("num_frames", "min_frames"):
            wanted = getattr(self, name) or 0
            if wanted > most:
                change = f"ask for less or raise data.video.max_frames = {most}"
                _refuse("video", f"{name} {wanted}", f"at most {most}", change)
        if not self.is_file:
            return self._images(settings, side, conversion)

        def choose(times: Sequence[float]) -> list[int]:
            return self._choose(times, settings)

        return read_frames(
            self.source, choose, max_seconds=settings.max_seconds, side=side
        )

    def _choose(self, times: Sequence[float], settings: Video) -> list[int]:
        """Chooses the frames of a film whose frames are shown at these seconds."""
        first, end = _part(times, self.start, self.end)
        total = end - first
        if self.last:
            return [end - 1]
        count = self.num_frames
        fps = self.fps or (settings.fps if count is None else 0)
        if fps:
            # 10 frames from second 0.0 to 0.9 last one second. At 2.5 frames a second: 2 of them.
            seconds = times[end - 1] - times[first]
            seconds += seconds / (total - 1) if total > 1 else 0
            most = min(self.max_frames or settings.max_frames, settings.max_frames)
            count = max(1, self.min_frames or 1, int(seconds * fps + 1e-6))
            count = min(count, most)
        elif count is None:
            count = min(settings.frames, self.max_frames or settings.frames)
            count = max(count, self.min_frames or 1)
        return [first + k for k in frame_indices(total, count)]

    def _images(self, settings: Video, side: int, conversion: str) -> Frames:
        """Decodes frames that are image files: all of them, or the most that are wanted."""
        if not self.source:
            _refuse("video", "no frames", "at least 1", "drop the row", "video_damaged")
        most = self.num_frames or self.max_frames or settings.max_frames
        most = min(most, settings.max_frames)
        numbers = range(len(self.source))
        if self.last:
            numbers = numbers[-1:]
        elif len(numbers) > most:
            numbers = frame_indices(len(numbers), most)
        images = []
        for k in numbers:
            image = self.source[k].decode(conversion)
            images.append(_stretched(image, side))
            pixels = sum(image.width * image.height for image in images)
            _check_kept(pixels, "video")
        return Frames(images, ())


def _part(
    times: Sequence[float], start: float | None, end: float | None
) -> tuple[int, int]:
    """Returns (the number of the first frame, and of the one behind the last) of a part of a film.

    The first frame is the one nearest to `start`, the last the one nearest to `end`: with a
    constant rate these are InternVL's round(start * fps) and round(end * fps).

        times 0.0 0.5 1.0 1.5 2.0, start 0.6, end 1.4   ->   (1, 4): 0.5, 1.0 and 1.5
    """

    def nearest(second: float) -> int:
        return min(range(len(times)), key=lambda k: abs(times[k] - second))

    length = times[-1]
    # A part may end a little behind the last frame, which is shown until the film ends.
    if start is not None and start > length:
        actual = f"a part from {start:g} s on"
        wanted = f"a start within its {length:.2f} s"
        _refuse("video", actual, wanted, "check start", "video_damaged")
    first = 0 if start is None else nearest(start)
    last = len(times) - 1 if end is None else nearest(end)
    return first, max(first, last) + 1


# 3. Files


def video_frames(
    source: str | os.PathLike | bytes | Sequence[Image.Image],
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

    def choose(times: Sequence[float]) -> list[int]:
        return frame_indices(len(times), num_frames)

    return read_frames(source, choose, max_pixels=max_pixels).images


def read_frames(
    source: str | os.PathLike | bytes,
    choose: Choice,
    *,
    max_pixels: int = MAX_FRAME_PIXELS,
    max_seconds: float = float("inf"),
    side: int = 0,
) -> Frames:
    """Decodes the frames of a file that `choose` chooses; repeated numbers repeat a frame.

    max_pixels: of one frame. side: as in `StoredVideo.decode`. VideoError for whatever is wrong
    with the film, ImportError without PyAV.
    """
    name = "bytes" if isinstance(source, bytes) else repr(str(source))
    with _opened(source) as file:
        with _video_stream(file, name, max_pixels) as (container, stream):
            times = _packet_times(container, stream, name, max_seconds)
        # Usually every packet becomes a frame and one attempt is enough. If some do not (hidden or
        # damaged), the frames that really came out are chosen from anew.
        attempts = 3 if times else 0
        for _ in range(attempts):
            numbers = choose(times)
            with _video_stream(file, name, max_pixels) as (container, stream):
                kept, decoded = _decode(container, stream, set(numbers), side, name)
            if len(decoded) == len(times):
                seconds = tuple(round(times[k], 3) for k in numbers)
                return Frames([kept[k] for k in numbers], seconds)
            if not decoded:
                break
            times = decoded
    actual = "no frames, or never the same number"
    change = "write it again or drop it"
    _refuse(name, actual, "an intact video", change, "video_damaged")


def _packet_times(container, stream, name: str, max_seconds: float) -> list[float]:
    """Returns when each frame is shown, in seconds from the first; decodes nothing.

    VideoError for more frames, pixels or seconds than are allowed.
    """
    pixels = stream.codec_context.width * stream.codec_context.height
    most = min(MAX_FRAMES, MAX_DECODED_PIXELS // pixels)
    stamps = []
    count = 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        count += 1
        if count > most:
            actual = f"more than {most} frames of {pixels} pixels"
            wanted = f"at most {MAX_FRAMES}, and {MAX_DECODED_PIXELS} pixels in all"
            _refuse(name, actual, wanted, "cut it or scale it down")
        # What an edit list cuts off is decoded, so it counts, and is never shown.
        if not packet.is_discard:
            stamps.append(packet.pts if packet.pts is not None else packet.dts)
    times = _seconds(stamps, stream)
    if times and times[-1] > max_seconds:
        change = "cut it, or raise data.video.max_seconds"
        _refuse(name, f"{times[-1]:.1f} s", f"at most {max_seconds:g} s", change)
    return times


def _seconds(stamps: list[int | None], stream) -> list[float]:
    """Turns time stamps into seconds from the first frame, in the order of showing.

    A file without stamps has its frames as far apart as its rate says.
    """
    if None not in stamps and stream.time_base:
        first = min(stamps, default=0)
        return [float((stamp - first) * stream.time_base) for stamp in sorted(stamps)]
    rate = float(stream.average_rate or 0) or 25.0
    return [k / rate for k in range(len(stamps))]


def _decode(
    container, stream, wanted: set[int], side: int, name: str
) -> tuple[dict, list]:
    """Decodes a stream; returns ({number: image} of the wanted frames, seconds of all frames).

    name: of the file, for errors.
    """
    kept = {}
    stamps = []
    all_pixels = 0
    for frame in container.decode(stream):
        # Frames may be larger than the header says, from any one on.
        all_pixels += frame.width * frame.height
        if all_pixels > MAX_DECODED_PIXELS:
            actual = f"more than {MAX_DECODED_PIXELS} pixels of all frames"
            wanted = f"at most {MAX_DECODED_PIXELS}"
            _refuse(name, actual, wanted, "cut it or scale it down")
        if len(stamps) in wanted:
            image = _stretched(_upright(frame, name), side)
            kept[len(stamps)] = image
            pixels = sum(image.width * image.height for image in kept.values())
            _check_kept(pixels, name)
        stamps.append(frame.pts)
    return kept, _seconds(stamps, stream)


def _upright(frame, name: str) -> Image.Image:
    """Returns a frame as the container says that it is to be shown."""
    rotation = frame.rotation % 360
    if rotation and rotation not in ROTATIONS:
        actual = f"a rotation of {rotation} degrees"
        change = "write it again upright"
        _refuse(name, actual, "a multiple of 90", change, "video_format")
    image = frame.to_image()
    # A mirrored frame is upside down before it is turned: left for right is that and half a turn.
    if _is_mirrored(frame):
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image.transpose(ROTATIONS[rotation]) if rotation else image


def _is_mirrored(frame) -> bool:
    """Whether the container says that a frame is shown as in a mirror, besides being turned."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    # ISO 14496-12, 8.3.2: a point (x, y) goes to (a x + c y, b x + d y).
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    return a * d < b * c


def _stretched(image: Image.Image, side: int) -> Image.Image:
    """Returns a frame as the one tile that is cut of it: `tiling.tile` leaves it as it is."""
    if not side:
        return image
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _check_kept(pixels: int, name: str) -> None:
    if pixels > MAX_KEPT_PIXELS:
        change = "scale it down, ask for fewer frames, or for one tile each"
        wanted = f"at most {MAX_KEPT_PIXELS}"
        _refuse(name, f"frames of {pixels} pixels", wanted, change)


def import_av():
    """Imports PyAV; ImportError, with what to install, if there is none."""
    try:
        import av  # optional, and only needed for files
    except ImportError:
        raise ImportError(
            "a video file needs PyAV: pip install r1v3_jax[video]"
        ) from None
    return av


@contextlib.contextmanager
def _opened(source):
    """Opens a film's file, or its bytes, for reading; VideoError if there are none or too many."""
    if isinstance(source, bytes):
        opened = io.BytesIO(source)
        size = len(source)
    else:
        opened = open_file(source)
        size = os.fstat(opened.fileno()).st_size
    with opened as file:
        name = "bytes" if isinstance(source, bytes) else repr(str(source))
        if not size:
            change = "write it again or drop the row"
            _refuse(name, "0 bytes", "a video", change, "video_damaged")
        if size > MAX_VIDEO_BYTES:
            wanted = f"at most {MAX_VIDEO_BYTES}"
            _refuse(name, f"{size} bytes", wanted, "cut it or scale it down")
        yield file


@contextlib.contextmanager
def _video_stream(file, name: str, max_pixels: int):
    """Opens a video file from its start; yields (container, stream).

    Any error while it is open becomes a VideoError, except those of the machine.
    """
    av = import_av()
    file.seek(0)
    options = {"format_whitelist": VIDEO_FORMATS}
    width = 0
    height = 0
    is_opened = False
    try:
        # The open file, not its name: FFmpeg would follow names such as http:// and concat:.
        with av.open(file, options=options, metadata_errors="replace") as container:
            is_opened = True
            stream = _moving_pictures(av, container)
            # The context is None if there is no decoder for the stream.
            codec = stream.codec_context if stream else None
            if codec:
                width = codec.width
                height = codec.height
            if 1 <= width * height <= max_pixels:
                # The decoder checks the size too, because it may grow midway.
                codec.options = {"max_pixels": str(max_pixels)}
                # Rows are decoded in threads; a second one here would hold more frames.
                codec.thread_count = 1
                yield container, stream
                return
    except ImageError:
        raise
    # PyAV trips over damage in its own ways too: OSError, IndexError, UnicodeDecodeError.
    except Exception as error:
        # FFmpeg calls damage "Input/output error" too. Errors of reading the file come from Python
        # and are none of FFmpeg's.
        if not isinstance(error, av.FFmpegError):
            raise_machine_error(error)
        reason = "video_damaged" if is_opened else "video_format"
        wanted = f"an intact video ({VIDEO_FORMATS})"
        change = "convert it or write it again"
        text = str(refusal(name, repr(error), wanted, change))
        raise VideoError(text, reason) from error
    wanted = f"video of at most max_pixels = {max_pixels}"
    change = "scale it, convert it or raise max_pixels"
    if width:
        actual = f"video of {width} x {height} pixels"
        _refuse(name, actual, wanted, change)
    _refuse(name, "no video stream to decode", wanted, change, "video_format")


def _moving_pictures(av, container):
    """Returns the first video stream that is not a still, as the cover of a song is."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None


def _refuse(
    name: str, actual: str, wanted: str, change: str, reason: str = "video_size"
):
    raise VideoError(str(refusal(name, actual, wanted, change)), reason)
