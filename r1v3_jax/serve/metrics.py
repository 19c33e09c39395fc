"""Counts what the server does, and writes it as Prometheus reads it."""

import bisect
from collections import Counter

from r1v3_jax.engine.requests import EngineNumbers

# Seconds: upper ends of the classes of a histogram.
TO_FIRST_TOKEN = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
# A name comes from a request: only so many are told apart.
MAX_NAMES = 100


class Histogram:
    """Counts values in classes."""

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Counts a value in the class that it does not exceed."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        """Returns the samples of this histogram: classes add up."""
        total = 0
        lines = []
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self.sum!r}", f"{name}_count {total}"]


class Metrics:
    """What the server has seen; for the thread of its event loop alone."""

    def __init__(self):
        self.replies: Counter[int] = Counter()  # by status
        self.unknown: Counter[str] = Counter()  # by name of the field
        self.aborted = 0  # requests whose client left
        self.to_first_token = Histogram(TO_FIRST_TOKEN)
        self.per_token = Histogram(PER_TOKEN)

    def ignored(self, names: tuple[str, ...]) -> None:
        """Counts fields that were ignored."""
        for name in names:
            # A name is a label here: letters alone, and not too many of them.
            is_plain = (
                name.isascii() and name.replace("_", "").replace(".", "").isalnum()
            )
            is_known = name in self.unknown or len(self.unknown) < MAX_NAMES
            is_short = len(name) <= 60
            self.unknown[name if is_plain and is_short and is_known else "other"] += 1

    def text(self, numbers: EngineNumbers | None) -> str:
        """Returns everything, with the engine's numbers if it is there."""
        lines = []

        def family(name: str, kind: str, about: str, samples: list[str]) -> None:
            lines.extend(
                [f"# HELP r1v3_{name} {about}", f"# TYPE r1v3_{name} {kind}", *samples]
            )

        def one(name: str, kind: str, about: str, value) -> None:
            family(name, kind, about, [f"r1v3_{name} {value}"])

        if numbers is not None:
            _engine_families(one, numbers)
        one(
            "requests_aborted_total",
            "counter",
            "Requests whose client left.",
            self.aborted,
        )
        by_status = [
            f'r1v3_replies_total{{status="{status}"}} {count}'
            for status, count in sorted(self.replies.items())
        ]
        family("replies_total", "counter", "Replies to chat completions.", by_status)
        by_name = [
            f'r1v3_unknown_fields_total{{field="{name}"}} {count}'
            for name, count in sorted(self.unknown.items())
        ]
        family("unknown_fields_total", "counter", "Fields that were ignored.", by_name)
        for name, histogram, about in (
            (
                "time_to_first_token_seconds",
                self.to_first_token,
                "From the request on.",
            ),
            (
                "time_per_token_seconds",
                self.per_token,
                "Of a request, after its first.",
            ),
        ):
            family(name, "histogram", about, histogram.lines(f"r1v3_{name}"))
        return "\n".join(lines) + "\n"


def _engine_families(one, numbers: EngineNumbers) -> None:
    """Adds what the engine counts."""
    for name, value, about in (
        ("slots", numbers.slots, "Samples that are decoded at a time."),
        ("samples_running", numbers.running, "Samples in slots."),
        ("samples_waiting", numbers.waiting, "Samples that wait for a slot."),
    ):
        one(name, "gauge", about, value)
    for name, value, about in (
        ("requests", numbers.requests, "Requests taken."),
        ("requests_finished", numbers.finished, "Requests answered whole."),
        ("requests_cancelled", numbers.cancelled, "Requests that were cancelled."),
        ("requests_failed", numbers.failed, "Requests that ended in an error."),
        ("prompt_tokens", numbers.prompt_tokens, "Tokens of prompts."),
        ("generated_tokens", numbers.generated_tokens, "Tokens sampled."),
        ("prompts_read", numbers.prompts_read, "Prompts read."),
        ("runs", numbers.runs, "Runs of the decoding program."),
        ("compilations", numbers.compilations, "Since it is ready; any is a fault."),
    ):
        one(f"{name}_total", "counter", about, value)
