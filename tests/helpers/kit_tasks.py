r"""Questions with pictures as a task of lm-eval or of lmms-eval, and the commands that ask them.

    write_task(folder, [{"question": "Which?", "answer": "6", "image": png}], maximum=62)
    lm_eval(environment, folder, url, out)

The score is an exact match of the last \boxed{}. `environment`: the folder that tests/kits.sh
makes. Neither kit needs a network for it.
"""

import base64
import json
import os
from pathlib import Path

TASK = "r1v3_questions"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

# What both kits are given. Functions of a task are named in its .yaml and stand beside it.
FUNCTIONS = r"""import base64
import io
import re

from PIL import Image


def images(doc, *_, **__):
    return [Image.open(io.BytesIO(base64.b64decode(doc["image"]))).convert("RGB")]


def question(doc, *_, **__):
    return doc["question"]


def score(doc, results):
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", results[0])
    return {"acc": float(bool(boxes) and boxes[-1] == doc["answer"])}
"""
LM_EVAL = """task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_image: !function functions.images
doc_to_text: !function functions.question
doc_to_target: answer
process_results: !function functions.score
generation_kwargs: {{until: [], temperature: 0.0, do_sample: false, max_gen_toks: {maximum}}}
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
LMMS_EVAL = """task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.images
doc_to_text: !function functions.question
doc_to_target: answer
process_results: !function functions.score
generation_kwargs: {{max_new_tokens: {maximum}, temperature: 0.0, do_sample: false}}
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def write_task(folder: Path, questions: list[dict], maximum: int) -> None:
    """Writes the task for both kits, in folders of their names. maximum: tokens of an answer."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "questions.jsonl"
    rows = [
        {**row, "image": base64.b64encode(row["image"]).decode()} for row in questions
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kit, template in (("lm_eval", LM_EVAL), ("lmms_eval", LMMS_EVAL)):
        of_kit = folder / kit
        of_kit.mkdir(exist_ok=True)
        text = template.format(task=TASK, data=data, maximum=maximum)
        (of_kit / f"{TASK}.yaml").write_text(text)
        (of_kit / "functions.py").write_text(FUNCTIONS)


def lm_eval(environment: Path, folder: Path, url: str, out: Path) -> list[str]:
    """Returns lm-eval's command; its numbers are in out/**/results_*.json."""
    model = {
        "model": "r1v3",
        "base_url": f"{url}/chat/completions",
        "num_concurrent": 8,
        "max_images": 8,
        "tokenized_requests": False,
    }
    return [
        str(environment / "bin" / "lm_eval"), "run",
        "--model=local-chat-completions", f"--model_args={_joined(model)}",
        f"--include_path={folder / 'lm_eval'}", f"--tasks={TASK}", "--apply_chat_template",
        f"--output_path={out}", "--log_samples",
    ]  # fmt: skip


def lmms_eval(environment: Path, folder: Path, url: str, out: Path) -> list[str]:
    """Returns lmms-eval's command; its numbers are in out/**/*_results.json."""
    model = {"model": "r1v3", "base_url": url, "api_key": "none", "num_concurrent": 8}
    return [
        str(environment / "bin" / "python"), "-m", "lmms_eval",
        "--model=openai", f"--model_args={_joined(model)}",
        f"--include_path={folder / 'lmms_eval'}", f"--tasks={TASK}",
        f"--output_path={out}", "--log_samples",
    ]  # fmt: skip


def surroundings() -> dict[str, str]:
    """Returns the environment variables of a kit's process."""
    return {**os.environ, **OFFLINE, "OPENAI_API_KEY": "none"}


def accuracy_of(out: Path) -> float:
    """Reads the accuracy that a kit has written below `out`."""
    (path,) = out.rglob("*results*.json")
    results = json.loads(path.read_text())["results"][TASK]
    return results["acc,none"]


def _joined(settings: dict) -> str:
    return ",".join(f"{name}={value}" for name, value in settings.items())
