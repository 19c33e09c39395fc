"""The real TPU compiler on a small model of TPU shapes; see `tpu_compiler.py`. Every figure printed
is the compiler's estimate.
"""

import json
import re

import pytest
from tpu_compiler import answer_of, devices, needs_libtpu

from r1v3_jax.run import tpu_flags

MESH = (1, 2, 2)

pytestmark = needs_libtpu


@pytest.fixture(scope="module")
def reports():
    return answer_of(__file__)


def test_a_gradient_step_compiles_with_the_kernel(reports):
    report = reports["gradient"]
    show("gradient step", report)
    # One of each for the tower and one for the language model, each inside a scan over layers. The
    # forward kernel does not run again in the backward pass: remat "dots" keeps what it gave.
    assert report["kernels"] == {
        "splash_mqa_fwd": 2,
        "splash_mqa_dq": 2,
        "splash_mqa_dkv": 2,
    }
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


def test_decoding_in_slots_copies_neither_cache_nor_prompts(reports):
    report = reports["slots"]
    show("decode in slots", report)
    # A row of queries against prompts of others, and one against its own cache.
    assert report["kernels"] == {"decode_append": 1, "decode_attend": 2}
    assert report["scores"] == [] and report["cache"] == {} and report["prompts"] == {}
    assert len(report["all_gathers"]) <= 1, report["all_gathers"]


def test_the_attention_of_a_pods_update_becomes_machine_code(reports):
    """Samples of 8,192 tokens behind prompts of 4,096, a chip's share: within the compiler's own
    limit of VMEM a kernel's blocks do not fit, within that of `tpu.flags()` they do.
    """
    assert reports["attention"]["kernels"] == {
        f"splash_mqa_{name}": 1 for name in ("dkv", "dq", "fwd")
    }
    assert reports["attention"]["pod scores"] == []
    assert "exceeded scoped vmem limit" in reports["attention without flags"]


def show(name, report):
    sizes = {kind: f"{size / 2**20:.1f} MiB" for kind, size in report["bytes"].items()}
    print(
        f"{name}, TPU compiler's estimate for each of 4 v5p chips (nothing was run): {sizes}"
    )


# --- in a process of its own -------------------------------------------------------------------

LENGTH = 640  # tokens a row; a tile has 257, the class token with them, padded to 384
CACHE = (
    "bf16[2,8,1,384,128]"  # on one device: layers, samples, kv heads, slots, head_dim
)
# Keys or values of the prompts, a layer of them, or one a sample.
PROMPTS = ("bf16[2,4,1,640,128]", "bf16[4,1,640,128]", "bf16[8,1,640,128]")


def compile_all() -> dict:
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding

    from r1v3_jax.config import Compute, ModelConfig, TextConfig, VisionConfig
    from r1v3_jax.models import build
    from r1v3_jax.run.program import concrete
    from r1v3_jax.sampling import loop, params
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
    mesh = make_mesh(MESH, devices())
    rows, length, tiles, prompts, group = 4, LENGTH, 4, 2, 4

    def array(rules, shape, dtype, *axes):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, rules.spec(*axes))
        )

    def abstract(rules):
        compute = Compute(
            dtype="bfloat16", param_dtype="float32" if rules is TRAIN else "bfloat16",
            remat="dots", attention="splash", logprob_chunk=128, rules=rules,
        )  # fmt: skip
        return build.abstract(config, compute, mesh)

    def loss(model, tokens, positions, segments, index, tiles):
        hidden = model(tokens, positions, segments, model.encode_images(tiles), index)
        logprobs, entropy = model.logprobs(hidden, tokens)
        return jnp.sum(jnp.where(segments > 0, logprobs - 0.01 * entropy, 0))

    with jax.set_mesh(mesh):
        ids = array(TRAIN, (rows, length), jnp.int32, "batch", None)
        pixels = array(
            TRAIN, (tiles, 224, 224, 3), jnp.float32, "tiles", None, None, None
        )
        gradient = jax.jit(jax.grad(loss)).lower(
            abstract(TRAIN), ids, ids, ids, ids, pixels
        )

        images = array(DECODE, (tiles, 64, 512), jnp.bfloat16, "tiles", None, None)
        key = jax.eval_shape(lambda: jax.random.key(0))
        sampling = params.SamplingParams(max_tokens=384, top_p=0.9, banned=(9,))

        def rollout(prompts, slots):
            question = array(DECODE, (prompts, length), jnp.int32, "batch", None)
            lengths = array(DECODE, (prompts,), jnp.int32, "batch")
            static = {"group_size": group, "slots": slots, "sampling": sampling}
            asked = abstract(DECODE), question, lengths, images, question
            prefill = loop.prefill.lower(*asked, **static)
            state = concrete(
                jax.eval_shape(lambda *a: loop.prefill(*a, **static), *asked), mesh
            )
            bound = jax.ShapeDtypeStruct((), jnp.int32)
            decode = loop.decode.lower(
                asked[0], state, key, bound, bound, sampling=sampling
            )
            return prefill, decode

        prefill, decode = rollout(prompts, 0)
        _, slots = rollout(2 * prompts, prompts * group)
    programs = {
        "gradient": gradient,
        "prefill": prefill,
        "decode": decode,
        "slots": slots,
    }
    reports = {name: report(program.compile()) for name, program in programs.items()}
    attention = attention_of_a_pod()
    reports["attention"] = report(attention.compile(compiler_options=tpu_flags.flags()))
    try:
        attention.compile()
        reports["attention without flags"] = "compiles"
    except jax.errors.JaxRuntimeError as error:
        reports["attention without flags"] = str(error)
    return reports


