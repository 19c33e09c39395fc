"""What a comparison of arms consists of: the field they differ in, what they share, each run."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from r1v3_jax.config import Run
from r1v3_jax.fields import algorithm_fields, children, flatten_fields

# Fields in which arms may differ besides: they change no number.
LABELS = ("name",)
# Fields of a stage that say which stages it follows: another order, not another stage.
EDGES = ("start", "carry")
# A field that follows from which stages there are.
FOLLOWS = ("evaluate.after",)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Arms and seeds, and the directory that everything is written to."""

    config: str  # the name of the recipe, as --config has it
    arms: dict[str, Run]
    shared: tuple[str, ...]  # the stages that are made once, for all arms of the recipe
    seeds: tuple[int, ...]
    directory: Path
    flags: tuple[str, ...] = ()  # of the launcher, for every run

    @property
    def start(self) -> Path:
        """The directory of the stages that all arms share."""
        return self.directory / "start"

    def workdir(self, arm: str, seed: int) -> Path:
        """Returns the directory of one run."""
        return self.directory / arm / f"seed_{seed}"

    def runs(self) -> Iterator[tuple[str, int]]:
        """Yields (arm, seed) of each run: all arms of a seed, then the next seed."""
        for seed in self.seeds:
            for arm in self.arms:
                yield arm, seed

    def run(self, arm: str, seed: int) -> Run:
        """Returns the config of one run."""
        return dataclasses.replace(self.arms[arm], seed=seed)


def differing_fields(a: Run, b: Run) -> list[str]:
    """Returns the fields in which two runs differ, as ["grpo.kl_coef"].

    An object of an algorithm, as a loss or a schedule, is one field whatever is in it. The same
    change of a field in several stages is one difference: ["chains1, chains2: keep"].
    """
    # 1. The fields, by what is changed: rounds of a config change one thing in each of them.
    other_stages = list(a.stages) != list(b.stages)
    changes: dict[tuple, list[str]] = {}
    for path, before, after in _differing_paths(a, b, ""):
        stage, _, field = path.partition(".")
        in_a_stage = stage in a.stages or stage in b.stages
        if field in EDGES or (other_stages and (in_a_stage or path in FOLLOWS)):
            continue
        if not in_a_stage:
            stage, field = "", path
        key = (field, tuple(before.items()), tuple(after.items()))
        changes.setdefault(key, []).append(stage)

    # 2. In words. Other stages, or another order of them, are one difference.
    words = []
    if other_stages or _edges(a) != _edges(b):
        words.append("stages")
    for (field, *_), stages in changes.items():
        if stages == [""]:
            words.append(field)
        elif len(stages) == 1:
            # A stage of another kind differs as a whole: it has no field.
            words.append(f"{stages[0]}.{field}".rstrip("."))
        else:
            words.append(f"{', '.join(stages)}: {field}")
    return words


def _edges(run: Run) -> dict[str, tuple]:
    """Returns what each stage says about which stages it follows."""
    return {
        name: tuple(getattr(stage, edge, "") for edge in EDGES)
        for name, stage in run.stages.items()
    }


def baselines(arms: dict[str, Run]) -> dict[str, tuple[str, list[str]]]:
    """Returns what each arm but the first is compared to, and in which fields it differs from that.

    It is the first arm, unless an arm differs from that in several fields, and from the arm before
    it in one: then that one.

        {"none": ..., "held": ..., "long": ...} -> {"held": ("none", ["grpo.kl_coef"]), ...}
    """
    first, *others = arms
    before = first
    found = {}
    for arm in others:
        fields = differing_fields(arms[first], arms[arm])
        found[arm] = (first, fields)
        step = differing_fields(arms[before], arms[arm])
        if len(fields) != 1 and len(step) == 1:
            found[arm] = (before, step)
        before = arm
    return found


def _differing_paths(a, b, prefix: str) -> Iterator[tuple[str, dict, dict]]:
    """Yields (path, words of a, words of b) of each field that differs."""
    # Only two configs of one type have fields to compare one by one.
    whole = {*algorithm_fields(a), *algorithm_fields(b)}
    fields = children(b)
    for name, value in children(a).items():
        # A stage that only one of the runs has.
        if name not in fields:
            continue
        path = f"{prefix}{name}"
        other = fields[name]
        words = _words(value), _words(other)
        if path in LABELS or words[0] == words[1]:
            continue
        can_descend = dataclasses.is_dataclass(value) and type(value) is type(other)
        if can_descend and name not in whole:
            yield from _differing_paths(value, other, f"{path}.")
        else:
            yield path, *words


def _words(value) -> dict[str, str]:
    """Writes a field's value so that equal words mean equal values."""
    return {"type": type(value).__name__, **flatten_fields(value, "value")}


def shared_stages(arms: dict[str, Run]) -> list[str]:
    """Returns the stages before the first one in which the arms differ, in order."""
    runs = list(arms.values())
    first = runs[0]
    shared = []
    for position, name in enumerate(first.stages):
        for run in runs:
            names = list(run.stages)
            if position >= len(names) or names[position] != name:
                return shared
            if run.identity(name) != first.identity(name):
                return shared
            # What is measured after it must be the same too, else its accuracy is another one.
            if measured_after(run, name) != measured_after(first, name):
                return shared
        shared.append(name)
    return shared


def measured_after(run: Run, stage: str) -> dict[str, str]:
    """Returns how a stage is measured, in words; {} if it is not."""
    entry = run.evaluate.after_stage(stage)
    return {} if entry is None else _words(run.evaluate.asked(entry))
