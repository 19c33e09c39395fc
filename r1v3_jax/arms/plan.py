"""What a comparison of arms consists of: the field they differ in, what they share, each run."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from r1v3_jax.config import Run
from r1v3_jax.fields import algorithm_fields, children, flatten_fields

# Fields in which arms may differ besides: they change no number.
LABELS = ("name",)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Arms and seeds, and the directory that everything is written to."""

    config: str  # the name of the recipe, as --config has it
    arms: dict[str, Run]
    shared: tuple[str, ...]  # the stages that are made once, for all arms of the recipe
    seeds: tuple[int, ...]
    directory: Path
    # arm -> flags of the launcher that make its Run of the recipe's.
    flags: dict[str, list[str]] = dataclasses.field(default_factory=dict)

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


def differing_fields(arms: dict[str, Run]) -> list[str]:
    """Returns the fields in which the arms are not all equal, as ["grpo.kl_coef"].

    An object of an algorithm, as a loss or a schedule, is one field whatever is in it.
    """
    first, *others = arms.values()
    paths = {}
    for other in others:
        for path in _differences(first, other):
            paths[path] = None
    return list(paths)


def differing_by_arm(arms: dict[str, Run]) -> dict[str, list[str]]:
    """Returns the fields in which each arm differs from the first one, to which it is compared.

    {"none": ..., "held": ..., "long": ...} -> {"held": ["grpo.kl_coef"], "long": ["grpo.steps"]}
    """
    (first, baseline), *others = arms.items()
    return {arm: differing_fields({first: baseline, arm: run}) for arm, run in others}


def _differences(a: Run, b: Run) -> list[str]:
    # Other stages, or the same in another order, are one difference: which stages there are.
    if list(a.stages) != list(b.stages):
        return ["stages"]
    return list(_differing_paths(a, b, ""))


def _differing_paths(a, b, prefix: str) -> Iterator[str]:
    # Only two configs of one type have fields to compare one by one.
    whole = {*algorithm_fields(a), *algorithm_fields(b)}
    fields = children(b)
    for name, value in children(a).items():
        path = f"{prefix}{name}"
        other = fields[name]
        if path in LABELS or _words(value) == _words(other):
            continue
        can_descend = dataclasses.is_dataclass(value) and type(value) is type(other)
        if can_descend and name not in whole:
            yield from _differing_paths(value, other, f"{path}.")
        else:
            yield path


def _words(value) -> dict[str, str]:
    """Writes a field's value so that equal words mean equal values."""
    return {"type": type(value).__name__, **flatten_fields(value, "value")}


def shared_stages(arms: dict[str, Run]) -> list[str]:
    """Returns the stages before the first one in which the arms differ, in order."""
    runs = list(arms.values())
    first = runs[0]
    shared = []
    # What is measured after a stage must be the same too, else its accuracy is another one.
    if any(_words(run.evaluate) != _words(first.evaluate) for run in runs):
        return shared
    for position, name in enumerate(first.stages):
        for run in runs:
            names = list(run.stages)
            if position >= len(names) or names[position] != name:
                return shared
            if run.identity(name) != first.identity(name):
                return shared
        shared.append(name)
    return shared


def flags_between(run: Run, changed: Run) -> list[str]:
    """Returns the launcher's flags that make `changed` of `run`; both have the same objects."""
    before = flatten_fields(run, "config")
    return [
        f"--{name}={_as_flag(value)}"
        for name, value in flatten_fields(changed, "config").items()
        if before.get(name) != value
    ]


def _as_flag(value: str) -> str:
    """Takes the quotes of a word away: a flag has none."""
    is_quoted = len(value) > 1 and value[0] == value[-1] == "'"
    return value[1:-1] if is_quoted else value
