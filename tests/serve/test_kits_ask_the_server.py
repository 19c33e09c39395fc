r"""VLMEvalKit, lm-eval and lmms-eval ask our server 60 digits questions: see tests/kits.sh.

The server is started as a user does, with the weights of the digits run: runs/digits/grpo/done, or
the folder in the variable R1V3_DIGITS. What it proves: no request of a kit fails, and its accuracy
is that of a client of ours that asks the same questions, up to what JPEG changes.
"""

import csv
import importlib.util
import io
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kit_tasks
import pytest
from benchmark_files import base64_of, write_tsv
from requests_for_tests import ask, body, data_uri
from server_process import served

from r1v3_jax.tasks.digits import Digits

QUESTIONS = 60
JPEG_CHANGES = 2  # answers of 60
TOKENS = 200
KITS = ("vlmeval", "lm_eval", "lmms_eval")
CHECKPOINT = Path(os.environ.get("R1V3_DIGITS", "runs/digits/grpo/done")).absolute()
ENVIRONMENT = Path(sys.prefix)
installed = [name for name in KITS if importlib.util.find_spec(name)]
if not installed or not CHECKPOINT.is_dir():
    pytest.skip(
        "needs a kit and the digits run, see tests/kits.sh", allow_module_level=True
    )
KIT = installed[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log"
    with served(CHECKPOINT, log, "--slots=8", f"--max_tokens={TOKENS}") as server:
        yield server


@pytest.fixture(scope="module")
def questions() -> list[dict]:
    source = Digits(split="held_out", seed=1, styles=(0.4, 0.35, 0.25)).mix(
        normal=1, hard=1
    )
    rows = []
    for index in range(QUESTIONS):
        example = source(index)
        buffer = io.BytesIO()
        example.images[0].save(buffer, "PNG")
        text = example.question.replace("<image>", "").strip()
        rows.append(
            {"question": text, "answer": example.answer, "image": buffer.getvalue()}
        )
    return rows


def is_right(text: str, row: dict) -> bool:
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return bool(boxes) and boxes[-1] == row["answer"]


def asked_by_us(server, questions: list[dict]) -> int:
    """Returns how many answers are right when a client of ours asks, images as PNG in front."""

    def right(row: dict) -> bool:
        content = [
            {"type": "image_url", "image_url": {"url": data_uri(row["image"])}},
            {"type": "text", "text": row["question"]},
        ]
        messages = [{"role": "user", "content": content}]
        status, reply, _ = ask(
            server.url,
            body(messages=messages, temperature=0, max_tokens=TOKENS),
            timeout=600,
        )
        assert status == 200, reply
        return is_right(reply["choices"][0]["message"]["content"], row)

    with ThreadPoolExecutor(8) as threads:
        return sum(threads.map(right, questions))


def asked_by_vlmeval(server, questions: list[dict], folder: Path, **environment) -> int:
    """Returns how many are right of what VLMEvalKit has written down."""
    data = folder / "data"
    data.mkdir()
    rows = [
        {**row, "index": i, "image": base64_of(row["image"])}
        for i, row in enumerate(questions)
    ]
    write_tsv(data / "Digits.tsv", rows)
    command = [
        sys.executable, "-m", "vlmeval", "--data", "Digits", "--model", "r1v3",
        "--base-url", f"{server.url}/v1", "--key", "none", "--api-nproc", "8",
        "--judge", "exact_matching", "--work-dir", str(folder / "out"),
    ]  # fmt: skip
    run(
        command,
        folder,
        LMUData=str(data),
        PRED_FORMAT="tsv",
        EVAL_FORMAT="json",
        **environment,
    )
    (path,) = (folder / "out" / "r1v3").rglob("r1v3_Digits.tsv")
    csv.field_size_limit(1 << 24)
    with path.open(newline="", encoding="utf-8") as file:
        predictions = list(csv.DictReader(file, delimiter="\t"))
    assert len(predictions) == QUESTIONS
    texts = {int(row["index"]): row["prediction"] for row in predictions}
    return sum(is_right(texts[i], row) for i, row in enumerate(questions))


def asked_by_a_harness(server, questions: list[dict], folder: Path) -> int:
    """Returns how many are right as lm-eval or lmms-eval counts."""
    kit_tasks.write_task(folder / "tasks", questions, maximum=TOKENS)
    command = getattr(kit_tasks, KIT)(
        ENVIRONMENT, folder / "tasks", f"{server.url}/v1", folder / "out"
    )
    run(command, folder)
    return round(kit_tasks.accuracy_of(folder / "out") * QUESTIONS)


def run(command: list[str], folder: Path, **environment) -> None:
    done = subprocess.run(
        command,
        env={**kit_tasks.surroundings(), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def test_60_questions_none_of_which_fails(server, questions, tmp_path):
    expected = asked_by_us(server, questions)
    ways = {"": {}}
    if KIT == "vlmeval":
        # As it is, it enlarges images below 100 pixels: other pixels, and more tiles.
        ways = {"pixels as they are": {"VLMEVAL_MIN_IMAGE_EDGE": "1"}, "enlarged": {}}
    for name, environment in ways.items():
        before = server.replies(200)
        folder = tmp_path / (name.replace(" ", "_") or "run")
        folder.mkdir()
        if KIT == "vlmeval":
            right = asked_by_vlmeval(server, questions, folder, **environment)
        else:
            right = asked_by_a_harness(server, questions, folder)
        answered = server.replies(200) - before
        print(f"{KIT} {name}: {right} of {QUESTIONS} right, {expected} asked by us")
        assert answered == QUESTIONS
        if name != "enlarged":
            assert abs(right - expected) <= JPEG_CHANGES
    assert not any(server.replies(status) for status in (400, 413, 429, 500, 503))
