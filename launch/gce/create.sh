#!/usr/bin/env bash
# Requests the slice of a config from Cloud TPU (a queued resource) and waits until it is ready. Repeating the command
# makes no second request; it goes on waiting.
#
#   bash launch/gce/create.sh --name=my-run --config=tpu_v5p_256 --zone=us-east5-a
#
#   --spot          a slice that costs less and can be preempted at any time
#   --internal_ip   hosts without public addresses; their network needs Private Google Access
#   -- ...          anything else for `gcloud compute tpus queued-resources create`, such as -- --reserved
set -euo pipefail
source "$(dirname "$0")/../arguments.sh"

name="" config="" zone="" spot="" internal_ip=""
read_arguments "name= config= zone= spot internal_ip" "$@"
shift "$parsed"
need name config zone
check_name "$name"
read_slice "$config"

state() { gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format="value(state.state)"; }

if ! now="$(state 2>/dev/null)"; then
    gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
        --accelerator-type="$accelerator" --runtime-version="$runtime" \
        ${spot:+--spot} ${internal_ip:+--internal-ips} "$@"
    now="$(state)"
fi
echo "$name: $now"
while [ "$now" != ACTIVE ]; do
    case "$now" in
        FAILED | SUSPENDING | SUSPENDED | DELETING)
            echo "error: this slice will not come. Delete it and ask again:" >&2
            echo "  bash launch/gce/stop.sh --name=$name --zone=$zone --delete" >&2
            exit 1
            ;;
    esac
    sleep 30
    before="$now"
    now="$(state)" || now="$before"  # gcloud has printed the error, which may be temporary
    [ "$now" = "$before" ] || echo "$name: $now"
done
