"""The driver of the checks on a GPU: parts that pass, fail and hang, and what it reads of them."""

import os
import subprocess
import time

import commands
import pytest

from r1v3_jax.files import read_json

SCRIPT = """
import sys
sys.path.insert(0, "tools")
import gpu_check

def python(text, seconds=60, **environment):
    return gpu_check.Part([sys.executable, "-c", text], seconds, environment)

REPORT = '''
import json, os, subprocess, sys
row = {"wall_s": {"median": 0.5}, "tokens_per_s": 800.0}
report = {"timings": {"sampler": row, "decode": {"wall_s": {"median": 0.4}}}}
report |= {"shape": {"new_tokens": 100}, "mfu": {"update": 0.25}}
json.dump(report, open(os.environ["WHERE"], "w"))
print("done", os.environ["JAX_PLATFORMS"])
'''
HANGS = '''
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(child.pid, flush=True)
time.sleep(300)
'''
DUMP = '''
import os
os.makedirs(os.environ["WHERE"])
name = os.environ["WHERE"] + "/module_1.jit_decode.sm_after_optimizations.txt"
open(name, "w").write("a = fusion(b)\\\\n  c = copy(a)\\\\n d = fusion(c)\\\\n")
'''
gpu_check.PARTS |= {
    "good": python(REPORT, WHERE="{out}.json"),
    "bad": python("print('so far'); raise ValueError('no such thing')"),
    "slow": python(HANGS, seconds=5),
    "hlo": python(DUMP, WHERE="{out}"),
}
gpu_check.cli.run(gpu_check.main)
"""


def check(tmp_path, *flags: str) -> subprocess.CompletedProcess:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    return commands.run(script, f"--out={tmp_path}/out", "--platform=cpu", *flags)


def test_one_part_ends_no_other(tmp_path):
    done = check(tmp_path, "--parts=bad,slow,good,hlo")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: 2 of 4 parts failed; {tmp_path}/out/NAME.log says why\n"
    )
    bad, slow, good, hlo = done.stdout.splitlines()
    assert bad.split()[:2] == ["bad", "failed"]
    assert bad.endswith("ValueError: no such thing")
    assert slow.split()[:4] == ["slow", "stopped", "after", "5"]
    assert good.split()[:2] == ["good", "passed"]
    assert good.endswith("sampler 800.00  4.00 ms a token")
    assert hlo.split()[:2] == ["hlo", "passed"]

    # What a part started ends with it.
    child = int((tmp_path / "out" / "slow.log").read_text())
    with pytest.raises(ProcessLookupError):
        signal_until_gone(child)
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["good"]["mfu"] == {"update": 0.25}
    assert summary["good"]["says"] == "done cpu"
    assert summary["hlo"]["decode"] == {
        "fusion": 2,
        "custom-call": 0,
        "copy": 1,
        "dynamic-slice": 0,
        "while": 0,
        "conditional": 0,
    }


def signal_until_gone(pid: int) -> None:
    """Raises ProcessLookupError when there is no such process, within ten seconds."""
    for _ in range(100):
        os.kill(pid, 0)
        time.sleep(0.1)


def test_the_device_of_this_machine(tmp_path):
    done = check(tmp_path, "--parts=device")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["device", "passed"]
    assert done.stdout.strip().endswith("cpu")


def test_variants_are_parts_of_their_own(tmp_path):
    """Stopped at once: each has its flags of XLA, and one without any comes first."""
    done = check(tmp_path, "--parts=variants", "--seconds=1")
    assert done.returncode == 1
    summary = read_json(tmp_path / "out" / "summary.json")
    flags = {name: part["environment"]["XLA_FLAGS"] for name, part in summary.items()}
    assert len(flags) == 5
    assert flags["variant_none"] == ""
    assert flags["variant_no_graphs"] == "--xla_gpu_enable_command_buffer="


def test_an_unknown_part(tmp_path):
    done = check(tmp_path, "--parts=device,tset")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: --parts: no part 'tset'; there are device, tests,"
    )
