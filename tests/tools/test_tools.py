"""The tools that read and write checkpoints, and what transformers makes of their files."""

import hashlib
import shutil

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from small_checkpoints import CONFIG, write_language_model
from tools_for_tests import run_all, succeed
from torch_reference import ImageProcessorOnly
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
)

from r1v3_jax.files import read_json, write_json
from r1v3_jax.hf.read_config import LAYOUTS
from r1v3_jax.processing import tokenizer
from r1v3_jax.run import weights
from r1v3_jax.sharding import make_mesh

QUESTION = "What is the difference?"


def test_in_and_out_again_is_bitwise(work):
    published = load_file(work / "published" / "model.safetensors")
    original = load_file(work / "original" / "model.safetensors")
    assert set(original) == set(published)
    assert all(torch.equal(original[name], published[name]) for name in published)


def test_checksums_cover_every_file(work):
    for layout in LAYOUTS:
        lines = (work / layout / "SHA256SUMS").read_text().splitlines()
        written = dict(reversed(line.split("  ")) for line in lines)
        sums = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (work / layout).iterdir()
            if path.name != "SHA256SUMS"
        }
        assert written == sums
        assert set(sums) == {
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "processor_config.json" if layout == "hf" else "configuration_chat.py",
        }


def test_transformers_reads_the_same_prompt_and_computes_the_same_logits(work):
    """Two images through InternVLProcessor and through tools/logits.py: the same ids and pixels."""
    out = work / "logits.npz"
    pictures = [f"--image={work}/{i}.png" for i in range(2)]
    printed = succeed(
        "logits",
        f"--hf={work}/hf",
        f"--prompt={QUESTION}",
        *pictures,
        f"--out={out}",
    )
    assert printed == f"{out}: 141 tokens, 14 tiles, logits [141, 277]\n"
    ours = np.load(out)
    assert {name: (a.dtype.name, a.shape) for name, a in ours.items()} == {
        "tokens": ("int32", (141,)),
        "tiles": ("float32", (14, 28, 28, 3)),
        "logits": ("float32", (141, 277)),
    }

    processor = ImageProcessorOnly.from_pretrained(work / "hf")
    assert type(processor.image_processor) is GotOcr2ImageProcessorPil
    # No token was added on the way.
    assert len(processor.tokenizer) == CONFIG.text.vocab_size
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
    )
    images = [Image.open(work / f"{i}.png") for i in range(2)]
    theirs = processor(text=text, images=images, return_tensors="pt")
    np.testing.assert_array_equal(theirs["input_ids"][0], ours["tokens"])
    np.testing.assert_array_equal(
        theirs["pixel_values"].permute(0, 2, 3, 1), ours["tiles"]
    )

    model, info = transformers.InternVLForConditionalGeneration.from_pretrained(
        work / "hf", output_loading_info=True
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[key], key
    with torch.no_grad():
        logits = model(**theirs).logits[0].numpy()
    # float32, sums in other orders.
    np.testing.assert_allclose(ours["logits"], logits, atol=1e-4)
    generated = model.generate(
        **theirs, max_new_tokens=4, do_sample=False, eos_token_id=-1
    )
    assert generated.shape == (1, 145)
    assert generated[0, 141] == ours["logits"][-1].argmax()


def test_every_directory_gives_the_same_logits(work, tmp_path):
    """Also the original layout, and with <image> markers in other places; and text alone."""
    prompt = "--prompt=The first <image>, the second <image>?"
    pictures = [f"--image={work}/{i}.png" for i in range(2)]
    names = ("published", "hf", "original")
    commands = []
    for name in names:
        flags = [f"--hf={work}/{name}", f"--out={tmp_path}/{name}.npz"]
        commands.append(["logits", *flags, prompt, *pictures])
    flags = [f"--hf={work}/hf", f"--out={tmp_path}/text", "--dtype=bfloat16"]
    commands.append(["logits", *flags, "--prompt=Hello"])
    codes = [code for code, *_ in run_all(commands)]
    assert codes == [0] * 4

    published, *exported = (np.load(tmp_path / f"{name}.npz") for name in names)
    for arrays in exported:
        for key in ("tokens", "tiles", "logits"):
            np.testing.assert_array_equal(arrays[key], published[key])
    text = np.load(tmp_path / "text")
    assert text["tiles"].shape == (0, 28, 28, 3)
    assert text["logits"].dtype == np.float32
    messages = [{"role": "user", "content": "Hello"}]
    wanted = tokenizer.load(work / "hf").encode_prompt(messages)
    np.testing.assert_array_equal(text["tokens"], wanted)


def test_a_language_model_alone_goes_through_the_tools(tmp_path, work):
    source = write_language_model(work / "hf", tmp_path / "in")
    commands = [
        ["import_hf", f"--hf={source}", f"--out={tmp_path}/ckpt", "--dtype=bfloat16"],
        ["export_hf", f"--checkpoint={tmp_path}/ckpt", f"--out={tmp_path}/out"],
        [
            "logits",
            f"--hf={tmp_path}/out",
            "--prompt=Hello",
            f"--out={tmp_path}/out.npz",
            "--dtype=float32",
        ],
    ]
    for code, _, stderr in run_all(commands):
        assert code == 0, stderr
    imported = load_file(source / "model.safetensors")
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert set(exported) == set(imported)
    for name, tensor in imported.items():
        assert torch.equal(exported[name], tensor.to(torch.bfloat16)), name
    logits = np.load(tmp_path / "out.npz")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype="float32"
    )
    tokens = torch.from_numpy(logits["tokens"][None].astype(np.int64))
    with torch.no_grad():
        wanted = model(tokens).logits[0]
    np.testing.assert_allclose(logits["logits"], wanted.numpy(), atol=1e-4)


