#!/usr/bin/env bash
# Stops the program on every host of a slice; it has ten minutes to save. Without --delete the slice stays, and is paid
# for.
#
#   bash launch/gce/stop.sh --name=my-run --zone=us-east5-a --delete
#
#   --delete        give the slice back; everything on its disks is lost
#   --internal_ip   reach the hosts by their internal addresses
set -euo pipefail
source "$(dirname "$0")/../arguments.sh"

name="" zone="" delete="" internal_ip=""
read_arguments "name= zone= delete internal_ip" "$@"
need name zone
check_name "$name"

stopped=yes
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all ${internal_ip:+--internal-ip} \
    --command="sudo docker stop -t 600 r1v3" || stopped=""
if [ -n "$delete" ]; then  # even if its hosts no longer answer
    exec gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --async --quiet
fi
echo "The slice $name is still there; --delete gives it back."
[ -n "$stopped" ]
