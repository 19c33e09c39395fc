"""Runs that were never run, for tests of their report; and a page as a browser would read it."""

import dataclasses
import html.parser
import json
from pathlib import Path

import numpy as np
from PIL import Image

from r1v3_jax.tasks import digits

PICTURE = "images/0123456789abcdef01234567.png"
VOCABULARY = digits.vocabulary()
# <|im_end|> is special: no part of the completion.
ENDED = ["4", "+", "2", "=", "6", ";", "\\boxed{", "6", "}", "<|im_end|>"]
VOID = {"meta", "link", "img", "input", "br", "hr", "path"}


def row(number: int = 0, **fields) -> dict:
    """Returns a row of a rollouts file, with numbers that differ from token to token."""
    tokens = [VOCABULARY.index(token) for token in ENDED]
    size = len(tokens)
    rng = np.random.default_rng(number)
    logprobs = np.round(-rng.exponential(1.0, size), 6)
    old = np.round(logprobs + rng.normal(0, 0.3, size), 6)
    return {
        "id": "digits/7",
        "step": 0,
        "source": "digits",
        "images": [PICTURE],
        "tiles": [1],
        "prompt": "<image>Add the rows.",
        "answer": "6",
        "sample": number,
        "completion": "4+2=6;\\boxed{6}",
        "reward": 1.0,
        "accuracy": 1.0,
        "format": 1.0,
        "terms": {"correct": 1.0},
        "weights": {"correct": 0.8},
        "problem": "",
        "verdict": "right",
        "extracted": "6",
        "reason": "equal",
        "length": size,
        "ended": True,
        "advantage": 0.7,
        "gap": round(float(np.abs(logprobs - old).mean()), 6),
        "tokens": tokens,
        "logprobs": logprobs.tolist(),
        "entropies": np.round(rng.exponential(0.6, size), 6).tolist(),
        "old_log_probs": old.tolist(),
        **fields,
    }


def write_run(workdir: Path, steps: dict[str, list[dict]], metrics: list[dict]) -> Path:
    """Writes a run: {name of a rollouts file: rows}, and the lines of metrics.jsonl."""
    digits.write_tokenizer(workdir / "tokenizer")
    (workdir / "rollouts" / "images").mkdir(parents=True)
    Image.new("RGB", (56, 56), "teal").save(workdir / "rollouts" / PICTURE)
    for name, rows in steps.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (workdir / "rollouts" / f"{name}.jsonl").write_text(lines)
    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    (workdir / "metrics.jsonl").write_text(lines)
    return workdir


def heat_sample(**fields) -> dict:
    """A sample as tools/look.py hands it to `write_heat`."""
    return {
        "id": "digits/7",
        "prompt": "Read the digits.",
        "answer": "4738",
        "verdict": "wrong",
        "completion": "<b>4",
        "step": "grpo probe, step 9",
        "images": [Image.new("L", (56, 56), 128)],
        "tokens": [
            {
                "place": 0,
                "text": "<b>",
                "nats": 1.25,
                "image": 1,
                "heat": np.array([[2.0, -1.0], [0.0, 0.25]]),
            }
        ],
        **fields,
    }


def is_within(value: float, words: str) -> bool:
    """Whether a value is where an entry of a legend says: "0.05 to 0.2", "from 2", "to -1"."""
    if words.startswith("within"):
        return abs(value) < float(words.split()[1])
    if words.startswith("below"):
        return value < float(words.split()[1])
    if words.startswith("from"):
        return value >= float(words.split()[1])
    if words.startswith("to"):
        return value <= float(words.split()[1])
    low, high = (float(word) for word in words.split(" to "))
    return low <= value < high or (high < 0 and low < value <= high)


@dataclasses.dataclass
class Element:
    """One element of a page."""

    tag: str
    attributes: dict[str, str | None]
    parents: list["Element"]
    text: str = ""  # of all that is inside

    @property
    def classes(self) -> set[str]:
        return {*(self.attributes.get("class") or "").split()}


class Page(html.parser.HTMLParser):
    """The elements of a page, in order, with their texts."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open, f"{path}: not closed: {self._open[-1].tag}"

    def handle_starttag(self, tag, attributes):
        element = Element(tag, dict(attributes), list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(Element(tag, dict(attributes), list(self._open)))

    def handle_endtag(self, tag):
        assert self._open[-1].tag == tag, f"</{tag}> ends <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def of_class(self, *names: str) -> list[Element]:
        """Returns the elements that have all of these classes."""
        return [x for x in self.elements if {*names} <= x.classes]
