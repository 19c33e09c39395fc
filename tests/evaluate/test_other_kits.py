r"""lm-eval and lmms-eval ask a server our questions: `bash tests/kits.sh lm-eval` runs this.

The server answers from a function. What it proves: the environment of tests/kits.sh works without a
network, a task of ours is found by --include_path, each question is asked once with its picture,
and the kit's accuracy is that of the answers.
"""

import base64
import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import kit_tasks
import pytest
from benchmark_files import png
from model_server_for_tests import completion, model_server, text_of
from PIL import Image

QUESTIONS = 60
KITS = {"lm_eval": kit_tasks.lm_eval, "lmms_eval": kit_tasks.lmms_eval}
installed = [name for name in KITS if importlib.util.find_spec(name)]
if not installed:
    pytest.skip("needs a kit: bash tests/kits.sh lm-eval", allow_module_level=True)
KIT = installed[0]
ENVIRONMENT = Path(sys.prefix)


@pytest.fixture
def folder(tmp_path):
    questions = [
        {"question": f"Question {i}?", "answer": str(i), "image": png(i)}
        for i in range(QUESTIONS)
    ]
    kit_tasks.write_task(tmp_path / "tasks", questions, maximum=62)
    return tmp_path / "tasks"


def respond(request, _):
    """Is right about the first 40."""
    number = int(text_of(request).split()[-1].rstrip("?"))
    said = number if number < 40 else number + 1
    return 200, completion(rf"So.</think>It is \boxed{{{said}}}")


def picture_of(request) -> bytes:
    """Returns the pixels of a request's one picture."""
    parts = request["messages"][-1]["content"]
    (url,) = (part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    data = base64.b64decode(url.partition(",")[2])
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_each_question_is_asked_once_and_its_answer_counted(folder, tmp_path):
    out = tmp_path / "out"
    with model_server(respond) as server:
        command = KITS[KIT](ENVIRONMENT, folder, server.url, out)
        done = subprocess.run(
            command,
            env=kit_tasks.surroundings(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert kit_tasks.accuracy_of(out) == pytest.approx(40 / 60)
    asked = {text_of(request).strip(): request for request in server.requests}
    assert len(server.requests) == len(asked) == QUESTIONS
    for number in range(QUESTIONS):
        text = f"Question {number}?"
        (request,) = (r for said, r in asked.items() if said.endswith(text))
        sent = Image.open(io.BytesIO(png(number))).convert("RGB").tobytes()
        assert picture_of(request) == sent
