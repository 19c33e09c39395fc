"""The manifest of a run on GKE: what Kubernetes takes, and what it says of each config."""

import re

import pytest
import yaml
from stand_in_cloud import (
    COMPLETE,
    CONFIGS,
    IMAGE,
    INPUTS,
    MOUNTED,
    NAME,
    PORT,
    SLICES,
    WORKDIR,
)

from r1v3_jax.config import topology
from r1v3_jax.run.preemption import PREEMPTED

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
                "replicas": int,
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
    assert replicated["replicas"] == 1
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


def test_several_slices_are_jobs_alike(cloud):
    """A job for each slice, the pods of one slice in each, and a program that knows how many."""
    arguments = [*COMPLETE["gke/run.sh"], "--slices=4", "--print", "--", "--x=1"]
    done = cloud.run("gke/run.sh", *arguments)
    assert done.returncode == 0, done.stderr
    jobset = yaml.safe_load(done.stdout)
    assert problems(jobset, JOBSET) == []
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 4
    job = replicated["template"]["spec"]
    assert job["completions"] == job["parallelism"] == 32
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"][-2:] == ["--topology=4 x v5p:4x4x8", "--x=1"]
    # What the program makes of its flag.
    assert topology.parse("4 x v5p:4x4x8").hosts == 4 * 32


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
