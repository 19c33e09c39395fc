"""A cloud that is not there, and the command lines of launch/ that are complete.

gcloud, kubectl, xpk, docker and sudo are stand-ins that write down what they are called with.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"

ROWS = [
    row.split()
    for row in (LAUNCH / "slices.txt").read_text().splitlines()
    if row and row[0] != "#"
]
CONFIGS = dict(row for row in ROWS if len(row) == 2)
COLUMNS = ("topology", "accelerator", "runtime", "gke", "machine", "hosts", "chips")
SLICES = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in ROWS if len(row) != 2}

NAME, ZONE = "--name=my-run", "--zone=us-east5-a"
IMAGE, INPUTS = "--image=us-docker.pkg.dev/p/r/r1v3_jax:1", "--inputs=gs://bucket/in"
CONFIG, WORKDIR = "--config=tpu_v5p_256", "--workdir=gs://runs-bucket/dir/my-run"
MOUNTED = "--workdir=/workdir"  # what the program gets: it takes no gs://
PORT = "--coordinator_port=8476"  # of the firewall rules that Google makes
# Every script with all that it needs.
COMPLETE = {
    "gce/create.sh": [NAME, CONFIG, ZONE],
    "gce/run.sh": [NAME, CONFIG, ZONE, IMAGE, INPUTS, WORKDIR],
    "gce/logs.sh": [NAME, ZONE],
    "gce/stop.sh": [NAME, ZONE],
    "gke/run.sh": [NAME, CONFIG, IMAGE, INPUTS, WORKDIR],
    "gke/xpk.sh": [
        NAME,
        CONFIG,
        "--cluster=c",
        IMAGE,
        "--storage=s",
        "--workdir_storage=w",
    ],
}

# A stand-in writes its name and arguments, and what it reads if anything, as one line of JSON, then
# prints the next line that it finds in NAME.answers; without one it prints nothing, and `fail` in
# its place is exit code 1.
STAND_IN = f"""#!{sys.executable}
import json, pathlib, sys
me = pathlib.Path(sys.argv[0])
stdin = sys.stdin.read()
with open(me.parent / "calls", "a") as calls:
    print(json.dumps([me.name, *sys.argv[1:], *([stdin] if stdin else [])]), file=calls)
answers = me.with_suffix(".answers")
lines = answers.read_text().splitlines() if answers.exists() else []
answers.write_text("".join(line + "\\n" for line in lines[1:]))
if lines:
    sys.exit(1) if lines[0] == "fail" else print(lines[0])
"""


class Cloud:
    """A directory of stand-ins in front of PATH."""

    def __init__(self, directory: Path):
        self.directory = directory
        for tool in ("gcloud", "kubectl", "xpk", "docker", "sleep"):
            self.program(tool, STAND_IN)

    def program(self, name: str, text: str):
        (self.directory / name).write_text(text)
        (self.directory / name).chmod(0o755)

    def answers(self, tool: str, *lines: str):
        (self.directory / f"{tool}.answers").write_text(
            "".join(line + "\n" for line in lines)
        )

    def bash(self, *arguments: str) -> subprocess.CompletedProcess:
        path = f"{self.directory}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", *arguments], env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def host(
        self, command: str, *, without: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess:
        """Runs what is sent to a host, where every program is a stand-in."""
        bash = shutil.which("bash")
        programs = [
            "curl",
            "lsb_release",
            "apt-get",
            "gcsfuse",
            "findmnt",
            "umount",
            "mkdir",
        ]
        for tool in {*programs, "tee", "hostname"} - {*without}:
            self.program(tool, STAND_IN)
        self.program("sudo", f'#!{bash}\nexec "$@"\n')
        return subprocess.run(
            [bash, "-c", command], env={"PATH": str(self.directory)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess:
        return self.bash(str(LAUNCH / script), *arguments)

    @property
    def calls(self) -> list[list[str]]:
        calls = self.directory / "calls"
        return (
            [json.loads(line) for line in calls.read_text().splitlines()]
            if calls.exists()
            else []
        )
