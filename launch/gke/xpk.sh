#!/usr/bin/env bash
# Runs the program on a slice of a cluster that xpk made, or on several.
#
#   bash launch/gke/xpk.sh --name=my-run --config=tpu_v5p_256 --cluster=CLUSTER \
#       --image=us-docker.pkg.dev/PROJECT/REPO/r1v3_jax:1 --storage=STORAGE --workdir_storage=STORAGE
#
#   --storage=STORAGE          a storage of xpk with checkpoints/ and data/, which configs name; mounted at /inputs
#   --workdir_storage=STORAGE  a storage of xpk, mounted at /workdir, where a run has the directory NAME: another
#                              bucket, with hierarchical namespace, or Filestore
#   --project=... --zone=...   if they are not gcloud's defaults
#   --slices=2                 so many slices in one run; without it one
#   --max_restarts=10          after failures and preemptions
#   -- ...                     flags of the program, such as -- --config.grpo.steps=50
#
# All hosts of xpk have four chips: tpu_v5e_8 and tpu_v6e_8 run on two of them, with the same topology.
set -euo pipefail
source "$(dirname "$0")/../arguments.sh"

name="" config="" cluster="" image="" storage="" workdir_storage="" project="" zone="" slices=1 max_restarts=10
read_arguments "name= config= cluster= image= storage= workdir_storage= project= zone= slices= max_restarts=" "$@"
shift "$parsed"
need name config cluster image storage workdir_storage slices max_restarts
check_name "$name"
read_slice "$config"
check_slices "$slices" "$hosts"

# xpk's wrapper passes SIGTERM to its child; with exec the child is the program. A host returns exit code 1 when another
# host is gone; xpk restarts on it only with --restart-on-exit-codes. On 42, preempted and saved, it restarts anyway.
program="python -m r1v3_jax.launch $(printf '%q ' --config="$config" --workdir="/workdir/$name" "$port" ${several[@]+"${several[@]}"} "$@")"
xpk workload create --workload="$name" --cluster="$cluster" ${project:+--project="$project"} ${zone:+--zone="$zone"} \
    --tpu-type="$accelerator" --num-slices="$slices" --docker-image="$image" \
    --storage="$storage" --storage="$workdir_storage" \
    --max-restarts="$max_restarts" --restart-on-exit-codes=1 --termination-grace-period-seconds=600 \
    --command="cd /inputs && exec $program"
