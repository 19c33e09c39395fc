"""What a field may hold, and a config in words that are the same in every process."""

import dataclasses
import functools
import subprocess
import sys

import pytest

from r1v3_jax.config import load_config
from r1v3_jax.config.fields import flatten_fields, one_of, require


@dataclasses.dataclass(frozen=True)
class Inner:
    lr: float = 1e-5


class Source:
    def __init__(self, start):
        self.start = start

    def next(self, index):
        return self.start + index


def plain(index):
    return index


def enclosing(start):
    return lambda index: start + index


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    shape: tuple = (1, 2)
    one: tuple = ("a",)
    source: object = plain


def test_described_written_out():
    assert flatten_fields(Outer()) == {
        "inner.lr": "1e-05",
        "shape": "(1, 2)",
        "one": "('a',)",
        "source": "plain",
    }
    assert flatten_fields(Outer(), "run")["run.inner.lr"] == "1e-05"


@pytest.mark.parametrize(
    "one, other",
    [
        (enclosing(3), enclosing(4)),
        (Source(3), Source(4)),
        (Source(3).next, Source(4).next),
        (functools.partial(plain, 3), functools.partial(plain, 4)),
        (lambda index, start=3: start, lambda index, start=4: start),
        ([plain, {"a": 3}], [plain, {"a": 4}]),
        ((Inner(1.0), plain), (Inner(2.0), plain)),
    ],
)
def test_sources_that_hold_other_things_are_told_apart(one, other):
    said, theirs = (flatten_fields(Outer(source=x))["source"] for x in (one, other))
    assert said != theirs and said.replace("3", "4").replace("1.0", "2.0") == theirs
    assert " at 0x" not in said


def test_a_config_is_described_alike_in_another_process():
    """Or the same command would be refused when it resumes."""
    code = (
        "from r1v3_jax.config_files import load_config\n"
        "from r1v3_jax.fields import described\n"
        "print(described(load_config('digits')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    here = flatten_fields(load_config("digits"))
    assert done.stdout.strip() == str(here), done.stderr
    assert not any(" at 0x" in value for value in here.values())


def test_what_is_refused_is_named():
    with pytest.raises(ValueError, match="Inner.lr is -1; it must be positive"):
        require(Inner(-1), "lr", lambda x: x > 0, "positive")
    with pytest.raises(ValueError, match="Inner.lr is 'c'; choose from a, b"):
        one_of(Inner("c"), "lr", ("a", "b"))
