"""Tells the thoughts of an answer from the answer itself, while it comes in."""

BEGIN = "<think>"
END = "</think>"


class Splitter:
    r"""Splits one answer into thoughts and answer. Joined, its pieces do not depend on the cuts.

    Newlines beside </think> belong to neither:

        "It has whis" "kers.\n</th" "ink>\n\nA cat."
    ->  thoughts "It has whiskers.", answer "A cat."
    """

    def __init__(self, opens_thought: bool):
        """opens_thought: the answer begins inside the thoughts. Else only a <think> opens them."""
        self.held = ""  # may be the beginning of a mark
        self.is_open = opens_thought
        self.may_open = not opens_thought
        self.after_end = False  # only newlines have come since </think>

    def feed(self, text: str, last: bool = False) -> tuple[str, str]:
        """Returns (thoughts, answer) of what came in. last: nothing follows."""
        text = self.held + text
        self.held = ""
        # 1. The first characters decide whether there are thoughts.
        if self.may_open:
            begun = text.lstrip()
            if not last and len(begun) < len(BEGIN) and BEGIN.startswith(begun):
                self.held = text
                return "", ""
            self.may_open = False
            if begun.startswith(BEGIN):
                self.is_open = True
                text = begun.removeprefix(BEGIN)

        # 2. The thoughts end at the first </think>.
        thoughts = ""
        if self.is_open:
            before, mark, text = text.partition(END)
            if mark:
                thoughts = before.rstrip("\n")
                self.is_open = False
                self.after_end = True
            else:
                keep = 0 if last else _held_back(before)
                thoughts = before[: len(before) - keep]
                self.held = before[len(before) - keep :]
                return thoughts, ""

        # 3. The rest is the answer.
        if self.after_end:
            text = text.lstrip("\n")
            self.after_end = not text
        return thoughts, text


def _held_back(text: str) -> int:
    r"""Returns how many characters at the end may belong to </think>: 4 of "cat.\n\n</"."""
    mark = next(n for n in range(len(END) - 1, -1, -1) if text.endswith(END[:n]))
    before = text[: len(text) - mark]
    return mark + len(before) - len(before.rstrip("\n"))


class ThoughtCounter:
    """Counts the tokens of the thoughts of one answer, </think> included."""

    def __init__(self, opens_thought: bool):
        self.is_open = opens_thought
        self.may_open = not opens_thought
        self.tail = ""  # the text so far, as much as a mark may need
        self.tokens = 0
        self.seen = 0

    def feed(self, text: str) -> None:
        """Counts one token."""
        self.seen += 1
        if self.may_open:
            self.tail += text
            begun = self.tail.lstrip()
            if begun.startswith(BEGIN):
                self.is_open = True
                self.tokens = self.seen
                self.tail = begun.removeprefix(BEGIN)
            # As long as it may become one.
            self.may_open = not self.is_open and BEGIN.startswith(begun)
            return
        if self.is_open:
            self.tokens += 1
            self.tail += text
            self.is_open = END not in self.tail
            self.tail = self.tail[-len(END) :]
