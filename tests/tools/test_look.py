"""tools/look.py: the numbers beside the picture, and what a user can get wrong."""

import shutil

import numpy as np
import pytest
from pages_for_tests import Page, write_run
from PIL import Image
from tools_for_tests import run_tool, succeed

from r1v3_jax.files import read_json
from r1v3_jax.processing.tokenizer import load


def command(work, *more: str) -> list[str]:
    """A picture of 4 x 3 tiles, 4 tokens each, and a thumbnail."""
    return [
        f"--checkpoint={work}/checkpoint",
        f"--image={work}/0.png",
        "--prompt=What?",
        "--max_tokens=4",
        f"--out={work}/look.png",
        *more,
    ]


def test_it_writes_a_picture_and_its_numbers(work):
    """Proves: of each token of the checkpoint's own answer the heat adds up to the nats."""
    out = succeed("look", *command(work))
    own = read_json(work / "look.json")
    assert out == f"answer: {own['answer']!r}\n{work}/look.png\n"
    assert 1 <= len(own["tokens"]) <= 4
    assert max(abs(token["nats"]) for token in own["tokens"]) > 0.1
    for token in own["tokens"]:
        heat = np.asarray(token["heat"])
        assert heat.shape[0] * 4 == heat.shape[1] * 3
        # The integral in 32 steps is off by a part in some thousands.
        assert abs(heat.sum() - token["nats"]) < 3e-4
    with Image.open(work / "look.png") as picture:
        assert min(picture.size) > 200


@pytest.fixture
def workdir(work, tmp_path):
    """A run whose stage has the checkpoint, and that wrote a right and two wrong answers."""
    image = "images/0123456789abcdef01234567.png"
    tokens = list(
        load(work / "checkpoint/tokenizer", text_only=False).encode_text("What?")
    )
    line = {
        "id": "right",
        "images": [image],
        "tiles": [13],
        "prompt": "What?",
        "completion": "What?",
        "answer": "What?",
        "verdict": "right",
        "tokens": tokens,
    }
    rows = [
        line,
        {**line, "id": "wrong", "verdict": "wrong"},
        {**line, "id": "not kept", "verdict": "wrong", "images": [""]},
    ]
    run = write_run(tmp_path / "run", {"grpo.probe_000001": rows}, [])
    shutil.copy(work / "0.png", run / "rollouts" / image)
    shutil.copytree(work / "checkpoint", run / "grpo" / "done")
    shutil.rmtree(run / "tokenizer")
    shutil.copytree(work / "checkpoint" / "tokenizer", run / "tokenizer")
    return run


def test_answers_of_a_run_are_looked_at_on_its_page(work, workdir):
    """Proves: wrong and right in turn, without the one whose picture was not kept; of each token
    the heat adds up to its nats, which are those of the single picture.
    """
    out = succeed("look", f"--workdir={workdir}")
    assert out == f"2 answers: {workdir}/report/heat.html\n"
    found = read_json(workdir / "report" / "heat" / "heat.json")
    assert [sample["id"] for sample in found["samples"]] == ["wrong", "right"]
    assert found["checkpoint"] == f"{workdir}/grpo/done"
    succeed("look", *command(work, "--answer=What?"))
    single = read_json(work / "look.json")["tokens"]
    for sample in found["samples"]:
        assert len(sample["tokens"]) == min(12, len(single))
        for token in sample["tokens"]:
            assert abs(np.sum(token["heat"]) - token["nats"]) < 3e-4
            other = single[token["place"]]
            assert abs(token["nats"] - other["nats"]) < 1e-4
            np.testing.assert_allclose(token["heat"], other["heat"], atol=1e-4)
    page = Page(workdir / "report" / "heat.html")
    assert len(page.of_class("group")) == 2

    out = succeed(
        "look", f"--workdir={workdir}", "--file=grpo.probe_000001", "--id=right"
    )
    assert out.startswith("1 answers: ")
    found = read_json(workdir / "report" / "heat" / "heat.json")
    assert [sample["id"] for sample in found["samples"]] == ["right"]


def test_a_run_that_cannot_be_looked_at_is_one_sentence(workdir):
    (workdir / "grpo").rename(workdir / "other")
    done = run_tool("look", f"--workdir={workdir}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "stage grpo is not finished; wait, or name other weights" in done.stderr
    done = run_tool("look", f"--workdir={workdir}", "--file=grpo_000080")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "grpo_000080.jsonl: no such file; grpo.probe_000001 would do" in done.stderr
    (workdir / "rollouts" / "grpo.probe_000001.jsonl").write_text("{}\n")
    done = run_tool(
        "look", f"--workdir={workdir}", f"--checkpoint={workdir}/other/done"
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has no answer whose pictures were kept" in done.stderr


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--out=look.jpg", "error: --out=look.jpg: wanted a .png in a directory"),
        ("--answer=What --place=99", "error: --place=99: the answer has "),
        ("--image=none.png", "none.png"),
        ("--checkpoint=none", "none/model.json: no such file"),
        ("--workdir=none", "leave out --image and --prompt"),
    ],
)
def test_a_mistake_is_one_sentence(work, argument, said):
    done = run_tool("look", *command(work, *argument.split()))
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_missing_is_named():
    done = run_tool("look", "--image=cat.png")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--checkpoint --prompt --out is missing; or give --workdir" in done.stderr
