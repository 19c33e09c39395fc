"""Copies the pictures of shown samples into the report, small, each once.

The names come from a file that anybody may have written: only names that a run gives are opened.
"""

import dataclasses
import re
from pathlib import Path

from PIL import Image

from r1v3_jax.files import atomic_file
from r1v3_jax.processing.image_files import ImageError, open_image

NAME = re.compile(r"images/([0-9a-f]{8,64})\.(png|jpg)")
SIDE = 512  # pixels of a copy, at most
FLAT = (
    40_000  # pixels up to which a copy is a PNG; photographs above are smaller as JPEG
)
SMALL = 128  # pixels of a side up to which a picture is shown enlarged, pixel by pixel


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture on a page. address: relative to the report; empty if there is none to show."""

    address: str = ""
    width: int = 0
    height: int = 0
    kind: str = ""  # a class of the style sheet
    tiles: int = 0  # that the model saw it as; 0: not known
    number: int = 0  # among the images of its question, from 1
    problem: str = ""


class Gallery:
    """The pictures of a report."""

    def __init__(self, rollouts: Path, report: Path):
        self.rollouts = rollouts
        self.report = report
        self.used: set[str] = set()  # names of copies
        self._known: dict[str, Picture] = {}

    def pictures(self, names: list[str], tiles: list[int]) -> list[Picture]:
        """Returns the pictures of a question that have names; each is copied at its first use.

        Of a film some frames alone were kept: names ["images/1f.png", "", "images/2e.png"] are
        images 1 and 3.
        """
        return [
            self._picture(name, count, number)
            for number, (name, count) in enumerate(
                zip(names, tiles, strict=False), start=1
            )
            if name
        ]

    def _picture(self, name: str, tiles: int, number: int) -> Picture:
        if name not in self._known:
            self._known[name] = self._copy(name)
        return dataclasses.replace(self._known[name], tiles=tiles, number=number)

    def _copy(self, name: str) -> Picture:
        match = NAME.fullmatch(name)
        if match is None:
            return Picture(
                problem="The file of samples names an image that no run writes."
            )
        path = self.rollouts / name
        try:
            image = open_image(path)
        except (ImageError, OSError) as error:
            problem = (
                "was not saved"
                if isinstance(error, FileNotFoundError)
                else "is damaged"
            )
            return Picture(problem=f"The image {problem}.")
        image.thumbnail((SIDE, SIDE))
        is_flat = image.width * image.height <= FLAT
        copy = f"{match[1]}.{'png' if is_flat else 'jpg'}"
        self.used.add(copy)
        target = self.report / "images" / copy
        if not target.exists():
            save(image, target)
        kind = "small" if max(image.size) <= SMALL else ""
        return Picture(f"images/{copy}", image.width, image.height, kind)

    def tidy(self) -> None:
        """Removes copies that no page shows any more."""
        for path in (self.report / "images").glob("*"):
            if path.name not in self.used:
                path.unlink(missing_ok=True)


def save(image: Image.Image, target: Path) -> None:
    """Writes a copy; its name tells the kind."""
    kind = "PNG" if target.suffix == ".png" else "JPEG"
    with atomic_file(target) as partial:
        image.save(partial, kind, quality=85)
