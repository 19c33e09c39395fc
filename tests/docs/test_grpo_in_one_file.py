"""The smallest useful program runs: a supervised step, then GRPO, without the launcher."""

import importlib.util
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "docs/grpo_in_one_file.py"


def test_it_learns_from_digits_without_the_launcher(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("grpo_in_one_file", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.setattr(sys, "argv", [PROGRAM.name, "--warmup=2", "--steps=2"])
    program.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["warm-up", "0"],
        ["grpo", "0"],
        ["grpo", "1"],
    ]


def test_it_is_short():
    assert len(PROGRAM.read_text(encoding="utf-8").splitlines()) <= 120
