#!/usr/bin/env bash
# Makes environments with programs that evaluate models elsewhere, and runs the tests beside them. Not a part of
# tests/run.sh: VLMEvalKit takes 1 GB and some minutes, once.
#
#   bash tests/kits.sh                  VLMEvalKit's prompts, rules and scores beside ours
#   bash tests/kits.sh vlmeval -k mmmu  further arguments go to pytest
#   bash tests/kits.sh lm-eval          lm-eval asks a server our questions; lmms-eval too
#
# They lie beside the compiled programs of the tests, in ${XDG_CACHE_HOME:-~/.cache}/r1v3_jax/kits. Each stands on .venv:
# what the kit does not need in another release (torch, jax, pytest) is taken from there.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/local/venv.sh test

kit="${1:-vlmeval}"
[ $# -eq 0 ] || shift
root="${XDG_CACHE_HOME:-$HOME/.cache}/r1v3_jax/kits"
environment="$root/$kit"
stamp="$environment/complete-$(sha256sum <tests/kits.sh | head -c 12)"

# pip's warnings are kept for when it fails: of the packages that a kit names many are left out.
install() {
    if ! "$environment/bin/pip" install --quiet --no-compile --disable-pip-version-check "$@" 2>"$environment/errors"; then
        cat "$environment/errors" >&2
        exit 1
    fi
}

# 27 of the kit's 68 requirements are not needed to make prompts and to score by rule.
install_vlmeval() {
    install --no-deps ms-vlmeval==0.0.20
    install "pandas<3" accelerate antlr4-python3-runtime==4.11.1 datasets decord imageio jieba joblib json_repair \
        latex2sympy2-extended levenshtein math-verify matplotlib nltk num2words openai opencv-python-headless openpyxl \
        portalocker pylatexenc==2.10 python-dotenv qwen-vl-utils rich rouge scikit-learn scipy sty tabulate termcolor \
        tiktoken timeout-decorator tqdm validators xlsxwriter
    install_torchvision
}

# The torchvision of the package index is built for CUDA. Its functions in Python work without, once the operators are
# declared that it describes.
install_torchvision() {
    install --no-deps torchvision==0.28.0
    "$environment/bin/python" - <<'PYTHON'
import sysconfig
from pathlib import Path

path = Path(sysconfig.get_paths()["purelib"], "torchvision", "__init__.py")
declared = '''import torch.library
_operators = torch.library.Library("torchvision", "DEF")
_operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
'''
path.write_text(declared + path.read_text())
PYTHON
}

case "$kit" in
    vlmeval | lm-eval | lmms-eval) ;;
    *) echo "error: $kit is no kit; wanted vlmeval, lm-eval or lmms-eval" >&2 && exit 1 ;;
esac
if [ ! -f "$stamp" ]; then
    echo "making $environment (some minutes, once)"
    rm -rf "$environment"
    python -m venv "$environment"
    packages="$(python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
    own="$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
    echo "$packages" >"$own/of_the_tests.pth"
    case "$kit" in
        vlmeval) install_vlmeval ;;
        lm-eval) install "lm-eval[api]==0.4.13" pillow ;;
        lmms-eval)
            install --no-deps lmms-eval==0.7.3
            # filelock 4 has no module _api; pytablewriter is only imported when the table is printed.
            install accelerate datasets evaluate "filelock<4" loguru openai pytablewriter python-dotenv pytz sacrebleu tenacity
            install_torchvision
            ;;
    esac
    touch "$stamp"
fi
echo "$kit: $environment"
files=(tests/evaluate/test_other_kits.py tests/serve/test_kits_ask_the_server.py)
[ "$kit" != vlmeval ] || files=(tests/benchmarks/test_kit_rules.py tests/benchmarks/test_kit_prompts.py
    tests/benchmarks/test_kit_puzzles.py tests/evaluate/test_kit_scores.py tests/serve/test_kits_ask_the_server.py)
PYTHONPATH="$PWD" "$environment/bin/python" -m pytest -rs "${files[@]}" "$@"