def test_the_tools_split_the_weights_over_a_mesh(tmp_path, work):
    """The same checkpoint, files and logits; one row goes through a mesh that could split four."""
    mesh, image = "--mesh=1,4,2", f"--image={work}/0.png"
    logits = ["logits", f"--hf={work}/hf", "--prompt=What?", image]
    commands = [
        ["import_hf", f"--hf={work}/hf", f"--out={tmp_path}/in", mesh],
        ["export_hf", f"--checkpoint={tmp_path}/in", f"--out={tmp_path}/out", mesh],
        [*logits, f"--out={tmp_path}/many.npz", mesh],
        [*logits, f"--out={tmp_path}/single.npz"],
    ]
    for code, _, stderr in run_all(commands, devices=8):
        assert code == 0, stderr
    imported = load_file(work / "hf" / "model.safetensors")
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert set(exported) == set(imported)
    for name, tensor in imported.items():
        assert torch.equal(exported[name], tensor), name
    single = np.load(tmp_path / "single.npz")["logits"]
    many = np.load(tmp_path / "many.npz")["logits"]
    # float32, sums in other orders.
    np.testing.assert_allclose(many, single, atol=1e-4)


def test_rope_impl_comes_from_the_command_line(tmp_path, work):
    """vLLM's reading of a dynamic scaling changes the logits, and stays with the checkpoint."""
    source = tmp_path / "in"
    shutil.copytree(work / "hf", source)
    config = read_json(source / "config.json")
    config["text_config"]["rope_scaling"] = {"rope_type": "dynamic", "factor": 2.0}
    write_json(source / "config.json", config)
    logits = ["logits", f"--hf={source}", "--prompt=What?"]
    static = "--rope_impl=vllm_static"
    commands = [
        ["import_hf", f"--hf={source}", f"--out={tmp_path}/ckpt", static],
        [*logits, f"--out={tmp_path}/hf.npz"],
        [*logits, f"--out={tmp_path}/static.npz", static],
    ]
    for code, _, stderr in run_all(commands):
        assert code == 0, stderr
    text = weights.read_config(tmp_path / "ckpt")[0].text
    assert (text.rope_factor, text.rope_impl) == (2.0, "vllm_static")
    like_transformers = np.load(tmp_path / "hf.npz")["logits"]
    like_vllm = np.load(tmp_path / "static.npz")["logits"]
    assert np.abs(like_transformers - like_vllm).max() > 1e-3


def test_an_import_may_be_restored_onto_a_mesh(work):
    mesh = make_mesh((1, 2, 2))
    model = weights.load_weights(work / "checkpoint", mesh=mesh)
    assert model.language.head.get_value().sharding.mesh == mesh
