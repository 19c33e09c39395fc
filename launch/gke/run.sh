#!/usr/bin/env bash
# Runs the program on a slice of a GKE cluster, or on several, as described in launch/gke/jobset.yaml, in the cluster
# and namespace of kubectl's current context. Repeating the command leaves a run alone while it runs, and resumes one
# that has ended.
#
#   bash launch/gke/run.sh --name=my-run --config=tpu_v5p_256 \
#       --image=us-docker.pkg.dev/PROJECT/REPO/r1v3_jax:1 --inputs=gs://BUCKET/inputs --workdir=gs://BUCKET/my-run
#
#   --inputs                 has checkpoints/ and data/, which configs name; mounted at /inputs, for reading
#   --workdir                in a bucket with hierarchical namespace; mounted at /workdir
#   --service_account=NAME   of Kubernetes, with access to the bucket; without it `default`
#   --slices=2               so many slices in one run, each a node pool; without it one
#   --max_restarts=10        after failures; preemptions are not counted
#   --print                  print the manifest and do nothing
#   -- ...                   flags of the program, such as -- --config.grpo.steps=50
set -euo pipefail
source "$(dirname "$0")/../arguments.sh"

name="" config="" image="" inputs="" workdir="" service_account=default slices=1 max_restarts=10 print=""
read_arguments "name= config= image= inputs= workdir= service_account= slices= max_restarts= print" "$@"
shift "$parsed"
need name config image inputs workdir service_account slices max_restarts
check_name "$name"
check_directory inputs "$inputs"
check_directory workdir "$workdir"
read_slice "$config"
check_slices "$slices" "$hosts"
[[ "$max_restarts" =~ ^[0-9]+$ ]] || refuse "--max_restarts=$max_restarts is not a whole number"

# JSON is also YAML: a text written as JSON stays one string, whatever characters it has.
manifest="$(
    python3 - "$launch/gke/jobset.yaml" "$max_restarts" "$slices" "$hosts" "$chips" \
        "$name" "$image" "$inputs" "$workdir" "$service_account" "$gke" "${topology#*:}" \
        --config="$config" --workdir=/workdir "$port" ${several[@]+"${several[@]}"} "$@" <<'PYTHON'
import json, string, sys

template, max_restarts, slices, hosts, chips, *texts = sys.argv[1:]
name, image, inputs, workdir, service_account, accelerator, topology, *flags = texts
numbers = dict(MAX_RESTARTS=max_restarts, SLICES=slices, HOSTS=hosts, CHIPS=chips)
texts = dict(NAME=name, IMAGE=image, SERVICE_ACCOUNT=service_account, FLAGS=flags)
bucket, _, directory = inputs.removeprefix("gs://").partition("/")
texts |= dict(INPUTS_BUCKET=bucket, INPUTS_OPTIONS=f"implicit-dirs,only-dir={directory}")
# Owned by the user of jobset.yaml. Metadata are not cached, so that hosts see each other's files at once.
bucket, _, directory = workdir.removeprefix("gs://").partition("/")
options = f"only-dir={directory},uid=1000,gid=1000"
options += ",metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0"
texts |= dict(WORKDIR_BUCKET=bucket, WORKDIR_OPTIONS=options)
texts |= dict(GKE_ACCELERATOR=accelerator, TOPOLOGY=topology)
texts = {place: json.dumps(text) for place, text in texts.items()}
print(string.Template(open(template).read()).substitute(numbers | texts))
PYTHON
)"
if [ -n "$print" ]; then
    echo "$manifest"
    exit
fi

ended="$(kubectl get jobset "$name" --ignore-not-found --output="jsonpath={.status.terminalState}")"
if [ -n "$ended" ]; then
    kubectl delete jobset "$name"
fi
kubectl apply --filename=- <<<"$manifest"
echo "To see what it prints:"
echo "  kubectl logs --follow --container=r1v3 \\"
echo "    --selector=jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
