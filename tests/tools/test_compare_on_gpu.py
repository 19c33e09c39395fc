"""A comparison on a GPU, with both programs replaced by what they would write."""

import json

import commands

SCRIPT = """
import sys
sys.path.insert(0, "tools/bench")
import json
import compare
from absl import app

asked = []

def write(command, out):
    asked.append([word for word in command if word.startswith("--")])
    number = len(asked)
    seconds = {"cpu_s": {"median": 9.0}, "wall_s": {"median": float(number)}}
    if command[1].endswith("__main__.py"):
        return {
            "timings": {"rollout": seconds, "step": seconds, "sampler": seconds},
            "peak_rss_gib": {"step": 5.0},
            "peak_device_gib": 2.0,
        }
    report = {"generate": seconds, "step_with_optimizer": seconds, "peak_rss_gb": 5.0}
    return {**report, "peak_device_gib": 6.0}

compare.run = write

def main(argv):
    result = compare.compare(["trl"])
    print(json.dumps({"ratios": result["trl"]["ratios"], "asked": asked}))

app.run(main)
"""


def compared(tmp_path, *flags: str) -> dict:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    python = tmp_path / "python"
    python.touch()
    done = commands.run(
        script, "--pairs=2", "--runs=3", f"--trl_python={python}", *flags
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_wall_seconds_and_the_memory_of_the_device_are_compared(tmp_path):
    result = compared(tmp_path, "--device=gpu", "--dtype=bfloat16", "--attention=cudnn")
    ratios = {name: row["median"] for name, row in result["ratios"].items()}
    # Runs 1 and 3 were theirs, 2 and 4 ours: 1 / 2 and 3 / 4.
    assert ratios == {
        "rollout, wall s": 0.625,
        "step, wall s": 0.625,
        "step, peak GiB": 3.0,
    }
    theirs, ours = result["asked"][:2]
    assert theirs == ["--device=cuda", "--dtype=bfloat16", "--steps=5"]
    assert {"--attention=cudnn", "--dtype=bfloat16", "--shape=trl"} <= set(ours)


def test_on_a_cpu_seconds_of_all_threads_and_the_memory_of_the_process(tmp_path):
    result = compared(tmp_path)
    ratios = {name: row["median"] for name, row in result["ratios"].items()}
    assert ratios == {
        "rollout, CPU s": 1.0,
        "rollout, wall s": 0.625,
        "step, CPU s": 1.0,
        "step, wall s": 0.625,
        "step, peak GiB": 1.0,
    }
    assert result["asked"][0] == ["--device=cpu", "--dtype=float32", "--steps=5"]
