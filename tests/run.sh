#!/usr/bin/env bash
# Runs the whole test suite; on a fresh machine it makes .venv first.
#
#   bash tests/run.sh                       everything that CI runs
#   bash tests/run.sh --slow                also the slow tests (memory of a 3 GB checkpoint, ...)
#   bash tests/run.sh --storm               a run is killed 200 times, not 20
#   bash tests/run.sh tests/hf/test_hf.py -k tied      any further arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/local/venv.sh test

ruff check .
ruff format --check .
# Two processes, a file at a time: a test uses little more than one core. In alphabetical order, so
# that the longest files (faults) do not come last, one process with nothing to do.
python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --durations=15 "$@"
