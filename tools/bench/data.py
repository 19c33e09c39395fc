"""How fast rows become batches on this machine, and how busy it is with that.

python tools/bench/data.py --seconds=20

JPEG pictures of 448 pixels a side, of photographs cut and turned, with a question and a chain each,
go the way of a supervised stage: read, decoded, tokenised, packed, cut into tiles, in place.
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
from r1v3_jax.stages.kinds import open_reader
from r1v3_jax.pipeline.start import make_processor, write_tokenizer
from r1v3_jax.processing.processor import Processor
from r1v3_jax.sharding import TRAIN

SECONDS = flags.DEFINE_integer("seconds", 20, "To measure for.", lower_bound=1)
PICTURES = flags.DEFINE_integer("pictures", 200, "Different ones.", lower_bound=1)
SIDE = flags.DEFINE_integer("side", 448, "Pixels.", lower_bound=1)
THREADS = flags.DEFINE_integer(
    "threads", 0, "That decode; 0: one a core.", lower_bound=0
)


def main():
    with tempfile.TemporaryDirectory() as directory:
        config = load.load_config("digits")
        write_tokenizer(config, Path(directory))
        vision = dataclasses.replace(config.model.vision, image_size=448)
        text = dataclasses.replace(config.model.text, max_positions=32768)
        model = dataclasses.replace(config.model, vision=vision, text=text)
        processor = make_processor(
            dataclasses.replace(config, model=model), Path(directory)
        )
        stage = SFT(
            train=write_rows(Path(directory)), rows=8, row_tokens=4096, tiles=8 * 13
        )
        reader = open_reader(stage, processor, Data(threads=THREADS.value))
        measure(reader, processor, stage)


def write_rows(directory: Path) -> Rows:
    """A file of questions about the pictures it writes."""
    from sklearn.datasets import load_sample_images  # two photographs

    photos = [Image.fromarray(x) for x in load_sample_images().images]
    dice = np.random.default_rng(0)
    with (directory / "rows.jsonl").open("w") as file:
        for number in range(PICTURES.value):
            photo = photos[number % 2].rotate(float(dice.uniform(-10, 10)))
            left, top = dice.integers(0, 150, 2).tolist()
            cut = photo.crop((left, top, left + 400, top + 250)).resize(
                (SIDE.value, SIDE.value)
            )
            cut.save(directory / f"{number}.jpg", quality=90)
            row = {
                "question": "How many digits?",
                "answer": "3",
                "chain": "</think>\\boxed{3}",
            }
            file.write(json.dumps({**row, "images": [f"{number}.jpg"]}) + "\n")
    return Rows(str(directory / "rows.jsonl"))


def measure(reader: Reader, processor: Processor, stage: SFT) -> None:
    """Prints rows and tiles a second, and the share of the cores' time that was used."""
    mesh = jax.sharding.get_mesh()
    batches = packing.packed_batches(reader, processor, stage)
    batches = placement.prefetch(
        (placement.place(b, TRAIN, mesh), consumed) for b, consumed in batches
    )
    rows = tiles = count = 0
    with contextlib.closing(batches), contextlib.closing(reader):
        _, start = next(batches)
        began, used = time.perf_counter(), cpu_seconds()
        while time.perf_counter() - began < SECONDS.value:
            batch, consumed = next(batches)
            rows = consumed.cursor - start.cursor
            tiles += (
                int((batch.image_index >= 0).sum())
                // processor.config.image_tokens_per_tile
            )
            count += 1
        wall, used = time.perf_counter() - began, cpu_seconds() - used
    cores = os.cpu_count() or 1
    print(
        f"{count} batches of {rows / count:.0f} rows in {wall:.1f} s: {rows / wall:.0f} rows and "
        f"{tiles / wall:.0f} tiles of 448 pixels a second; {used / wall / cores:.0%} of the time "
        f"of {cores} cores was used, {1000 * used / rows:.1f} ms a row"
    )


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    cli.run(main)
