"""The real TPU compiler on a small model of TPU shapes; see `tpu_compiler.py`.

Every figure printed is the compiler's estimate.
"""

import json
import re
import tempfile
from pathlib import Path

import pytest
from tpu_compiler import answer_of, compiled, devices, needs_libtpu

from r1v3_jax.run import tpu_flags

MESH = (1, 2, 2)
# Behind the option on line 2. With these a gather could run inside a fusion.
GATHERS = """xla_enable_async_all_gather = true for v5p
xla_tpu_enable_async_collective_fusion_fuse_all_gather = true for v5p
"""
REFUSED = {
    "unknown": "xla_tpu_no_such = true",
    "of another form": "xla_tpu_scoped_vmem_limit_kib = large",
    "unsafe": "xla_tpu_enable_async_collective_fusion = true",
}

pytestmark = needs_libtpu


@pytest.fixture(scope="module")
def reports():
    return answer_of(__file__)


def test_a_gradient_step_compiles_with_the_kernel(reports):
    report = reports["gradient"]
    show("gradient step", report)
    # One of each for the tower and one for the language model, each inside a scan over layers. The
    # forward kernel does not run again in the backward pass: remat "dots" keeps its result.
    assert report["kernels"] == {
        "splash_mqa_fwd": 2,
        "splash_mqa_dq": 2,
        "splash_mqa_dkv": 2,
    }
    assert report["scores"] == []  # nothing of size T x T


def test_prefill_compiles_with_the_kernel(reports):
    report = reports["prefill"]
    show("prefill", report)
    assert report["kernels"] == {"splash_mqa_fwd": 1}
    assert report["scores"] == []
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
    # A row of queries against the prompts, and one against its own cache.
    assert report["kernels"] == {"decode_append": 1, "decode_attend": 2}
    assert report["scores"] == []
    assert report["cache"] == {}
    assert report["prompts"] == {}
    assert len(report["all_gathers"]) <= 1, report["all_gathers"]


def test_the_attention_of_a_pods_update_becomes_machine_code(reports):
    """A chip's share of samples of 8,192 tokens after prompts of 4,096.

    Within the compiler's own limit of VMEM a kernel's blocks do not fit, within that of
    `tpu_flags.options` they do.
    """
    assert reports["attention"]["kernels"] == {
        f"splash_mqa_{name}": 1 for name in ("dkv", "dq", "fwd")
    }
    assert reports["attention"]["pod scores"] == []
    assert "exceeded scoped vmem limit" in reports["attention without flags"]


def test_a_chip_says_its_kind_so_that_a_run_finds_its_programs_own_options(reports):
    assert reports["kind"] == "v5p"


@pytest.mark.parametrize("name", REFUSED)
def test_a_flag_that_the_compiler_refuses_is_named_with_its_line(reports, name):
    sentence = reports["refused"][name]
    if name == "unsafe" and tpu_flags.version(tpu_flags.installed_libtpu()) < (
        0,
        0,
        43,
    ):
        assert sentence == ""  # this compiler does not say it
        return
    assert (
        f"flags.txt, line 2: {REFUSED[name]} is refused by the TPU compiler" in sentence
    )
    assert "take v5p out of the chips of that line" in sentence
    assert "\n" not in sentence


def show(name, report):
    sizes = {kind: f"{size / 2**20:.1f} MiB" for kind, size in report["bytes"].items()}
    source = "TPU compiler's estimate for each of 4 v5p chips (nothing was run)"
    print(f"{name}, {source}: {sizes}")


# --- in a process of its own -------------------------------------------------------------------

LENGTH = 640  # tokens a row; a tile has 257, the class token with them, padded to 384
# On one device: layers, samples, kv heads, slots, head_dim.
CACHE = "bf16[2,8,1,384,128]"
# Keys or values of the prompts, of one layer, and repeated for each sample.
PROMPTS = ("bf16[2,4,1,640,128]", "bf16[4,1,640,128]", "bf16[8,1,640,128]")


def compile_all() -> dict:
    """Compiles everything, in a process of its own, and reports on it."""
    programs = lower_all()
    reports = {name: report(compiled(program)) for name, program in programs.items()}
    attention = attention_of_a_pod()
    reports["attention"] = report(compiled(attention, tpu_flags.options("v5p")))
    reports["refused"] = refused_flags()
    reports["kind"] = tpu_flags.kind_of(devices()[0])
    without_flags = compiled(attention)
    reports["attention without flags"] = without_flags.get("error", "compiles")
    return reports


def refused_flags() -> dict[str, str]:
    """What is said against one option each, "" if the compiler takes it."""
    from r1v3_jax.tpu import compiler

    sentences = {}
    kept = tpu_flags.FLAGS
    with tempfile.TemporaryDirectory() as directory:
        for name, option in REFUSED.items():
            tpu_flags.FLAGS = Path(directory) / "flags.txt"
            tpu_flags.FLAGS.write_text(f"# A reason.\n{option} for v5p\n{GATHERS}")
            try:
                compiler.check_options(devices(), "v5p")
                sentences[name] = ""
            except ValueError as error:
                sentences[name] = str(error)
    tpu_flags.FLAGS = kept
    return sentences


def model_config():
    from r1v3_jax.config import ModelConfig, TextConfig, VisionConfig

    return ModelConfig(
        text=TextConfig(
            vocab_size=1000,
            embed=512,
            layers=2,
            heads=8,
            kv_heads=4,
            head_dim=128,
            mlp=1024,
        ),
        vision=VisionConfig(
            image_size=224,
            embed=256,
            layers=2,
            heads=2,
            mlp=768,
            norm="rms_norm",
            qkv_bias=False,
            qk_norm=True,
        ),
        image_token_id=9,
        end_token_id=2,
        pad_token_id=0,
    )


