# Makes .venv with the package and an extra, if it does not exist yet, and activates it. To be sourced from the
# repository's root:   source launch/local/venv.sh [EXTRA]
#
# The variable PYTHON chooses the interpreter (3.11 or newer); default: python3.

extra="${1:-}"
stamp=".venv/installed-${extra:-base}"
if [ ! -f "$stamp" ] || [ setup.py -nt "$stamp" ]; then
    python="${PYTHON:-python3}"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: Python 3.11 or newer is needed, $("$python" --version) found; set PYTHON=/path/to/python3.11" >&2
        exit 1
    }
    echo "making .venv (a few minutes, once)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --upgrade pip setuptools wheel
    # The tests compare with torch, in this release; so it is installed before another package asks for "torch". On
    # Linux pip takes several GB of CUDA along, unless it finds a CPU build:
    #   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu bash tests/run.sh
    [ "$extra" != test ] || .venv/bin/python -m pip install --quiet torch==2.13.0
    .venv/bin/python -m pip install --quiet --editable ".${extra:+[$extra]}"
    touch "$stamp"
fi
source .venv/bin/activate
