"""Scores a file of answers again, as a run would.

python tools/verify.py --file=answers.jsonl --out=verdicts.jsonl

A row has `completion`, `answer` and optionally `verifier` (see
r1v3_jax/rewards/verifiers/routing.py) and `question`, for a model verifier. The same rows are
written, in order, with `verdict` (right, wrong or error), `extracted` (the inside of the box) and
`reason`. A line that is no such row becomes an error with its reason, and keeps its place.

A completion is the text behind "<think>\\n" in a prompt. With --nothinking it begins with its
summary.
"""

import collections
import json
import os
import time
from pathlib import Path

from absl import flags

from r1v3_jax import cli
from r1v3_jax.config import Verify
from r1v3_jax.rewards.verifiers import boxes
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict
from r1v3_jax.rewards.verify import verify_all

FILE = flags.DEFINE_string("file", None, "JSON lines to score.", required=True)
OUT = flags.DEFINE_string("out", None, "JSON lines to write.", required=True)
THINKING = flags.DEFINE_bool(
    "thinking", True, "Whether an answer counts only behind </think>."
)
PROCESSES = flags.DEFINE_integer(
    "processes", 0, "Processes that verify; 0: one a core, at most 8.", 0
)
DEADLINE = flags.DEFINE_float("deadline_s", 10.0, "Seconds for one answer.")
MEMORY = flags.DEFINE_float("memory_gib", 2.0, "Memory limit of one process.")
CUSTOM = flags.DEFINE_list(
    "custom", [], "Functions that rows may name, as my.module:function."
)
MODEL_URL = flags.DEFINE_string(
    "model_url", "", "Address of a model verifier: http://host:8000/v1."
)
MODEL_NAME = flags.DEFINE_string("model_name", "", "Its name at that address.")
MODEL_CACHE = flags.DEFINE_string(
    "model_cache", "", "A file that keeps its judgements."
)
PROGRESS = flags.DEFINE_float(
    "progress", 1.0, "Of a run, 0 to 1, for iou=dynamic.", 0.0, 1.0
)


def main():
    # Before the work, not after it.
    if not Path(OUT.value).absolute().parent.is_dir():
        raise ValueError(f"--out={OUT.value}: its directory does not exist")
    settings = Verify(
        processes=PROCESSES.value,
        deadline_s=DEADLINE.value,
        memory_gib=MEMORY.value,
        custom=tuple(CUSTOM.value),
        model_url=MODEL_URL.value,
        model_name=MODEL_NAME.value,
        model_cache=MODEL_CACHE.value,
    )

    # 1. Verify the rows that are sound, all in one batch.
    rows, problems = read(FILE.value)
    sound = [i for i, problem in enumerate(problems) if problem is None]
    verifiers = {i: rows[i].get("verifier") or "" for i in sound}
    started = time.perf_counter()
    checks = verify_all(
        [rows[i]["completion"] for i in sound],
        [boxes.unboxed(str(rows[i]["answer"]), verifiers[i]) for i in sound],
        verifiers=[verifiers[i] for i in sound],
        questions=[rows[i].get("question") or "" for i in sound],
        thinking=THINKING.value,
        progress=PROGRESS.value,
        verify=settings,
    )
    seconds = time.perf_counter() - started

    # 2. Put them back among the others, in order.
    check_of_row = dict(zip(sound, checks, strict=True))
    scored = []
    counts = collections.Counter()
    for i, (row, problem) in enumerate(zip(rows, problems, strict=True)):
        check = check_of_row.get(i) or Check(Verdict.ERROR, None, problem)
        scored.append(row | verdict(check))
        counts[check.verdict.value] += 1
    write(OUT.value, scored)
    counted = ", ".join(
        f"{counts[name]} {name}" for name in ("right", "wrong", "error")
    )
    print(f"{OUT.value}: {counted}; {len(sound) / max(seconds, 1e-9):,.0f} verdicts/s")


def read(path: str) -> tuple[list[dict], list[str | None]]:
    """Reads the rows of a file, and the problem of each, or None if it is sound.

    A line that is no JSON, or no object, becomes a row with its text as `line`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--file={path}: no such file of answers")
    rows = []
    problems = []
    # Half a character, cut off at the end of a file, does not stop the rest.
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    # Not splitlines(): it would also cut at characters such as U+2028, which JSON allows in a row.
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            row = None
            problem = f"no JSON: {error}"[:200]
        else:
            problem = row_problem(row)
        rows.append(row if isinstance(row, dict) else {"line": line[:1000]})
        problems.append(problem)
    return rows, problems


def row_problem(row) -> str | None:
    """Returns why a value is no row of answers; None if it is one."""
    if not isinstance(row, dict):
        return f"wanted an object, got {type(row).__name__}"
    if not isinstance(row.get("completion"), str):
        return "no text under `completion`"
    answer = row.get("answer")
    # True is an int to Python.
    if not isinstance(answer, str | int | float) or isinstance(answer, bool):
        return "no text or number under `answer`"
    for name in ("verifier", "question"):
        if not isinstance(row.get(name, ""), str | None):
            return f"no text under `{name}`"
    return None


def refuse_constant(constant: str):
    """ValueError for NaN and Infinity, which Python's parser would accept."""
    raise ValueError(f"{constant} is no JSON")


def write(path: str, rows: list[dict]) -> None:
    """Writes the whole file or, if something happens on the way, none of it."""
    # `files.write_jsonl` would ask JAX which process this is, and JAX would take a TPU for that.
    with open(path + ".partial", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    os.replace(path + ".partial", path)


def verdict(check: Check) -> dict:
    """Returns the columns that a verdict adds to its row."""
    return {
        "verdict": check.verdict.value,
        "extracted": check.extracted,
        "reason": check.reason,
    }


if __name__ == "__main__":
    cli.run(main)
