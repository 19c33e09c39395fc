"""What tokens of a few answers took from their pictures: written by tools/look.py, shown on a page.

WORKDIR/report/heat has a picture a token, and heat.json with their numbers. The folder is kept when
the report is written anew. What it holds is read as what anybody may have written.
"""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from r1v3_jax.files import read_json, write_json
from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.report.pictures import SMALL, save
from r1v3_jax.report.samples import UNREADABLE, number

NAME = re.compile(r"[0-9]+_(image)?[0-9]+\.(png|jpg)")
SIDE = 168  # pixels of the longer side of a token's picture, at most
# Ends of the colour scale, told apart by any colour vision: likelier, less likely.
VIOLET = (84, 39, 136)
ORANGE = (179, 88, 6)


@dataclasses.dataclass(frozen=True)
class TokenHeat:
    """One token of an answer, and its picture."""

    place: int  # in the answer, from 0
    text: str
    nats: (
        float | None
    )  # log p with the pictures, less log p had every part looked like their mean
    image: int  # of the question, from 1: the one that gave it most
    picture: str  # an address relative to the report
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class HeatSample:
    """One answer, with the tokens to which its pictures mattered most."""

    id: str
    prompt: str
    answer: str  # what was wanted
    verdict: str
    step: str  # of which step, in words
    completion: str
    scale: float | None  # nats on one part of a picture that have the full colour
    pictures: list[tuple[str, int, int, str]]  # address, width, height, class
    tokens: list[TokenHeat]


def draw_heat(image: Image.Image, heat: np.ndarray, scale: float) -> Image.Image:
    """Draws a copy of a picture with its heat, float[rows, columns] in nats, on a scale in nats.

    Violet parts made the token likelier, orange parts less likely.
    """
    # 1. The picture in pale grey: colours can be told apart on what was black, too.
    factor = SIDE / max(image.size)
    size = tuple(max(1, round(side * factor)) for side in image.size)
    is_small = max(image.size) <= SMALL
    method = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    grey = np.asarray(image.convert("L").resize(size, method), np.float64)[..., None]
    grey = 128 + grey * (127 / 255)

    # 2. Each part has one colour, as strong as its nats.
    strength = np.clip(np.abs(heat) / max(scale, 1e-9), 0, 1)
    part = np.where(heat[..., None] >= 0, VIOLET, ORANGE).astype(np.float64)
    layers = np.concatenate([part, 255 * strength[..., None]], axis=-1)
    cells = Image.fromarray(layers.round().astype(np.uint8), "RGBA")
    laid = np.asarray(cells.resize(size, Image.Resampling.NEAREST), np.float64)
    cover = 0.75 * laid[..., 3:] / 255
    mixed = grey * (1 - cover) + laid[..., :3] * cover
    return Image.fromarray(mixed.round().astype(np.uint8), "RGB")


def write_heat(report: Path, samples: list[dict], about: dict) -> Path:
    """Writes WORKDIR/report/heat in place of an earlier one; returns the folder.

    samples: the fields of `HeatSample`, with "images" (PIL) and, of each token, its "heat" over
    the image that gave it most. about: what else heat.json says.
    """
    folder = report / "heat"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = []
    for i, sample in enumerate(samples):
        images = sample.pop("images")
        peaks = [float(np.abs(token["heat"]).max()) for token in sample["tokens"]]
        scale = max(peaks, default=0.0)
        copies = []
        for k, image in enumerate(images):
            copy = image.convert("RGB")
            copy.thumbnail((2 * SIDE, 2 * SIDE))
            copies.append(f"{i}_image{k}.{_kind(copy)}")
            save(copy, folder / copies[-1])
        for token in sample["tokens"]:
            heat = token["heat"]
            drawn = draw_heat(images[token["image"] - 1], heat, scale)
            token["picture"] = f"{i}_{token['place']}.{_kind(drawn)}"
            save(drawn, folder / token["picture"])
            token["heat"] = np.round(heat, 6).tolist()
        rows.append({**sample, "pictures": copies, "scale": scale})
    write_json(folder / "heat.json", {**about, "samples": rows})
    return folder


def _kind(image: Image.Image) -> str:
    """Returns "png" for a picture with few colours, as large squares of pixels have, else "jpg"."""
    return "png" if image.getcolors(4096) else "jpg"


def read_heat(report: Path, notes: list[str]) -> tuple[str, list[HeatSample]]:
    """Returns (the checkpoint, samples) of WORKDIR/report/heat; nothing if there is none.

    What is damaged becomes a note.
    """
    path = report / "heat" / "heat.json"
    if not path.exists():
        return "", []
    try:
        found = read_json(path)
        samples = [_sample(report, row) for row in found["samples"]]
        return str(found.get("checkpoint", "")), samples
    # Of another version, cut off, or edited by hand.
    except (OSError, *UNREADABLE) as error:
        notes.append(f"report/heat cannot be read ({error!r}); tools/look.py anew.")
        return "", []


def _sample(report: Path, row: dict) -> HeatSample:
    """Reads a sample of heat.json."""
    texts = {
        name: str(row.get(name, ""))
        for name in ("id", "prompt", "answer", "verdict", "step", "completion")
    }
    tokens = []
    for token in row["tokens"]:
        address, width, height = _picture(report, token["picture"])
        tokens.append(
            TokenHeat(
                place=int(token["place"]),
                text=str(token["text"]),
                nats=number(token["nats"]),
                image=int(token["image"]),
                picture=address,
                width=width,
                height=height,
            )
        )
    pictures = []
    for name in row["pictures"]:
        address, width, height = _picture(report, name)
        kind = "small" if max(width, height) <= SMALL else ""
        pictures.append((address, width, height, kind))
    return HeatSample(
        **texts, scale=number(row["scale"]), pictures=pictures, tokens=tokens
    )


def _picture(report: Path, name: str) -> tuple[str, int, int]:
    """Returns (address, width, height) of a picture. ValueError for one that is not ours."""
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of a picture")
    width, height = StoredImage(report / "heat" / name).size
    return f"heat/{name}", width, height
