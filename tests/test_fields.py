"""What a field may hold, and a config in words that are the same in every process."""

import dataclasses
import functools
import subprocess
import sys
from typing import Annotated, Literal

import pytest

from r1v3_jax.config import load_config
from r1v3_jax.fields import (
    TABLE,
    NonNegativeInt,
    PositiveFloat,
    Share,
    at_least,
    check,
    flatten_fields,
)


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
        "from r1v3_jax.config import load_config\n"
        "from r1v3_jax.fields import flatten_fields\n"
        "print(flatten_fields(load_config('digits')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    here = flatten_fields(load_config("digits"))
    assert done.stdout.strip() == str(here), done.stderr
    assert not any(" at 0x" in value for value in here.values())


@dataclasses.dataclass(frozen=True)
class Limited:
    lr: PositiveFloat = 1e-5
    steps: NonNegativeInt = 0
    share: Share = 0.5
    group_size: Annotated[int, at_least(2, "it compares")] = 8
    schedule: Literal["constant", "cosine"] = "constant"
    name: str = ""  # without a limit

    __post_init__ = check


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lr": 0.0}, "Limited.lr is 0.0; it must be positive"),
        ({"lr": float("nan")}, "Limited.lr is nan; it must be positive"),
        ({"steps": -1}, "Limited.steps is -1; it must be at least 0"),
        ({"share": 1.5}, "Limited.share is 1.5; it must be between 0 and 1"),
        (
            {"group_size": 1},
            "Limited.group_size is 1; it must be at least 2: it compares",
        ),
        ({"schedule": "c"}, "Limited.schedule is 'c'; choose from constant, cosine"),
    ],
)
def test_a_value_beyond_the_limit_of_its_field_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Limited(**change)


def test_values_at_their_limits_pass():
    assert Limited(lr=1e-30, steps=0, share=1.0, group_size=2, name="any").share == 1.0


@dataclasses.dataclass(frozen=True)
class Chosen:
    """An object with a fixed meaning, as a loss: it can be called."""

    high: float = 0.2

    def __call__(self):
        return self.high


@dataclasses.dataclass(frozen=True)
class Choosing:
    ALGORITHM = ("loss",)
    loss: object = Chosen()
    source: object = Chosen()


@dataclasses.dataclass(frozen=True)
class Table:
    stages: dict = dataclasses.field(metadata=TABLE)
    weights: dict = dataclasses.field(default_factory=dict)


def test_which_algorithm_was_chosen_is_a_field_of_its_own():
    """Not of a source: states of before name its fields alone."""
    assert flatten_fields(Choosing(loss=Chosen(0.3))) == {
        "loss": "Chosen",
        "loss.high": "0.3",
        "source.high": "0.2",
    }


def test_a_table_of_configs_has_its_names_at_the_top():
    table = Table({"second": Inner(2.0), "first": Inner(1.0)})
    assert flatten_fields(table) == {
        "second.lr": "2.0",
        "first.lr": "1.0",
        "weights": "{}",
    }


def test_a_dict_of_configs_that_is_no_table_stays_one_field():
    table = Table({}, weights={"lr": Inner(2.0)})
    assert flatten_fields(table) == {"weights": "{'lr': Inner(lr=2.0)}"}


def test_every_part_of_a_run_is_described():
    """Also a field whose hint holds a list, as Callable[[str], float] does."""
    run = load_config("digits")
    for name in run.stages:
        assert run.identity(name)
    assert flatten_fields(run.verify, "verify")["verify.answer"] == "find_boxes"