def abstract_model(rules, mesh):
    from r1v3_jax.config import Compute
    from r1v3_jax.models import build
    from r1v3_jax.sharding import TRAIN

    compute = Compute(
        dtype="bfloat16",
        param_dtype="float32" if rules is TRAIN else "bfloat16",
        remat="dots",
        attention="splash",
        logprob_chunk=128,
        rules=rules,
    )
    return build.abstract(model_config(), compute, mesh)


def lower_all() -> dict:
    """Lowers a gradient step and the programs of a rollout: {name: lowered program}."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding

    from r1v3_jax.run.program import concrete
    from r1v3_jax.sampling import loop, params
    from r1v3_jax.sharding import DECODE, TRAIN, make_mesh

    mesh = make_mesh(MESH, devices())
    rows, tiles, prompts, group = 4, 4, 2, 4

    def array(rules, shape, dtype, *axes):
        sharding = NamedSharding(mesh, rules.spec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def loss(model, tokens, positions, segments, index, tiles):
        hidden = model(tokens, positions, segments, model.encode_images(tiles), index)
        logprobs, entropy = model.logprobs(hidden, tokens)
        return jnp.sum(jnp.where(segments > 0, logprobs - 0.01 * entropy, 0))

    def rollout(prompts, slots):
        """Lowers prefill and decode."""
        question = array(DECODE, (prompts, LENGTH), jnp.int32, "batch", None)
        lengths = array(DECODE, (prompts,), jnp.int32, "batch")
        images = array(DECODE, (tiles, 64, 512), jnp.bfloat16, "tiles", None, None)
        key = jax.eval_shape(lambda: jax.random.key(0))
        sampling = params.SamplingParams(max_tokens=384, top_p=0.9, banned=(9,))
        static = {"group_size": group, "slots": slots, "sampling": sampling}
        model = abstract_model(DECODE, mesh)
        arguments = model, question, lengths, images, question
        prefill = loop.prefill.lower(*arguments, **static)
        shapes = jax.eval_shape(lambda *a: loop.prefill(*a, **static), *arguments)
        state = concrete(shapes, mesh)
        bound = jax.ShapeDtypeStruct((), jnp.int32)
        decode = loop.decode.lower(model, state, key, bound, bound, sampling=sampling)
        return prefill, decode

    with jax.set_mesh(mesh):
        ids = array(TRAIN, (rows, LENGTH), jnp.int32, "batch", None)
        pixels_shape = (tiles, 224, 224, 3)
        pixels = array(TRAIN, pixels_shape, jnp.float32, "tiles", None, None, None)
        gradient = jax.jit(jax.grad(loss)).lower(
            abstract_model(TRAIN, mesh), ids, ids, ids, ids, pixels
        )
        prefill, decode = rollout(prompts, 0)
        _, slots = rollout(2 * prompts, prompts * group)
    return {"gradient": gradient, "prefill": prefill, "decode": decode, "slots": slots}


def attention_of_a_pod():
    """Lowers the attention of the pod's update, forward and backward."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from r1v3_jax.models.attention import splash_after_prompt

    sharding = SingleDeviceSharding(devices()[0])

    def floats(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

    def integers(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)

    def loss(q, k, v, prompt_k, prompt_v, segments, used):
        out = splash_after_prompt(q, k, v, prompt_k, prompt_v, segments, used)
        return jnp.sum(out.astype(jnp.float32) ** 2)

    rows, heads, queries, width, length, prompt = 1, 4, 5, 128, 8192, 4096
    keys = floats(rows, length, heads, width)
    prompt_keys = floats(1, heads, prompt, width)
    return jax.jit(jax.grad(loss, argnums=range(5))).lower(
        floats(rows, length, heads, queries, width),
        keys,
        keys,
        prompt_keys,
        prompt_keys,
        integers(rows, length),
        integers(1),
    )


def count(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}


def makers(text: str, shape: str) -> dict[str, int]:
    """How arrays of a shape are made: {opcode: count}; scatters are inside the fusions."""
    opcodes = []
    for layout, opcode in re.findall(rf"= {re.escape(shape)}(\S*) ([a-z-]+)\(", text):
        # S(1) is VMEM, where the compiler likes to have arrays as small as these.
        in_vmem = "S(1)" in layout
        if not in_vmem and opcode not in ("parameter", "get-tuple-element"):
            opcodes.append(opcode)
    return count(opcodes)


def report(outcome: dict) -> dict:
    """What a test wants to know of a compiled program."""
    text = outcome["text"]
    kernels = re.findall(
        r"%(splash_mqa_[a-z]+|decode_[a-z]+)\S* = .*tpu_custom_call", text
    )
    arrays = sorted(set(re.findall(r"(?:f32|bf16|pred)\[[\d,]+\]", text)))
    square = ("640,640]", "384,384]", "257,257]")
    # Queries x keys of the pod's attention; its mask, of bits, is as large.
    pod_scores = [array for array in arrays if "8192,12288" in array]
    prompts = {shape: makers(text, shape) for shape in PROMPTS}
    return {
        "kernels": count(kernels),
        "scores": [array for array in arrays if array.endswith(square)],
        "pod scores": [array for array in pod_scores if not array.startswith("pred")],
        "cache": makers(text, CACHE),
        "prompts": {shape: opcodes for shape, opcodes in prompts.items() if opcodes},
        "all_gathers": re.findall(r"= (\S+)\{\S* all-gather(?:-start)?\(", text),
        "bytes": outcome["bytes"],
    }


if __name__ == "__main__":
    print(json.dumps(compile_all()))