def attention_of_a_pod():
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from r1v3_jax.models.attention import splash_after_prompt

    here = SingleDeviceSharding(devices()[0])

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    def loss(q, k, v, prompt_k, prompt_v, segments, used):
        out = splash_after_prompt(q, k, v, prompt_k, prompt_v, segments, used)
        return jnp.sum(out.astype(jnp.float32) ** 2)

    rows, heads, queries, width, length, prompt = 1, 4, 5, 128, 8192, 4096
    own, before = (rows, length, heads, width), (1, heads, prompt, width)
    return jax.jit(jax.grad(loss, argnums=range(5))).lower(
        array(jnp.bfloat16, rows, length, heads, queries, width),
        array(jnp.bfloat16, *own), array(jnp.bfloat16, *own),
        array(jnp.bfloat16, *before), array(jnp.bfloat16, *before),
        array(jnp.int32, rows, length), array(jnp.int32, 1),
    )  # fmt: skip


def report(compiled) -> dict:
    text, memory = compiled.as_text(), compiled.memory_analysis()
    kernels = re.findall(
        r"%(splash_mqa_[a-z]+|decode_[a-z]+)\S* = .*tpu_custom_call", text
    )
    arrays = set(re.findall(r"(?:f32|bf16|pred)\[[\d,]+\]", text))

    def made(
        shape,
    ):  # how arrays of a shape are made; the scatters stand inside the fusions
        ways = re.findall(rf"= {re.escape(shape)}(\S*) ([a-z-]+)\(", text)
        # S(1) is VMEM, where the compiler likes to have arrays as small as these.
        ways = [way for layout, way in ways if "S(1)" not in layout]
        ways = [way for way in ways if way not in ("parameter", "get-tuple-element")]
        return {way: ways.count(way) for way in sorted(set(ways))}

    square = ("640,640]", "384,384]", "257,257]")
    return {
        "kernels": {kernel: kernels.count(kernel) for kernel in sorted(set(kernels))},
        "scores": sorted(array for array in arrays if array.endswith(square)),
        # Of an attention behind prompts; its mask, of bits, is as large.
        "pod scores": sorted(
            x for x in arrays if "8192,12288" in x and not x.startswith("pred")
        ),
        "cache": made(CACHE),
        "prompts": {shape: ways for shape in PROMPTS if (ways := made(shape))},
        "all_gathers": re.findall(r"= (\S+)\{\S* all-gather(?:-start)?\(", text),
        "bytes": {
            "arguments": memory.argument_size_in_bytes,
            "output": memory.output_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
        },
    }


if __name__ == "__main__":
    print(json.dumps(compile_all()))
