"""tools/look.py: the numbers beside the picture, and what a user can get wrong."""

import numpy as np
import pytest
from PIL import Image
from tools_for_tests import run_tool, succeed

from r1v3_jax.files import read_json


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


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--out=look.jpg", "error: --out=look.jpg: wanted a .png in a directory"),
        ("--answer=What --place=99", "error: --place=99: the answer has "),
        ("--image=none.png", "none.png"),
        ("--checkpoint=none", "none/model.json: no such file"),
    ],
)
def test_a_mistake_is_one_sentence(work, argument, said):
    done = run_tool("look", *command(work, *argument.split()))
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
