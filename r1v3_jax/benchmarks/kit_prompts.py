"""Takes prompts from an installed VLMEvalKit, whose sentences are not in this program.

The kit reads its own file, so its prompts are those of pandas' reading (`--missing=kit`).
"""

import os
from pathlib import Path

from r1v3_jax.benchmarks.prompts import Asked, Placement


def read(name: str, data: Path, placement: Placement) -> dict[str, Asked]:
    """Returns the kit's prompt of every row that it can read, by its index.

    The kit writes images below `data`. ValueError if it is not installed, or does not know the
    benchmark.
    """
    # The kit asks for this folder when it is imported; else it takes one in the user's home.
    os.environ["LMUData"] = str(data)
    try:
        from vlmeval.dataset import build_dataset
    except ImportError as error:
        raise ValueError(
            f"--prompts=kit takes prompts from VLMEvalKit, which cannot be imported ({error}): "
            "pip install ms-vlmeval"
        ) from None
    dataset = build_dataset(name)
    if dataset is None:
        raise ValueError(f"--prompts=kit: VLMEvalKit has no benchmark {name}")
    asked = {}
    for row in range(len(dataset)):
        line = dataset.data.iloc[row]
        try:
            files = dataset.dump_image(line) if "image" in line else line["image_path"]
            messages = dataset.build_prompt(line)
        except Exception:  # a foreign program, at a row that it does not expect
            continue
        files = [files] if isinstance(files, str) else list(files)
        asked[str(line["index"])] = arrange(messages, files, placement)
    return asked


def arrange(messages: list[dict], files: list[str], placement: Placement) -> Asked:
    """Returns the kit's messages, whose images are files, with the number of each image.

    [{"type": "image", "value": "b.png"}, {"type": "text", "value": "Is it?"}], ["a.png", "b.png"]
    ->  1, "Is it?"
    """
    parts = tuple(
        files.index(message["value"])
        if message["type"] == "image"
        else message["value"]
        for message in messages
    )
    if placement == "interleaved":
        return Asked(tuple(part for part in parts if part != ""))
    images = [part for part in parts if isinstance(part, int)]
    texts = [part for part in parts if isinstance(part, str) and part]
    return Asked((*images, "\n".join(texts)))
