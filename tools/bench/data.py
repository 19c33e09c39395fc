"""Measures how fast rows become batches on this machine, and how busy it is with that.

python tools/bench/data.py --seconds=20

The rows have JPEG pictures of 448 pixels a side, cut from photographs and turned, each with a
question and a chain of thought. They take the path of a supervised stage: read, decoded, tokenised,
packed, cut into tiles, put on the device.
"""

import contextlib
import dataclasses
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from PIL import Image

from r1v3_jax import cli
from r1v3_jax.config import SFT, Data, load
from r1v3_jax.data import Rows, packing, placement
from r1v3_jax.data.reader import Reader
from r1v3_jax.pipeline.start import make_processor, write_tokenizer
from r1v3_jax.processing.processor import Processor
from r1v3_jax.sharding import TRAIN
from r1v3_jax.stages.kinds import open_reader

SECONDS = flags.DEFINE_integer("seconds", 20, "To measure for.", lower_bound=1)
PICTURES = flags.DEFINE_integer("pictures", 200, "Different ones.", lower_bound=1)
SIDE = flags.DEFINE_integer("side", 448, "Pixels.", lower_bound=1)
THREADS = flags.DEFINE_integer(
    "threads", 0, "That decode; 0: one a core.", lower_bound=0
)


def main():
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        # The digits' tokenizer, with tiles and positions as large models have them.
        config = load.load_config("digits")
        write_tokenizer(config, directory)
        vision = dataclasses.replace(config.model.vision, image_size=448)
        text = dataclasses.replace(config.model.text, max_positions=32768)
        model = dataclasses.replace(config.model, vision=vision, text=text)
        config = dataclasses.replace(config, model=model)
        processor = make_processor(config, directory)
        stage = SFT(train=write_rows(directory), rows=8, row_tokens=4096, tiles=8 * 13)
        reader = open_reader(stage, processor, Data(threads=THREADS.value))
        measure(reader, processor, stage)


def write_rows(directory: Path) -> Rows:
    """Writes pictures, and a file of questions about them."""
    from sklearn.datasets import load_sample_images  # two photographs

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(0)
    size = (SIDE.value, SIDE.value)
    path = directory / "rows.jsonl"
    with path.open("w") as file:
        for number in range(PICTURES.value):
            photo = photos[number % 2].rotate(float(rng.uniform(-10, 10)))
            x, y = rng.integers(0, 150, 2).tolist()
            picture = photo.crop((x, y, x + 400, y + 250)).resize(size)
            picture.save(directory / f"{number}.jpg", quality=90)
            row = {
                "question": "How many digits?",
                "answer": "3",
                "chain": "</think>\\boxed{3}",
                "images": [f"{number}.jpg"],
            }
            file.write(json.dumps(row) + "\n")
    return Rows(str(path))


def measure(reader: Reader, processor: Processor, stage: SFT) -> None:
    """Prints rows and tiles a second, and the share of the cores' time that was used."""
    mesh = jax.sharding.get_mesh()
    placed = (
        (placement.place(batch, TRAIN, mesh), consumed)
        for batch, consumed in packing.packed_batches(reader, processor, stage)
    )
    batches = placement.prefetch(placed)
    tokens_per_tile = processor.config.image_tokens_per_tile
    rows = 0
    tiles = 0
    count = 0
    with contextlib.closing(batches), contextlib.closing(reader):
        # The first batch waits for the threads to start.
        _, start = next(batches)
        start_time = time.perf_counter()
        start_cpu = cpu_seconds()
        while time.perf_counter() - start_time < SECONDS.value:
            batch, consumed = next(batches)
            rows = consumed.cursor - start.cursor
            image_tokens = int((batch.image_index >= 0).sum())
            tiles += image_tokens // tokens_per_tile
            count += 1
        wall = time.perf_counter() - start_time
        cpu = cpu_seconds() - start_cpu
    cores = os.cpu_count() or 1
    print(
        f"{count} batches of {rows / count:.0f} rows in {wall:.1f} s: {rows / wall:.0f} rows and "
        f"{tiles / wall:.0f} tiles of 448 pixels a second; {cpu / wall / cores:.0%} of the time "
        f"of {cores} cores was used, {1000 * cpu / rows:.1f} ms a row"
    )


def cpu_seconds() -> float:
    """Returns the CPU seconds of all threads so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    cli.run(main)
