"""The chat on a terminal: reads lines, prints answers as they come, thoughts dimmed."""

import contextlib
import os
import sys
from typing import TextIO

from r1v3_jax.chat.conversation import Conversation
from r1v3_jax.chat.models import Model, Sampling, Unavailable
from r1v3_jax.engine.requests import EngineStopped, QueueFull

HELP = """/image FILE    shows the model a picture, with the next question; so do more of them
/think off|on  answers without thoughts, or with them
/save FILE     writes this chat as a line of JSON
/new           begins a new chat
/quit          leaves; so does Ctrl-D
Ctrl-C stops an answer. A line that ends in \\ goes on in the next one."""
PROMPT = "> "
DIM = "\x1b[2m"
PLAIN = "\x1b[0m"


class Terminal:
    """A chat between a person and a model."""

    def __init__(
        self,
        model: Model,
        sampling: Sampling,
        chat: Conversation,
        output: TextIO = sys.stdout,
    ):
        self.model = model
        self.sampling = sampling
        self.chat = chat
        self.output = output
        has_colours = output.isatty() and not os.environ.get("NO_COLOR")
        self.dim = DIM if has_colours else ""
        self.plain = PLAIN if has_colours else ""

    def run(self) -> None:
        """Chats until the end of the input."""
        # With it lines can be edited, and come again with the arrow keys.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        while True:
            try:
                line = self.read()
            except EOFError:
                self.say("")
                return
            except KeyboardInterrupt:
                self.say("\n(Ctrl-D or /quit leaves)")
                continue
            if line.strip() == "/quit":
                return
            self.handle(line)

    def read(self) -> str:
        """Returns the next line of the person, with those that go on."""
        line = input(PROMPT)
        while line.endswith("\\"):
            line = line[:-1] + "\n" + input("  ")
        return line

    def handle(self, line: str) -> None:
        """Does what a line says: a command, or a question."""
        text = line.strip()
        if not text:
            return
        # Two slashes: a question that begins with one.
        if text.startswith("/") and not text.startswith("//"):
            name, _, argument = text.partition(" ")
            self.command(name, argument.strip())
        else:
            self.answer(text[1:] if text.startswith("//") else text)

    def command(self, name: str, argument: str) -> None:
        """Does a command, or says what is wrong with it."""
        if name == "/help":
            self.say(HELP)
        elif name == "/new":
            self.chat.forget()
            self.say("(a new chat)")
        elif name == "/think" and argument in ("on", "off"):
            self.chat.thinking = argument == "on"
            self.say(f"(thinking is {argument})")
        elif name == "/image" and argument:
            self.attach(argument)
        elif name == "/save" and argument:
            self.save(argument)
        elif name in ("/image", "/save", "/think"):
            wanted = "off or on" if name == "/think" else "FILE"
            self.say(f"({name} wants {wanted}; /help)")
        else:
            self.say(
                f"(no command {printable(name)}; /help. A question may begin with //)"
            )

    def attach(self, path: str) -> None:
        """Adds a picture to the next question."""
        try:
            width, height = self.chat.attach(path)
        except (OSError, ValueError) as error:
            self.say(f"(no picture: {printable(str(error))})")
        else:
            self.say(
                f"({printable(path)}, {width} x {height}, goes with the next question)"
            )

    def save(self, path: str) -> None:
        """Keeps the chat in a file."""
        try:
            self.chat.save(path)
        except FileExistsError:
            self.say(f"({printable(path)} is there already; take another name)")
        except OSError as error:
            self.say(f"(not saved: {error.strerror})")
        else:
            self.say(f"(saved to {printable(path)})")

    def answer(self, text: str) -> None:
        """Asks the model, and prints what it says. Ctrl-C ends the answer, not the chat."""
        question, turn = self.chat.question(text)
        thoughts = []
        answer = []
        reason = None
        tokens = 0
        pieces = self.model.ask(question, self.sampling)
        try:
            with contextlib.closing(pieces):
                for piece in pieces:
                    self.show(
                        piece.thoughts, piece.answer, bool(thoughts), bool(answer)
                    )
                    thoughts += [piece.thoughts] if piece.thoughts else []
                    answer += [piece.answer] if piece.answer else []
                    tokens += piece.tokens
                    reason = piece.finish_reason
        except KeyboardInterrupt:
            self.say(f"{self.plain} (stopped)")
        except (
            ValueError, OSError, FloatingPointError, Unavailable, QueueFull, EngineStopped
        ) as error:  # fmt: skip
            # Nothing was answered: the question may be asked again, with its pictures.
            self.say(f"{self.plain}(no answer: {printable(str(error))})")
            return
        else:
            self.say(self.plain)
        if not thoughts and not answer:
            return
        if reason == "length":
            self.say(f"(cut after {tokens} tokens; --max_tokens)")
        self.chat.add(turn, "".join(thoughts), "".join(answer))

    def show(
        self, thoughts: str, answer: str, had_thoughts: bool, had_answer: bool
    ) -> None:
        """Prints what came, thoughts dimmed, and a line between them and the answer."""
        if thoughts:
            self.write(self.dim + printable(thoughts) + self.plain)
        if answer:
            is_first = (had_thoughts or thoughts) and not had_answer
            self.write(("\n\n" if is_first else "") + printable(answer))

    def say(self, text: str) -> None:
        """Prints a line of the program itself."""
        self.write(text + "\n")

    def write(self, text: str) -> None:
        """Prints at once."""
        self.output.write(text)
        self.output.flush()


def printable(text: str) -> str:
    """Returns text that cannot steer a terminal: control characters become visible."""
    return "".join(
        character if character in "\n\t" or _is_harmless(character) else "\ufffd"
        for character in text
    )


def _is_harmless(character: str) -> bool:
    code = ord(character)
    # C0, DEL and C1; signs that turn the direction of a line around; halves of surrogates.
    is_control = code < 32 or 127 <= code < 160
    is_turning = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    return not (is_control or is_turning or 0xD800 <= code < 0xE000)
