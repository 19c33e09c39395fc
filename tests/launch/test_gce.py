"""The scripts for TPU VMs: which commands they give, and what they do where one fails."""

import pytest
from stand_in_cloud import (
    COMPLETE,
    CONFIG,
    IMAGE,
    MOUNTED,
    NAME,
    PORT,
    STAND_IN,
    ZONE,
)

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
