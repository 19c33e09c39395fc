"""Pictures for tests of images and videos, and a process that measures its memory."""

import importlib.util
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="memory is read from /proc"
)
RNG = np.random.default_rng(0)


def noise(width, height):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def gradient(width, height):
    y, x = np.mgrid[0:height, 0:width]
    rgb = [255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)]
    return Image.fromarray(np.stack(rgb, axis=-1).astype(np.uint8))


def photos():
    if importlib.util.find_spec("sklearn") is None:
        return []
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(x) for x in load_sample_images().images]


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_chunk(kind, data):
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


def black_png(width, height, *, rows=None, extra=b""):
    """A grey PNG written row by row: its pixels never exist in memory at once. rows: fewer."""
    compressor = zlib.compressobj(9)
    lines = [compressor.compress(bytes(1 + width)) for _ in range(rows or height)]
    data = b"".join(lines) + compressor.flush()
    # 8 bits, grey, deflate, adaptive filter, not interlaced
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (
        png_chunk(b"IHDR", header),
        extra,
        png_chunk(b"IDAT", data),
        png_chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PNG = encoded(noise(60, 40), "PNG")
JPEG = encoded(noise(60, 40), "JPEG")


def assert_same_bits(ours, reference):
    assert ours.dtype == reference.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.uint32), reference.view(np.uint32))


def open_files():
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


def run_measured(code, *arguments):
    """Runs code in a fresh process; returns what it prints, split at spaces."""
    prelude = """
import sys, time
from pathlib import Path
from r1v3_jax.processing import image_files, video

def peak_mb():  # ru_maxrss would start at the size of the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

"""
    command = [sys.executable, "-c", prelude + code, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split()
