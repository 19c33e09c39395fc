"""What WORKDIR/rollouts keeps of a step: one JSON row a sample, and the images it was asked about.

Names of fields are verl's where verl has them. The short fields come first and the lists of tokens
last, so that a reader may leave the lists out.
"""

import concurrent.futures
import dataclasses
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

from r1v3_jax.files import atomic_file
from r1v3_jax.processing.image_files import StoredImage, open_image
from r1v3_jax.rollout.group import Group

FOLDER = "images"  # beside the rows
# The first bytes of files that are kept as they are; every browser shows them.
KEPT = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg"}
# Of a question; of more, as the frames of a film, some are kept, evenly from first to last.
MOST_IMAGES = 16
# Pixels above which an image without a file, as a frame, becomes a JPEG: a PNG of it is large.
LARGE = 256 * 256


@dataclasses.dataclass(frozen=True)
class Learnt:
    """What an update was told about the tokens of a group's samples."""

    advantages: list[np.ndarray]  # float32[T] of each sample
    # float32[T] of each sample: log p by the trainer, where a step computes it before its update.
    old_logprobs: list[np.ndarray] | None = None


def json_rows(
    groups: list[Group],
    *,
    step: int = 0,
    learnt: list[Learnt] | None = None,
    images: list[list[str]] | None = None,
) -> Iterator[dict]:
    """Yields one JSON row a sample.

    learnt, images: of each group; images are names of files, relative to the rows' folder.
    """
    for p, group in enumerate(groups):
        names = images[p] if images else []
        for g in range(len(group.texts)):
            yield {
                **_question_fields(group, step, names),
                **_score_fields(group, g),
                **_token_fields(group, g, learnt[p] if learnt else None),
            }


def _question_fields(group: Group, step: int, images: list[str]) -> dict:
    """Returns what all samples of a group share."""
    example = group.example
    # Of most questions there are no earlier turns.
    before = {"before": [list(turn) for turn in example.before]}
    return {
        "id": example.id,
        "step": step,
        "source": example.source,
        "images": images,
        "tiles": [int(count) for count in group.prompt.tiles.counts],
        **(before if example.before else {}),
        "prompt": example.question,
        "answer": example.answer,
    }


def _score_fields(group: Group, g: int) -> dict:
    """Returns the text of a sample, and what it is worth."""
    score = group.scores[g]
    return {
        "sample": g,
        "completion": group.texts[g],
        "reward": score.total,
        "accuracy": score.accuracy,
        "format": score.format,
        "terms": score.parts,
        "weights": score.weights,
        "problem": score.problem,
        "verdict": score.verdict.name.lower(),
        "extracted": score.extracted,
        "reason": score.reason,
        "length": int(group.completions.lengths[g]),
        "ended": bool(group.completions.ended[g]),
    }


def _token_fields(group: Group, g: int, learnt: Learnt | None) -> dict:
    """Returns the numbers of each token of a sample: two means, then the lists.

    advantage: the sample's. The list `advantages` is there only if some of its tokens have another,
    forced only if the thinking budget chose some: their places.
    """
    completions = group.completions
    # Slots behind the end of a sample hold padding.
    size = int(completions.lengths[g])
    logprobs = completions.logprobs[g, :size]
    means = {}
    lists = {
        "tokens": completions.tokens[g, :size].tolist(),
        "logprobs": six_digits(logprobs),
        "entropies": six_digits(completions.entropies[g, :size]),
    }
    forced = np.flatnonzero(~completions.chosen[g, :size])
    if len(forced):
        lists["forced"] = forced.tolist()
    if learnt is not None:
        advantages = six_digits(learnt.advantages[g])
        # A token that the advantage does not push has 0.
        means["advantage"] = max(advantages, key=abs, default=0.0)
        if len({*advantages}) > 1:
            lists["advantages"] = advantages
        if learnt.old_logprobs is not None:
            old = learnt.old_logprobs[g]
            gap = np.abs(logprobs.astype(np.float64) - old)
            means["gap"] = round(float(gap.mean()), 6) if size else 0.0
            lists["old_log_probs"] = six_digits(old)
    return means | lists


def six_digits(numbers: np.ndarray) -> list[float]:
    """Rounds to six decimals: float32 holds no more."""
    return np.round(numbers.astype(np.float64), 6).tolist()


class Pictures:
    """Saves the images of written samples below `directory`/images, each once, by its content.

    A thread encodes and writes. Pictures are for people: if one cannot be saved, that is logged and
    the run goes on.
    """

    def __init__(self, directory: Path):
        self.folder = Path(directory) / FOLDER
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: dict[str, concurrent.futures.Future] = {}

    def save(self, group: Group) -> list[str]:
        """Begins to save the images of a group; returns a name for each, as "images/1f.png".

        "" for an image that is not kept.
        """
        images = group.example.images
        places = np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES))
        kept = {*places.round().astype(int).tolist()}
        names = []
        for i, image in enumerate(images):
            if i not in kept:
                names.append("")
                continue
            try:
                names.append(f"{FOLDER}/{self._save(image)}")
            # A file that was there when the question was read may be gone.
            except (OSError, ValueError) as error:
                names.append("")
                name = group.example.id
                logging.warning("an image of %s is not kept: %s", name, error)
        return names

    def _save(self, image: Image.Image | StoredImage) -> str:
        """Begins to save an image unless it is there; returns the name of its file."""
        # A picture that was made has no file: its pixels are its content.
        if isinstance(image, StoredImage):
            content = image.read()
            head = b""
            kept = (KEPT[magic] for magic in KEPT if content.startswith(magic))
            suffix = next(kept, "")
        else:
            content = image.tobytes()
            head = f"{image.mode} {image.size} ".encode()
            is_large = image.width * image.height > LARGE
            suffix = "jpg" if is_large and image.mode == "RGB" else ""
        digest = hashlib.sha256(head + content).hexdigest()[:24]
        name = f"{digest}.{suffix or 'png'}"
        if name not in self._pending and not (self.folder / name).exists():
            source = content if isinstance(image, StoredImage) else image
            as_it_is = isinstance(image, StoredImage) and bool(suffix)
            task = self._pool.submit(_write, self.folder / name, source, as_it_is)
            self._pending[name] = task
        return name

    def wait(self) -> None:
        """Waits until every picture is on the disk."""
        for name, task in self._pending.items():
            error = task.exception()
            if error is not None:
                logging.warning("%s was not saved: %s", self.folder / name, error)
        self._pending = {}

    def close(self) -> None:
        """Waits, and ends the thread."""
        self.wait()
        self._pool.shutdown()


def _write(path: Path, source: bytes | Image.Image, as_it_is: bool) -> None:
    """Writes a picture; as_it_is: the bytes of a file that browsers show."""
    with atomic_file(path) as partial:
        if as_it_is:
            partial.write_bytes(source)
            return
        image = open_image(source) if isinstance(source, bytes) else source
        file = io.BytesIO()
        # Modes that PNG has not, as CMYK, are shown as RGB.
        shown = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
        shown.save(file, "JPEG" if path.suffix == ".jpg" else "PNG", quality=90)
        partial.write_bytes(file.getvalue())
