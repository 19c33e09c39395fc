"""How far a stage is, on the terminal: a line a step, or a panel where there is a screen.

The panel stays below what else is printed: it is drawn from the cursor downward, and then the
cursor goes back to its first line, which is empty. So a line that a library prints past it lands
there, a narrower window only changes what is below the cursor, and a run that is killed leaves the
terminal as it was.
"""

import math
import os
import shutil
import sys
import threading
import time

from absl import logging
from tqdm import tqdm

# On a line, in this order; everything else is in the file.
SHOWN = (
    "loss",
    "eval/loss",
    "reward",
    "accuracy",
    "format",
    "eval/accuracy",
    "entropy",
    "critical_entropy",
    "completions/mean_length",
    "grad_norm",
    "lr",
    "tokens_per_s",
)
# The curve of the panel: the first of these that a stage has.
CURVES = ("reward", "loss")
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#@"
CLEAR = "\x1b[J"  # from the cursor to the end of the screen
NARROWEST = 30  # columns that a panel needs


def progress(stage: str, total_steps: int, resume_step: int) -> "Lines | Panel":
    """Returns a panel for a terminal that can move its cursor, else lines."""
    is_screen = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if is_screen and screen_size(sys.stdout)[0] >= NARROWEST:
        return Panel(stage, total_steps, resume_step)
    return Lines(stage, total_steps)


class Pace:
    """Seconds a step, and the time left. The first step compiles: it is measured from its end."""

    def __init__(self, total_steps: int):
        self.total_steps = total_steps
        self.first: tuple[int, float] | None = None  # a step, and when it was done

    def after(self, step: int) -> list[str]:
        """Returns ["1.9 s/step", "left 01:52"] after a step; [] where neither is known."""
        now = time.perf_counter()
        if self.first is None:
            self.first = (step, now)
            return []
        if step + 1 >= self.total_steps:
            return []
        first_step, first_time = self.first
        pace = (now - first_time) / (step - first_step)
        left = tqdm.format_interval(pace * (self.total_steps - step - 1))
        return [f"{pace:.3g} s/step", f"left {left}"]


class Lines:
    """Prints a line a step."""

    def __init__(self, stage: str, total_steps: int):
        self.stage = stage
        self.total_steps = total_steps
        self.pace = Pace(total_steps)

    def log(self, step: int, values: dict[str, float], memory: str) -> None:
        """Shows a step."""
        words = [*numbers(values, SHOWN), *self.pace.after(step)]
        head = f"{self.stage} {step + 1}/{self.total_steps}"
        print("  ".join([head, *words]), flush=True)

    def close(self) -> None:
        """Nothing is left to do."""


