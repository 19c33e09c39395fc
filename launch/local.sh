#!/usr/bin/env bash
# Makes the environment if necessary and runs the main job on this machine: a small R1V3 learns to reason about real
# handwritten digits, through all stages. Arguments go to the launcher: bash launch/local.sh --workdir=runs/mine
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/local/venv.sh ""  # no extra; without an argument venv.sh would see this script's arguments
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"  # a TPU or GPU has its own configs
exec python -m r1v3_jax.launch --config=digits "$@"
