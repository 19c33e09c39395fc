#!/usr/bin/env bash
# Runs the launcher as two processes with two CPU devices each on this machine: the code path of a pod, without one.
#
#   bash launch/local/two_process.sh --config=digits_smoke --config.mesh="(2, 2, 1)" --workdir=runs/two
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -n "${VIRTUAL_ENV:-}" ] || source launch/local/venv.sh ""

port="$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')"
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=2"
pids=()
for id in 0 1; do
    python -m r1v3_jax.launch --coordinator="localhost:$port" --num_processes=2 --process_id="$id" "$@" &
    pids+=($!)
done
# If one process ends, the other is killed: it would wait for the first for ever. TERM would not do, because then it
# finishes its step and saves, and the step cannot finish.
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true' EXIT
status=0
for _ in 0 1; do
    wait -n || { status=$?; break; }
done
exit "$status"
