"""The real TPU compiler on a small model of TPU shapes: no TPU is needed, nothing is run.

Needs the package libtpu (`pip install "jax[tpu]"`); without it the tests are skipped. Run as a
program, this file compiles and prints; the tests do so in a process of its own, because libtpu
reads its environment before jax is imported. Every figure printed is the compiler's estimate.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
TOPOLOGY, MESH = "v5p:2x2x1", (1, 2, 2)  # four chips

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='needs the TPU compiler: pip install "jax[tpu]"',
)


@pytest.fixture(scope="module")
def reports():
    root = Path(__file__).parent.parent
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_gradient_step_compiles_with_the_kernel(reports):
    report = reports["gradient"]
    show("gradient step", report)
    # One of each for the tower and one for the language model, each inside a scan over layers. The
    # forward kernel does not run again in the backward pass: remat "dots" keeps what it gave.
    assert report["kernels"] == {"splash_mqa_fwd": 2, "splash_mqa_dq": 2, "splash_mqa_dkv": 2}
    assert report["scores"] == []  # nothing of size T x T


def test_prefill_compiles_with_the_kernel(reports):
    report = reports["prefill"]
    show("prefill", report)
    assert report["kernels"] == {"splash_mqa_fwd": 1} and report["scores"] == []
    assert report["cache"] == {"broadcast": 2}  # keys and values start as zeros


def test_decoding_compiles_without_copying_the_cache(reports):
    report = reports["decode"]
    show("decode", report)
    assert report["kernels"] == {"decode_append": 1, "decode_attend": 1}
    assert report["scores"] == []
    # One kernel writes keys and values in place; nothing else makes an array as large as they are.
    assert report["cache"] == {}
    # No weight is gathered for a token: only the logits, to be sorted for top_p.
    assert len(report["all_gathers"]) <= 1, report["all_gathers"]


def show(name, report):
    sizes = {kind: f"{size / 2**20:.1f} MiB" for kind, size in report["bytes"].items()}
    print(f"{name}, TPU compiler's estimate for each of 4 v5p chips (nothing was run): {sizes}")


# --- in a process of its own -------------------------------------------------------------------

LENGTH = 640  # tokens a row; a tile has 257, the class token with them, padded to 384
CACHE = "bf16[2,8,1,384,128]"  # on one device: layers, samples, kv heads, slots, head_dim


def compile_all() -> dict:
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import NamedSharding

    from r1v3_jax import sampler
    from r1v3_jax.config import Compute, ModelConfig, TextConfig, VisionConfig
    from r1v3_jax.models import r1v3
    from r1v3_jax.programs import concrete
    from r1v3_jax.sharding import DECODE, TRAIN, make_mesh

    config = ModelConfig(
        text=TextConfig(
            vocab_size=1000, embed=512, layers=2, heads=8, kv_heads=4, head_dim=128, mlp=1024
        ),
        vision=VisionConfig(
            image_size=224, embed=256, layers=2, heads=2, mlp=768,
            norm="rms_norm", qkv_bias=False, qk_norm=True,
        ),
        image_token_id=9, end_token_id=2, pad_token_id=0,
    )  # fmt: skip
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices
    mesh = make_mesh(MESH, devices)
    rows, length, tiles, prompts, group = 4, LENGTH, 4, 2, 4

    def array(rules, shape, dtype, *axes):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, rules.spec(*axes)))

    def abstract(rules):
        compute = Compute(
            dtype="bfloat16", param_dtype="float32" if rules is TRAIN else "bfloat16",
            remat="dots", attention="splash", logprob_chunk=128, rules=rules,
        )  # fmt: skip
        return r1v3.abstract(config, compute, mesh)

    def loss(model, tokens, positions, segments, index, tiles):
        hidden = model(tokens, positions, segments, model.encode_images(tiles), index)
        logprobs, entropy = model.logprobs(hidden, tokens)
        return jnp.sum(jnp.where(segments > 0, logprobs - 0.01 * entropy, 0))

    with jax.set_mesh(mesh):
        ids = array(TRAIN, (rows, length), jnp.int32, "batch", None)
        pixels = array(TRAIN, (tiles, 224, 224, 3), jnp.float32, "tiles", None, None, None)
        gradient = jax.jit(jax.grad(loss)).lower(abstract(TRAIN), ids, ids, ids, ids, pixels)

        question = array(DECODE, (prompts, length), jnp.int32, "batch", None)
        lengths = array(DECODE, (prompts,), jnp.int32, "batch")
        images = array(DECODE, (tiles, 64, 512), jnp.bfloat16, "tiles", None, None)
        key = jax.eval_shape(lambda: jax.random.key(0))
        sampling = sampler.Sampling(max_tokens=384, top_p=0.9, banned=(9,))
        static = {"group_size": group, "sampling": sampling}
        asked = abstract(DECODE), question, lengths, images, question
        prefill = sampler.prefill.lower(*asked, **static)
        state = concrete(jax.eval_shape(lambda *a: sampler.prefill(*a, **static), *asked), mesh)
        limit = jax.ShapeDtypeStruct((), jnp.int32)
        decode = sampler.decode.lower(asked[0], state, key, limit, sampling=sampling)
    programs = {"gradient": gradient, "prefill": prefill, "decode": decode}
    return {name: report(program.compile()) for name, program in programs.items()}


def report(compiled) -> dict:
    text, memory = compiled.as_text(), compiled.memory_analysis()
    kernels = re.findall(r"%(splash_mqa_[a-z]+|decode_[a-z]+)\S* = .*tpu_custom_call", text)
    arrays = set(re.findall(r"(?:f32|bf16|pred)\[[\d,]+\]", text))
    # How arrays as large as the cache are made; the scatters stand inside the fusions.
    ways = re.findall(rf"= {re.escape(CACHE)}\S* ([a-z-]+)\(", text)
    ways = [way for way in ways if way not in ("parameter", "get-tuple-element")]
    square = ("640,640]", "384,384]", "257,257]")
    return {
        "kernels": {kernel: kernels.count(kernel) for kernel in sorted(set(kernels))},
        "scores": sorted(array for array in arrays if array.endswith(square)),
        "cache": {made: ways.count(made) for made in sorted(set(ways))},
        "all_gathers": re.findall(r"= (\S+)\{\S* all-gather(?:-start)?\(", text),
        "bytes": {
            "arguments": memory.argument_size_in_bytes,
            "output": memory.output_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
        },
    }


if __name__ == "__main__":
    print(json.dumps(compile_all()))
