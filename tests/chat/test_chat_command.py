"""The chat as it is typed: over a checkpoint, over a server, over a file of questions."""

import json
import subprocess
import sys

import commands
import pytest
from images_for_tests import PNG
from scripted_engine import serving
from server_process import write_checkpoint

from r1v3_jax.files import read_jsonl

COMMAND = ("-m", "r1v3_jax.chat")
ROOM = ("--max_prompt_tokens=128", "--max_tokens=16", "--slots=2")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def typed(lines: list[str], *arguments) -> subprocess.CompletedProcess:
    """Runs a chat whose input are these lines."""
    return subprocess.run(
        [sys.executable, *COMMAND, *arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        errors="replace",
        cwd=commands.ROOT,
        env=commands.environment(),
        timeout=600,
        check=False,
    )


def test_a_checkpoint_is_chatted_with(checkpoint, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    saved = tmp_path / "chat.jsonl"
    lines = [
        "What is this?",
        "/think off",
        "and \\",
        "now?",
        f"/save {saved}",
        "/quit",
        "never",
    ]
    image = f"--image={tmp_path / 'a.png'}"
    done = typed(lines, f"--checkpoint={checkpoint}", image, "--seed=1", *ROOM)
    assert done.returncode == 0, done.stderr
    assert "a.png goes with the first question" in done.stdout
    row = json.loads(saved.read_text())
    roles = [message["role"] for message in row["messages"]]
    assert roles == ["user", "assistant"] * 2
    assert row["messages"][0]["content"] == "<image>\nWhat is this?"
    assert row["messages"][2]["content"] == "and \nnow?"


def test_a_server_is_chatted_with():
    with serving() as served:
        done = typed(["hi", "//x"], f"--endpoint={served.url}/v1")
    assert done.returncode == 0, done.stderr
    assert "I see.\n\nYou said: hi\n" in done.stdout
    assert "You said: /x\n" in done.stdout


def test_a_file_of_questions_is_answered(checkpoint, tmp_path):
    """Twice the same answers; the code is 1 as long as a line has none."""
    (tmp_path / "a.png").write_bytes(PNG)
    rows = [
        {"prompt": f"question {i}", "images": ["a.png"] * (i % 2)} for i in range(6)
    ]
    prompts = tmp_path / "in.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = (f"--checkpoint={checkpoint}", f"--prompts={prompts}", *ROOM)
    outs = [tmp_path / "out1.jsonl", tmp_path / "out2.jsonl"]
    for out in outs:
        done = commands.run(*COMMAND, *flags, f"--out={out}")
        assert done.returncode == 0, done.stderr
        assert "6 answers, 0 lines without" in done.stdout
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert all(0 < row["tokens"] <= 16 for row in read_jsonl(outs[0]))
    with prompts.open("a") as file:
        file.write('{"prompt": "word"\n')
    done = commands.run(*COMMAND, *flags, f"--out={outs[0]}")
    assert done.returncode == 1
    assert "line 7: " in done.stderr
    assert "6 answers, 1 lines without" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either --checkpoint=DIR or --hf=DIR"),
        (["--checkpoint=nowhere"], "nowhere/model.json: no such file"),
        (["--checkpoint=x", "--endpoint=http://x/v1"], "not both"),
        (["--endpoint=localhost:8000"], "wanted an address"),
        (["--endpoint=http://x/v1", "--image=nowhere.png"], "no such file"),
        (["--endpoint=http://x/v1", "--prompts=in.jsonl"], "give both"),
        (["--endpoint=http://x/v1", "--prompts=nowhere", "--out=x"], "no such file"),
        (["--endpoint=http://x/v1", "--temperature=3"], "temperature"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, said):
    done = commands.run(*COMMAND, *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
