"""The terminal: a panel on a screen, lines elsewhere, and nothing of the one in the other."""

import fcntl
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from r1v3_jax.run.progress import ASCII_BLOCKS, BLOCKS, Panel, fitted, sparkline

# A stage of 12 steps, with everything that may print beside the panel.
STAGE = """
import os, sys, time, warnings
from absl import logging
from r1v3_jax.run.metrics import Logger

logging.use_absl_handler()  # as a command of the program does
with Logger(sys.argv[1], total_steps=12, stage="grpo") as logger:
    for step in range(12):
        values = {"reward": step / 10, "accuracy": 0.5, "entropy": 1.25, "tokens_per_s": 3210.4}
        if step == 4:
            logging.warning("a warning of the program")
            values["alarm/zero_signal"] = 1
        if step == 6:
            print("two lines\\nof a library")
        if step == 8:
            os.write(2, b"past everything\\n")
        logger.log(step, values)
        time.sleep(float(sys.argv[2]))
logging.warning("the end")
"""


class Screen:
    """What a terminal of so many columns shows of what was written to it."""

    def __init__(self, columns: int):
        self.columns = columns
        self.rows: list[list[str]] = [[]]
        self.row = 0
        self.column = 0

    def write(self, text: str) -> None:
        """Does what the letters and the sequences that a panel uses say."""
        for part in re.findall(r"\x1b\[\d*[A-Z]|\x1b|[^\x1b]", text):
            if part == "\x1b[J":
                del self.rows[self.row + 1 :]
                del self.rows[self.row][self.column :]
            elif match := re.fullmatch(r"\x1b\[(\d+)A", part):
                self.row = max(0, self.row - int(match[1]))
            elif part == "\r":
                self.column = 0
            elif part == "\n":
                self._next_row()
            else:
                assert not part.startswith("\x1b"), repr(part)
                self._letter(part)

    def _next_row(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])

    def _letter(self, letter: str) -> None:
        if self.column == self.columns:
            self._next_row()
            self.column = 0
        row = self.rows[self.row]
        row.extend(" " * (self.column + 1 - len(row)))
        row[self.column] = letter
        self.column += 1

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.rows]


def set_columns(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def run_on_a_terminal(tmp_path, columns: int, **environment) -> tuple[str, list]:
    """Runs STAGE with a terminal of its own; returns what came, and (bytes so far, text) pairs."""
    ours, theirs = pty.openpty()
    set_columns(ours, columns)
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE, str(tmp_path), "0.01"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environment},
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so at the end
            break
        if not part:
            break
        text += part
    assert process.wait(60) == 0
    os.close(ours)
    # The terminal writes a carriage return in front of each new line.
    return text.decode()


@pytest.mark.parametrize("columns", [80, 40])
def test_a_screen_has_a_panel_and_readable_logs(tmp_path, columns):
    """Proves: on the screen every log line stands alone, in order, and at the end one line of the
    stage is left; before it the panel has curve, time left, speed, memory and the alarm.
    """
    text = run_on_a_terminal(tmp_path, columns)
    screen = Screen(columns)
    screen.write(text)
    lines = [line for line in screen.lines if line]
    library = lines.index("two lines")
    assert "".join(lines[:library]).endswith(":11] a warning of the program")
    rest = lines[library:]
    assert rest[:3] == ["two lines", "of a library", "past everything"]
    assert "".join(rest).endswith("] the end")
    assert "".join(rest[3:]).startswith("grpo 12/12  reward 1.1  accuracy 0.5")
    assert len(rest) <= 9

    # The panel as it stood after step 11: what came before the end of the stage.
    before = Screen(columns)
    last = text.rindex("\r\x1b[J", 0, text.index("grpo 12/12"))
    before.write(text[:last])
    panel = [line for line in before.lines if line][-5:]
    assert panel[0].startswith("grpo 11/12") and "left 00:0" in panel[0]
    assert re.match(r"reward 1  [▁▂▃▄▅▆▇█]+  0 to 1$", panel[1])
    assert panel[2].startswith("accuracy 0.5  entropy 1.25")
    assert panel[3].startswith("3,210 tokens/s  host ")
    assert panel[4] == "alarm at step 5: zero signal"
    assert max(map(len, panel)) < columns


