"""Scores a file of answers again, as a run would.

python tools/verify.py --file=answers.jsonl --out=verdicts.jsonl

A row has `completion`, `answer` and optionally `verifier` (see r1v3_jax/verifiers/routing.py) and
`question`, for a model verifier. The same rows come out, in order, with `verdict` (right, wrong or
error), `extracted` (what is in the box) and `reason`. A row that is none is an error with its
reason, and keeps its place.

A completion is what follows "<think>\\n" in a prompt; --nothinking where it begins with its
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
from r1v3_jax.rewards import verify
from r1v3_jax.rewards.verifiers import boxes
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict

FILE = flags.DEFINE_string("file", None, "JSON lines to score.", required=True)
OUT = flags.DEFINE_string("out", None, "JSON lines to write.", required=True)
THINKING = flags.DEFINE_bool(
    "thinking", True, "Whether an answer stands behind </think> only."
)
PROCESSES = flags.DEFINE_integer(
    "processes", 0, "That verify; 0: one a core, at most 8.", 0
)
DEADLINE = flags.DEFINE_float("deadline_s", 10.0, "For one answer, in seconds.")
MEMORY = flags.DEFINE_float("memory_gib", 2.0, "Of one process.")
CUSTOM = flags.DEFINE_list(
    "custom", [], "Functions that rows may name, as my.module:function."
)
MODEL_URL = flags.DEFINE_string(
    "model_url", "", "Of a model verifier: http://host:8000/v1."
)
MODEL_NAME = flags.DEFINE_string("model_name", "", "Its name at that endpoint.")
MODEL_CACHE = flags.DEFINE_string(
    "model_cache", "", "A file that keeps its judgements."
)
PROGRESS = flags.DEFINE_float("progress", 1.0, "Of a run, for iou=dynamic.", 0.0, 1.0)


def main():
    if not Path(OUT.value).absolute().parent.is_dir():
        raise ValueError(f"--out={OUT.value}: its directory does not exist")
    how = Verify(
        processes=PROCESSES.value,
        deadline_s=DEADLINE.value,
        memory_gib=MEMORY.value,
        custom=tuple(CUSTOM.value),
        model_url=MODEL_URL.value,
        model_name=MODEL_NAME.value,
        model_cache=MODEL_CACHE.value,
    )
    rows, problems = read(FILE.value)
    good = [i for i, problem in enumerate(problems) if problem is None]
    started = time.perf_counter()
    checks = verify.verify_all(
        [rows[i]["completion"] for i in good],
        [boxes.unboxed(str(rows[i]["answer"])) for i in good],
        verifiers=[rows[i].get("verifier") or "" for i in good],
        questions=[rows[i].get("question") or "" for i in good],
        thinking=THINKING.value,
        progress=PROGRESS.value,
        how=how,
    )
    seconds = time.perf_counter() - started
    found = dict(zip(good, checks, strict=True))
    out, verdicts = [], collections.Counter()
    for i, (row, problem) in enumerate(zip(rows, problems, strict=True)):
        check = found.get(i) or Check(Verdict.ERROR, None, problem)
        out.append(row | verdict(check))
        verdicts[check.verdict.value] += 1
    write(OUT.value, out)
    counted = ", ".join(
        f"{verdicts[name]} {name}" for name in ("right", "wrong", "error")
    )
    print(f"{OUT.value}: {counted}; {len(good) / max(seconds, 1e-9):,.0f} verdicts/s")


def read(path: str) -> tuple[list[dict], list[str | None]]:
    """The rows of a file, and what is wrong with each, or None. What is not an object, or no JSON,
    is a row with its text as `line`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--file={path}: no such file of answers")
    rows, problems = [], []
    for line in (
        Path(path).read_text(encoding="utf-8-sig", errors="replace").split("\n")
    ):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=refuse)
        except (ValueError, RecursionError) as error:
            row, problem = {"line": line[:1000]}, f"no JSON: {error}"[:200]
        else:
            problem = wrong_with(row)
            row = row if isinstance(row, dict) else {"line": line[:1000]}
        rows.append(row)
        problems.append(problem)
    return rows, problems


def wrong_with(row) -> str | None:
    if not isinstance(row, dict):
        return f"wanted an object, got {type(row).__name__}"
    if not isinstance(row.get("completion"), str):
        return "no text under `completion`"
    if not isinstance(row.get("answer"), str | int | float) or isinstance(
        row["answer"], bool
    ):
        return "no text or number under `answer`"
    for name in ("verifier", "question"):
        if not isinstance(row.get(name, ""), str | None):
            return f"no text under `{name}`"
    return None


def refuse(constant: str):
    raise ValueError(f"{constant} is no JSON")


def write(path: str, rows: list[dict]) -> None:
    """The whole file or, if something happens, none of it. (`metrics.write_jsonl` would ask JAX
    which process this is, and JAX would take a TPU for that.)
    """
    with open(path + ".partial", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    os.replace(path + ".partial", path)


def verdict(check: Check) -> dict:
    return {
        "verdict": check.verdict.value, "extracted": check.extracted, "reason": check.reason,
    }  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
