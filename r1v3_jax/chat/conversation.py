"""One chat: its turns and images, what of it a model is asked, and the file it is kept in."""

import dataclasses
import json
from pathlib import Path

from r1v3_jax.chat.models import Question
from r1v3_jax.engine.requests import Turn
from r1v3_jax.processing.image_files import StoredImage


@dataclasses.dataclass
class Conversation:
    """A chat. Thoughts of earlier answers are kept, and not read again by the model."""

    system: str = ""
    thinking: bool = True
    turns: list[Turn] = dataclasses.field(default_factory=list)
    thoughts: list[str] = dataclasses.field(default_factory=list)  # of each answer
    images: list[StoredImage] = dataclasses.field(default_factory=list)
    paths: list[str] = dataclasses.field(default_factory=list)  # of the images
    asked: int = 0  # images that a turn has; the others go with the next question

    def attach(self, path: str) -> tuple[int, int]:
        """Adds an image for the next question; returns its size. ImageError, OSError."""
        image = StoredImage(Path(path).expanduser())
        size = image.size
        self.images.append(image)
        self.paths.append(path)
        return size

    @property
    def attached(self) -> list[str]:
        """Paths of the images that go with the next question."""
        return self.paths[self.asked :]

    def question(self, text: str) -> tuple[Question, Turn]:
        """Returns what the model is asked, and its last turn."""
        turn = Turn("user", (*range(self.asked, len(self.images)), text))
        system = [Turn("system", (self.system,))] if self.system else []
        turns = (*system, *self.turns, turn)
        return Question(turns, tuple(self.images), self.thinking), turn

    def add(self, turn: Turn, thoughts: str, answer: str) -> None:
        """Adds a question and its answer."""
        self.turns += [turn, Turn("assistant", (answer,))]
        self.thoughts.append(thoughts)
        self.asked = len(self.images)

    def forget(self) -> None:
        """Begins anew, with the same settings."""
        self.turns.clear()
        self.thoughts.clear()
        self.images.clear()
        self.paths.clear()
        self.asked = 0

    def save(self, path: str) -> None:
        """Writes the chat as a line of JSON. FileExistsError: nothing is replaced.

        The line can be read again by --prompts, without its last answer.
        """
        messages = [{"role": "system", "content": self.system}] if self.system else []
        thoughts = iter(self.thoughts)
        for turn in self.turns:
            message = {"role": turn.role, "content": "".join(_shown(turn))}
            if turn.role == "assistant":
                message["reasoning"] = next(thoughts)
            messages.append(message)
        images = [
            str(Path(path).expanduser().resolve()) for path in self.paths[: self.asked]
        ]
        row = {"messages": messages, "images": images}
        with Path(path).expanduser().open("x", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _shown(turn: Turn) -> list[str]:
    """Returns the parts of a turn as text, each image as <image> on its line."""
    return ["<image>\n" if isinstance(part, int) else part for part in turn.parts]
