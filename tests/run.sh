#!/usr/bin/env bash
# Runs the tests; on a fresh machine it makes .venv first. tests/README.md says what proves what.
#
#   bash tests/run.sh              everything that CI runs
#   bash tests/run.sh --quick      what starts no run and compiles nothing large: after a change
#   bash tests/run.sh --slow       also the slow tests (memory of a 3 GB checkpoint, ...)
#   bash tests/run.sh --storm      also kills a run 20 times at random moments; --storm=200
#   bash tests/run.sh --cold       first forgets the programs that earlier runs compiled
#   bash tests/run.sh --nightly    --cold --slow --storm
#   bash tests/run.sh tests/hf/test_hf.py -k tied      any further arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/local/venv.sh test

cold=
arguments=()
for argument in "$@"; do
    case "$argument" in
        --cold) cold=yes ;;
        --storm) arguments+=(--storm=20) ;;
        --nightly) cold=yes arguments+=(--slow --storm=20) ;;
        *) arguments+=("$argument") ;;
    esac
done
[ -z "$cold" ] || python tests/helpers/kept_programs.py --empty

ruff check .
ruff format --check .
# Three processes on two cores, a file at a time: the tests of faults wait for other processes and for
# clocks during half of their time.
python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder --durations=15 \
    ${arguments[@]+"${arguments[@]}"}
