"""The picture of a run: drawn from a small run, refused where there is nothing to draw."""

import importlib.util
import json

import pages
import pytest
from absl import flags

from r1v3_jax.tasks import digits

EXAMPLE = digits.Digits(augment=True).example(7, "hard")
COMPLETION = [
    "8",
    "6",
    "\n",
    "</think>",
    "\n",
    "\n",
    "\\boxed{",
    *EXAMPLE.answer,
    "}",
    "<|im_end|>",
]


@pytest.fixture
def tool(monkeypatch):
    """tools/draw_run.py as a module, without its flags: other tools have flags of these names."""
    monkeypatch.setattr(flags, "DEFINE_string", lambda *arguments, **options: None)
    spec = importlib.util.spec_from_file_location(
        "draw_run", pages.ROOT / "tools/draw_run.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workdir(tmp_path):
    digits.write_tokenizer(tmp_path / "tokenizer")
    vocabulary = digits.vocabulary()
    row = {
        "id": EXAMPLE.id,
        "prompt": EXAMPLE.question,
        "answer": EXAMPLE.answer,
        "verdict": "right",
        "tokens": [vocabulary.index(token) for token in COMPLETION],
        "entropies": [0.1] * len(COMPLETION),
    }
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts/grpo_000010.jsonl").write_text(json.dumps(row) + "\n")
    steps = [{"stage": "grpo", "step": step, "reward": step / 20} for step in range(20)]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(step) + "\n" for step in steps)
    )
    return tmp_path


def test_a_run_is_drawn(tool, workdir):
    """Proves: image, tokens, scale and progress are there, and the tokens are those sampled."""
    figure = tool.draw(workdir)
    image, tokens, scale, progress = figure.axes
    assert image.images[0].get_array().shape == (56, 56, 3)
    assert [text.get_text() for text in tokens.texts][-2:] == ["}", "<|im_end|>"]
    assert scale.get_xlim() == (0, 0.5)
    assert len(progress.lines) == 2


def test_a_run_without_rollouts_is_refused(tool, tmp_path):
    """Proves: the message names what is missing."""
    with pytest.raises(FileNotFoundError, match="has no rollout of GRPO"):
        tool.draw(tmp_path)


def test_another_question_under_the_same_id_is_refused(tool, workdir):
    """Proves: an image is never shown with a question that it does not belong to."""
    path = workdir / "rollouts/grpo_000010.jsonl"
    path.write_text(path.read_text().replace(EXAMPLE.question, "Another one?"))
    with pytest.raises(ValueError, match="is another question in this version"):
        tool.draw(workdir)