def test_a_pipe_gets_lines_without_sequences(tmp_path):
    """Proves: not a terminal, or one that cannot move its cursor: a line a step, as in a file."""
    command = [sys.executable, "-c", STAGE, str(tmp_path / "a"), "0"]
    piped = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert piped.returncode == 0, piped.stderr
    dumb = run_on_a_terminal(tmp_path / "b", 80, TERM="dumb")
    for text in (piped.stdout, dumb.replace("\r\n", "\n")):
        assert "\x1b" not in text and "\r" not in text
        steps = re.findall(r"^grpo (\d+)/12  reward", text, re.M)
        assert steps == [str(i) for i in range(1, 13)]


class Terminal:
    """A stream that is a terminal of `columns`, without one."""

    encoding = "utf-8"

    def __init__(self, columns: int):
        self.columns = columns
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


def test_a_window_that_changes_its_size(monkeypatch):
    """Proves: from the next step on no line is longer than the window, down to 30 columns, and the
    cursor is back on the panel's first line: a narrower window folds only what is below it.
    """
    terminal = Terminal(80)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(
        "r1v3_jax.run.progress.screen_size", lambda stream: (stream.columns, 24)
    )
    panel = Panel("grpo", 100, 0)
    values = {"reward": 0.5, "accuracy": 0.5, "grad_norm": 1.0, "tokens_per_s": 1e6}
    try:
        for step, columns in enumerate([80, 40, 120, 30]):
            terminal.columns = columns
            terminal.text = ""
            panel.log(step, values, "host 12.3 GiB  device 61.0 of 95.7 GiB")
            lines = terminal.text.split("\n")
            assert lines[0] == "\r\x1b[J"
            assert lines[-1].endswith(f"\x1b[{len(lines) - 1}A\r")
            shown = [re.sub(r"\x1b\[\d+A\r", "", line) for line in lines[1:]]
            assert len(shown) == 5
            assert max(map(len, shown)) < columns
    finally:
        panel.close()
    assert sys.stdout is terminal


@pytest.mark.parametrize("height", [1, 2, 4])
def test_a_window_of_few_lines_has_as_many_as_fit(monkeypatch, height):
    """Proves: the cursor comes back to where it was: "up by 0" would be up by 1."""
    terminal = Terminal(80)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(
        "r1v3_jax.run.progress.screen_size", lambda stream: (80, height)
    )
    panel = Panel("grpo", 100, 0)
    try:
        terminal.text = ""
        panel.log(0, {"reward": 0.5}, "host 1.0 GiB")
        count = {1: 1, 2: 1, 4: 2}[height]
        assert terminal.text.count("\n") == count
        assert terminal.text.endswith(f"\x1b[{count}A\r")
    finally:
        panel.close()


def test_a_screen_without_unicode_has_a_curve_of_its_letters(monkeypatch):
    terminal = Terminal(80)
    terminal.encoding = "ANSI_X3.4-1968"
    monkeypatch.setattr(sys, "stdout", terminal)
    panel = Panel("base", 4, 0)
    for step, loss in enumerate([3.0, 2.0, 1.0]):
        panel.log(step, {"loss": loss}, "host 1.0 GiB")
    panel.close()
    assert terminal.text.isascii()
    assert "loss 1  @=.  1 to 3" in terminal.text


@pytest.mark.parametrize(
    ("curve", "width", "drawn"),
    [
        ([0, 4, 8], 3, "▁▄█"),
        ([0, 4, 8], 10, "▁▄█"),  # no letter more than steps
        ([0, 0, 8, 8], 2, "▁█"),
        ([0, 2, 4, 8, 8], 2, "▁█"),  # steps 0 and 1, then 2 to 4
        ([5, 5], 2, "▄▄"),
        ([0, math.nan, 8], 3, "▁ █"),
        ([math.nan], 1, " "),
        ([], 5, ""),
        ([1, 2], -3, ""),
    ],
)
def test_a_sparkline_written_out(curve, width, drawn):
    assert sparkline(curve, width) == drawn
    assert len(BLOCKS) == len(ASCII_BLOCKS)


def test_words_that_fit():
    assert fitted(["loss 1", "reward 2"], 16) == "loss 1  reward 2"
    assert fitted(["loss 1", "reward 2"], 15) == "loss 1"
    assert fitted([], 15) == ""


def test_a_step_of_a_panel_costs_little(tmp_path, monkeypatch):
    """Proves: after 20,000 steps drawing takes less than 20 ms, so no run is slowed down by it."""
    terminal = Terminal(80)
    monkeypatch.setattr(sys, "stdout", terminal)
    panel = Panel("grpo", 20_001, 0)
    panel.curve = [i % 7 for i in range(20_000)]
    started = time.process_time()
    panel.log(20_000, {"reward": 1.0}, "host 1.0 GiB")
    assert time.process_time() - started < 0.02
    panel.close()
