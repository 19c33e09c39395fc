"""Times runs by name, and sums them up. Knows nothing of what is timed."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator


@dataclasses.dataclass
class Run:
    """One run of something."""

    wall_s: float = 0.0
    cpu_s: float = 0.0  # of all threads of this process
    tokens: int = 0  # sampled
    busy_slots: float = 0.0  # of a rollout: tokens for each decode slot and step


class Clock:
    """Runs by name: `with clock("update") as run: ...`"""

    def __init__(self):
        self.runs: dict[str, list[Run]] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Run]:
        run = Run()
        wall = time.perf_counter()
        cpu = time.process_time()
        yield run
        run.wall_s = time.perf_counter() - wall
        run.cpu_s = time.process_time() - cpu
        self.runs.setdefault(name, []).append(run)


def summary(runs: list[Run]) -> dict:
    """Sums up all runs except the first, for a JSON file.

    The first one compiled: what it took more than the median is reported by itself.
    """
    first_run, *steady = runs
    result = {"runs": len(steady)}
    for unit in ("cpu_s", "wall_s"):
        seconds = [getattr(run, unit) for run in steady]
        median = statistics.median(seconds)
        result[unit] = {"min": min(seconds), "median": median, "max": max(seconds)}
        result[f"compile_{unit}"] = getattr(first_run, unit) - median
    if first_run.tokens:
        result["tokens"] = [run.tokens for run in steady]
        if first_run.busy_slots:
            fractions = [run.busy_slots for run in steady]
            result["busy"] = statistics.median(fractions)
        # Of all runs together: some may have a micro-batch more than others.
        tokens = sum(run.tokens for run in steady)
        result["tokens_per_s"] = tokens / sum(run.wall_s for run in steady)
        result["tokens_per_cpu_s"] = tokens / sum(run.cpu_s for run in steady)
    return result


def ratios(pairs: list[tuple[dict, dict]]) -> dict[str, dict]:
    """Compares pairs (theirs, ours), each {quantity: number}: theirs over ours, within each pair.

    Returns {quantity: {"pairs": [...], "median": ...}}; above 1 where ours takes less. A quantity
    that only one side has, as its device's memory, is left out.
    """
    result = {}
    theirs, ours = pairs[0]
    for name in (name for name in theirs if name in ours):
        values = [theirs[name] / ours[name] for theirs, ours in pairs]
        result[name] = {"pairs": values, "median": statistics.median(values)}
    return result
