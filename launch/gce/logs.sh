#!/usr/bin/env bash
# Follows what the program prints on one host of a slice; Ctrl-C leaves it running.
#
#   bash launch/gce/logs.sh --name=my-run --zone=us-east5-a
#
#   --worker=3      a host other than 0, which is the one that prints
#   --internal_ip   reach it by its internal address
set -euo pipefail
source "$(dirname "$0")/../arguments.sh"

name="" zone="" worker=0 internal_ip=""
read_arguments "name= zone= worker= internal_ip" "$@"
need name zone worker
check_name "$name"

exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$worker" ${internal_ip:+--internal-ip} \
    --command="sudo docker logs --follow --tail=200 r1v3"