class Panel:
    """Shows where a stage is in a few lines that are drawn anew after each step."""

    def __init__(self, stage: str, total_steps: int, resume_step: int):
        self.stage = stage
        self.total_steps = total_steps
        self.pace = Pace(total_steps)
        self.done = resume_step
        self.values: dict[str, float] = {}
        self.curve: list[float] = []
        self.words: list[str] = []  # pace and time left
        self.memory = ""
        self.alarm = "no alarm"
        self.stream = sys.stdout
        self.is_closed = False
        self.lock = threading.RLock()  # a thread may print while the panel is drawn
        # What is printed from here on, by whomever, goes above the panel.
        self._streams = (sys.stdout, sys.stderr)
        self._handler = logging.get_absl_handler().python_handler
        self._handler_stream = self._handler.stream
        sys.stdout = _Above(self, sys.stdout)
        if sys.stderr.isatty():
            sys.stderr = _Above(self, sys.stderr)
            self._handler.setStream(sys.stderr)

    def log(self, step: int, values: dict[str, float], memory: str) -> None:
        """Shows a step."""
        self.done = step + 1
        self.values = values
        self.memory = memory
        self.words = self.pace.after(step)
        name = next((name for name in CURVES if name in values), None)
        if name is not None:
            self.curve.append(values[name])
        ringing = [x for x in values if x.startswith("alarm/")]
        if ringing:
            names = ", ".join(
                x.removeprefix("alarm/").replace("_", " ") for x in ringing
            )
            self.alarm = f"alarm at step {step + 1}: {names}"
        self.draw()

    def draw(self) -> None:
        """Draws the panel below the cursor."""
        with self.lock:
            width, height = screen_size(self.stream)
            # One column stays free: a full line would begin another one.
            lines = [line[: width - 1] for line in self.lines(width - 1)]
            lines = lines[: max(1, height - 2)]
            text = "\n".join(["", *lines])
            self.stream.write(f"\r{CLEAR}{text}\x1b[{len(lines)}A\r")
            self.stream.flush()

    def lines(self, width: int) -> list[str]:
        """Returns the lines of the panel for so many columns."""
        is_unicode = "utf" in (self.stream.encoding or "").lower()
        blocks = BLOCKS if is_unicode else ASCII_BLOCKS

        # 1. How far, how fast.
        head = f"{self.stage} {self.done}/{self.total_steps}"
        tail = "  ".join(self.words)
        room = width - len(head) - len(tail) - 6
        filled = round(max(0, room) * self.done / max(1, self.total_steps))
        bar = f"  [{blocks[-1] * filled}{' ' * (room - filled)}]" if room >= 4 else ""
        out = [f"{head}{bar}  {tail}"]

        # 2. The curve, with its last value and its range.
        name = next((name for name in CURVES if name in self.values), None)
        if name is not None:
            label = f"{name} {self.values[name]:.4g}  "
            known = [x for x in self.curve if math.isfinite(x)] or [math.nan]
            ends = f"  {min(known):.3g} to {max(known):.3g}"
            room = min(60, width - len(label) - len(ends))
            out.append(f"{label}{sparkline(self.curve, room, blocks)}{ends}")

        # 3. Other numbers, as many as there is room for; memory; the last alarm.
        shown = [x for x in SHOWN if x not in (name, "tokens_per_s")]
        out.append(fitted(numbers(self.values, shown), width))
        speed = self.values.get("tokens_per_s")
        speeds = [f"{speed:,.0f} tokens/s"] if speed is not None else []
        out.append(fitted([*speeds, self.memory], width))
        out.append(self.alarm)
        return out

    def close(self) -> None:
        """Removes the panel, and leaves the line of the last step."""
        self.is_closed = True
        if isinstance(sys.stdout, _Above):
            sys.stdout, sys.stderr = self._streams
            self._handler.setStream(self._handler_stream)
        head = f"{self.stage} {self.done}/{self.total_steps}"
        line = "  ".join([head, *numbers(self.values, SHOWN), self.alarm])
        self.stream.write(f"\r{CLEAR}{line}\n")
        self.stream.flush()


class _Above:
    """A stream whose text appears above the panel."""

    def __init__(self, panel: Panel, stream):
        self._panel = panel
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, with the panel out of the way until the line has ended."""
        with self._panel.lock:
            # A handler of logs may keep this stream for longer than there is a panel.
            if self._panel.is_closed:
                return self._stream.write(text)
            count = self._stream.write(f"{CLEAR}{text}")
            self._stream.flush()
            if text.endswith("\n"):
                self._panel.draw()
        return count

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def numbers(values: dict[str, float], names) -> list[str]:
    """Returns ["reward 0.5", ...] of those names that there are."""
    return [f"{name} {values[name]:.4g}" for name in names if name in values]


def fitted(words: list[str], width: int) -> str:
    """Returns as many words as fit into a line, from the first on."""
    line = ""
    for word in words:
        longer = f"{line}  {word}" if line else word
        if len(longer) > width:
            break
        line = longer
    return line


def sparkline(curve: list[float], width: int, blocks: str = BLOCKS) -> str:
    """Draws a curve in one line of `width` letters; a letter is the mean of some steps.

    [0, 4, 8] in 3 letters   ->   "▁▄█"; what is not finite is a blank
    """
    count = min(max(width, 0), len(curve))
    means = []
    for i in range(count):
        # 5 steps in 2 letters: the steps 0 and 1, then 2 to 4.
        part = curve[i * len(curve) // count : (i + 1) * len(curve) // count]
        known = [x for x in part if math.isfinite(x)]
        means.append(sum(known) / len(known) if known else math.nan)
    known = [x for x in means if math.isfinite(x)]
    if not known:
        return " " * count
    low = min(known)
    height = max(known) - low
    levels = len(blocks) - 2  # the first letter is the blank

    def letter(mean: float) -> str:
        if not math.isfinite(mean):
            return blocks[0]
        share = (mean - low) / height if height else 0.5
        return blocks[1 + int(share * levels)]

    return "".join(map(letter, means))


def screen_size(stream) -> tuple[int, int]:
    """Returns columns and lines of a terminal, as they are now."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        size = shutil.get_terminal_size()
    # Some consoles know neither.
    return size.columns or 80, size.lines or 24
