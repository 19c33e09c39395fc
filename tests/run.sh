#!/usr/bin/env bash
# Runs the whole test suite; on a fresh machine it makes .venv first.
#
#   bash tests/run.sh                       everything that CI runs
#   bash tests/run.sh --slow                also the slow tests (memory of a 3 GB checkpoint, ...)
#   bash tests/run.sh tests/test_hf.py -k tied      any further arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/local/venv.sh test

ruff check .
ruff format --check .
python -m pytest --durations=15 "$@"
