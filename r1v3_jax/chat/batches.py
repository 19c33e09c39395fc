"""Answers to a file of questions, --prompts to --out: a line each, and none is lost.

A row of the questions is {"prompt": "..."}, {"question": "..."} or {"messages": [...]}, with
"images": paths from the file's folder, or "image". A row of the answers has the number of its line
and a digest of it. The same command again asks for what is missing or had a problem.
"""

import collections
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from r1v3_jax import files
from r1v3_jax.chat.models import Model, Question, Sampling, Unavailable
from r1v3_jax.engine.requests import QueueFull, Turn
from r1v3_jax.processing.image_files import StoredImage, confined
from r1v3_jax.serve.messages import ROLES, place
from r1v3_jax.serve.problems import Problem

RETRIES = 8
BACKOFF_S = 0.5  # before the first; doubled each time


def run(
    model: Model,
    sampling: Sampling,
    prompts: Path,
    out: Path,
    *,
    at_a_time: int,
    thinking: bool,
    system: str,
    report: Callable[[str], None],
) -> int:
    """Answers every line that has no answer yet; returns how many have none afterwards.

    report: gets a sentence for each line that failed. ValueError if --out is of other questions.
    """
    lines = read_lines(prompts)
    rows = read_answers(out, lines)
    missing = [number for number in lines if number not in rows]
    if sampling.seed is None:
        sampling = Sampling(
            sampling.max_tokens, sampling.temperature, sampling.top_p, 0
        )

    def answer(number: int) -> dict:
        return answer_line(
            model, sampling, prompts, number, lines[number], thinking, system
        )

    failed = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        for row in in_threads(answer, missing, at_a_time):
            rows[row["line"]] = row
            if "problem" in row:
                failed += 1
                report(f"line {row['line']}: {row['problem']}")
            file.write(json.dumps(row, ensure_ascii=True) + "\n")
            file.flush()
    # In the order of the questions, once all are there.
    files.write_text(out, "".join(json.dumps(rows[n]) + "\n" for n in sorted(rows)))
    return failed


def in_threads(work: Callable[[int], dict], numbers: list[int], at_a_time: int):
    """Yields what `work` makes of each number, as it comes; a few at a time are waiting."""
    left = collections.deque(numbers)
    pending: set[Future] = set()
    threads = ThreadPoolExecutor(at_a_time, thread_name_prefix="ask")
    try:
        while left or pending:
            while left and len(pending) < at_a_time:
                pending.add(threads.submit(work, left.popleft()))
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        # After Ctrl-C or a failure: nobody waits for answers that are on their way.
        threads.shutdown(wait=False, cancel_futures=True)


def read_lines(prompts: Path) -> dict[int, str]:
    """Returns the lines of the questions by their number, empty ones left out."""
    if reason := files.why_unreadable(prompts):
        raise ValueError(f"--prompts={prompts}: {reason}")
    text = prompts.read_text(encoding="utf-8", errors="replace")
    numbered = enumerate(text.split("\n"), start=1)
    return {number: line for number, line in numbered if line.strip()}


def read_answers(out: Path, lines: dict[int, str]) -> dict[int, dict]:
    """Returns the answers that are there, and leaves only them in the file.

    ValueError if they are answers to other questions.
    """
    if not out.exists():
        return {}
    rows = {}
    for row in files.read_jsonl(out):
        number = row.get("line")
        if number not in lines or row.get("digest") != digest(lines[number]):
            raise ValueError(
                f"--out={out}: line {number} of the questions is another one now; choose another "
                "file"
            )
        if "problem" not in row:
            rows[number] = row
    files.write_text(out, "".join(json.dumps(row) + "\n" for row in rows.values()))
    return rows


def digest(line: str) -> str:
    """Returns 16 characters that are a line's own."""
    return hashlib.sha256(line.strip().encode("utf-8", "replace")).hexdigest()[:16]


def answer_line(
    model: Model,
    sampling: Sampling,
    prompts: Path,
    number: int,
    line: str,
    thinking: bool,
    system: str,
) -> dict:
    """Returns the row of answers for a line; `problem` says why there is none."""
    row = {"line": number, "digest": digest(line)}
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict):
            raise ValueError('wanted an object, as {"prompt": "What is this?"}')
        if "id" in fields:
            row["id"] = fields["id"]
        question = read_question(fields, prompts.parent, thinking, system)
        # Each line has a seed of its own, which a second run gives it again.
        seed = sampling.seed + number
        own = Sampling(sampling.max_tokens, sampling.temperature, sampling.top_p, seed)
        return {**row, **collect(model, question, own)}
    except (
        ValueError,
        OSError,
        FloatingPointError,
        Problem,
        Unavailable,
        RecursionError,
    ) as error:
        return {**row, "problem": " ".join(str(error).split())[:500]}


def collect(model: Model, question: Question, sampling: Sampling) -> dict:
    """Returns a whole answer; asks again where another try may help."""
    for attempt in range(RETRIES + 1):
        try:
            pieces = list(model.ask(question, sampling))
        except (Unavailable, QueueFull):
            if attempt == RETRIES:
                raise
            time.sleep(min(BACKOFF_S * 2**attempt, 30.0))
            continue
        return {
            "answer": "".join(piece.answer for piece in pieces),
            "thoughts": "".join(piece.thoughts for piece in pieces),
            "tokens": sum(piece.tokens for piece in pieces),
            "finish_reason": pieces[-1].finish_reason,
        }
    raise AssertionError


def read_question(fields: dict, folder: Path, thinking: bool, system: str) -> Question:
    """Returns what a row asks. ValueError, Problem, ImageError."""
    asked = [name for name in ("prompt", "question", "messages") if fields.get(name)]
    if len(asked) != 1:
        given = ", ".join(asked) or "none of them"
        raise ValueError(f"wanted one of prompt, question and messages, got {given}")
    paths = fields.get("images", fields.get("image", []))
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ValueError("images: wanted a list of paths")
    images = [StoredImage(_path(folder, path)) for path in paths]
    for image in images:
        _ = image.size  # is it there, and an image?
    messages = fields[asked[0]]
    if asked[0] != "messages":
        messages = [{"role": "user", "content": messages}]
    turns = _turns(messages, len(images))
    if system and turns[0].role != "system":
        turns.insert(0, Turn("system", (system,)))
    return Question(tuple(turns), tuple(images), thinking)


def _path(folder: Path, path: str) -> Path:
    """Returns where an image is: as it is written if that is whole, else below the folder."""
    return Path(path) if Path(path).is_absolute() else confined(folder, path)


def _turns(messages, count: int) -> list[Turn]:
    """Returns messages as turns; `count` images go to their markers, or before the first question.

    A chat that was saved ends with an answer, which is left out.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: wanted a filled list")
    if isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    texts = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(
                "messages: wanted objects with a role and a text as content"
            )
        texts.append((ROLES[role], content))
    markers = sum(text.count("<image>") for role, text in texts if role == "user")
    if count and markers not in (0, count):
        raise ValueError(
            f"{markers} markers <image> for {count} images; wanted as many, or none"
        )
    turns = []
    shown = 0  # images
    for role, text in texts:
        here = 0
        if role == "user" and count:
            here = text.count("<image>") if markers else count - shown
        numbers = range(shown, shown + here)
        turns.append(Turn(role, place([*numbers, text], "front", "messages")))
        shown += here
    return turns
