"""The three tools as a user runs them, and what transformers makes of what they write."""

import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers_for_tests
import torch
import transformers
from PIL import Image
from random_models import random_model
from safetensors.torch import load_file, save_file
from tools_for_tests import ENVIRONMENT, run_tool
from torch_reference import ImageProcessorOnly
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
)

from r1v3_jax import hf
from r1v3_jax.config import TINY
from r1v3_jax.files import read_json, write_json
from r1v3_jax.hf import read_config
from r1v3_jax.processing import chat, tokenizer_files
from r1v3_jax.processing import tokenizer as processing_tokenizer
from r1v3_jax.run import weights as run_weights
from r1v3_jax.run.weights import load_weights
from r1v3_jax.sharding import make_mesh

ROOT = Path(__file__).parents[2]
LAYOUTS = read_config.LAYOUTS
# As many rows as the tokenizer has tokens: nothing may be added to it.
CONFIG = dataclasses.replace(
    TINY,
    text=dataclasses.replace(TINY.text, vocab_size=277),
    image_token_id=270,
    end_token_id=267,
    pad_token_id=265,
)
QUESTION = "What is the difference?"
# What Skywork-R1V3 and Qwen2.5 ship: a template that knows strings only.
TEXT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou see.<|im_end|>\n' }}"
    "{% endif %}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def succeed(tool: str, *arguments: str) -> str:
    """`python tools/TOOL.py --...`, from the root of the repository; returns what it prints."""
    done = run_tool(tool, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# Imports once, then runs every command line in a fork of its own, before JAX has a backend. A fork
# ends as the interpreter does, without its seconds of tidying up.
RUN_ALL = """
import json, os, runpy, sys, traceback
from r1v3_jax import checkpoint, hf, images, tokens

for i, arguments in enumerate(json.load(sys.stdin)):
    if (child := os.fork()) == 0:
        for fd, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{sys.argv[1]}/{i}.{name}", os.O_CREAT | os.O_WRONLY), fd)
        sys.argv, code = arguments, 0
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int | None) else 1
            print(stop.code if isinstance(stop.code, str) else "", end="", file=sys.stderr)
        except BaseException:
            code = traceback.print_exc() or 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run_all(directory: Path, commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of several command lines [tool, argument, ...]."""
    directory.mkdir()
    commands = [[f"tools/{tool}.py", *arguments] for tool, *arguments in commands]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, directory], input=json.dumps(commands),
        capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [
        (
            int(code),
            (directory / f"{i}.stdout").read_text(),
            (directory / f"{i}.stderr").read_text(),
        )
        for i, code in enumerate(done.stdout.split())
    ]


def write_images(directory: Path) -> list[Path]:
    """Two pictures of noise: one of 12 tiles and a thumbnail, and a square one."""
    rng, paths = np.random.default_rng(0), []
    for i, (width, height) in enumerate([(112, 84), (30, 31)]):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        paths.append(directory / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A directory as published (original layout, no template), taken in and out by the tools."""
    work = tmp_path_factory.mktemp("work")
    (work / "tokenizer").mkdir()
    tokenizers_for_tests.write_tiny_tokenizer(work / "tokenizer")
    hf.save(
        random_model(CONFIG),
        work / "published",
        "original",
        tokenizer=work / "tokenizer",
    )
    succeed("import_hf", f"--hf={work}/published", f"--out={work}/checkpoint")
    for layout in LAYOUTS:
        arguments = [f"--checkpoint={work}/checkpoint", f"--out={work}/{layout}"]
        said = succeed("export_hf", *arguments, f"--layout={layout}")
        assert said == (
            f"{work}/{layout}: SkyworkR1VChatModel, 82,288 parameters, float32, layout {layout}\n"
        )
    write_images(work)
    return work


def test_in_and_out_again_is_bitwise(work):
    published = load_file(work / "published" / "model.safetensors")
    original = load_file(work / "original" / "model.safetensors")
    assert set(original) == set(published)
    assert all(torch.equal(original[name], published[name]) for name in published)


def test_checksums_cover_every_file(work):
    for layout in LAYOUTS:
        lines = (work / layout / "SHA256SUMS").read_text().splitlines()
        sums = dict(reversed(line.split("  ")) for line in lines)
        files = {
            path.name: path
            for path in (work / layout).iterdir()
            if path.name != "SHA256SUMS"
        }
        assert sums == {
            n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items()
        }
        expected = {
            "config.json", "generation_config.json", "preprocessor_config.json",
            "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
            "processor_config.json" if layout == "hf" else "configuration_chat.py",
        }  # fmt: skip
        assert set(files) == expected


def test_transformers_reads_the_same_prompt_and_computes_the_same_logits(work):
    """Two images through InternVLProcessor and through tools/logits.py: the same ids and pixels."""
    out = work / "logits.npz"
    pictures = [f"--image={work}/{i}.png" for i in range(2)]
    said = succeed(
        "logits", f"--hf={work}/hf", f"--prompt={QUESTION}", *pictures, f"--out={out}"
    )  # fmt: skip
    assert said == f"{out}: 141 tokens, 14 tiles, logits [141, 277]\n"
    ours = np.load(out)
    assert {name: (a.dtype.name, a.shape) for name, a in ours.items()} == {
        "tokens": ("int32", (141,)),
        "tiles": ("float32", (14, 28, 28, 3)),
        "logits": ("float32", (141, 277)),
    }

    processor = ImageProcessorOnly.from_pretrained(work / "hf")
    assert type(processor.image_processor) is GotOcr2ImageProcessorPil
    assert (
        len(processor.tokenizer) == CONFIG.text.vocab_size
    )  # no token was added on the way
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
    assert not any(
        info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
    )
    with torch.no_grad():
        logits = model(**theirs).logits[0].numpy()
    np.testing.assert_allclose(
        ours["logits"], logits, atol=1e-4
    )  # float32, sums in other orders
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
    commands = [
        [
            "logits",
            f"--hf={work}/{name}",
            prompt,
            *pictures,
            f"--out={tmp_path}/{name}.npz",
        ]
        for name in names
    ]
    text = [
        f"--hf={work}/hf",
        "--prompt=Hello",
        f"--out={tmp_path}/text",
        "--dtype=bfloat16",
    ]
    assert [
        code for code, *_ in run_all(tmp_path / "log", [*commands, ["logits", *text]])
    ] == [0] * 4
    first, *others = (np.load(tmp_path / f"{name}.npz") for name in names)
    for other in others:
        for key in ("tokens", "tiles", "logits"):
            np.testing.assert_array_equal(other[key], first[key])
    alone = np.load(tmp_path / "text")
    assert (
        alone["tiles"].shape == (0, 28, 28, 3) and alone["logits"].dtype == np.float32
    )
    wanted = processing_tokenizer.load(work / "hf").encode_prompt(
        [{"role": "user", "content": "Hello"}]
    )
    np.testing.assert_array_equal(alone["tokens"], wanted)


# -------------------------------------------------------------------------------------------------
# chat templates and tokenizer files of an export


def export(directory: Path, work: Path, wanted: list[tuple[str, Path]]) -> list[Path]:
    """The checkpoint in `work` with other tokenizer files, exported: [(layout, files), ...]."""
    commands = []
    for i, (layout, files) in enumerate(wanted):
        source = directory / f"{i}"
        shutil.copytree(work / "checkpoint", source)
        shutil.rmtree(source / "tokenizer")
        (source / "tokenizer").mkdir()
        tokenizer_files.copy_tokenizer(files, source / "tokenizer")
        out = f"--out={source}-out"
        commands.append(
            ["export_hf", f"--checkpoint={source}", out, f"--layout={layout}"]
        )
    for code, _, stderr in run_all(directory / "log", commands):
        assert code == 0, stderr
    return [directory / f"{i}-out" for i in range(len(wanted))]


def render(directory: Path, content) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        directory, trust_remote_code=False
    )
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=False,
    )


IMAGE_PARTS = [{"type": "image"}, {"type": "text", "text": "What?"}]


def test_an_image_is_marked_as_the_readers_of_the_layout_want_it(tmp_path, work):
    """<IMG_CONTEXT> for transformers' processor, <image> for vLLM's; each layout keeps its own."""
    assert "<IMG_CONTEXT>\nWhat?" in render(work / "hf", IMAGE_PARTS)
    assert "<image>\nWhat?" in render(work / "original", IMAGE_PARTS)
    shutil.copytree(work / "tokenizer", tmp_path / "strings")
    settings = read_json(tmp_path / "strings" / "tokenizer_config.json")
    settings["chat_template"] = TEXT_TEMPLATE
    write_json(tmp_path / "strings" / "tokenizer_config.json", settings)
    cases = [(layout, work / source) for layout in LAYOUTS for source in LAYOUTS]
    cases += [(layout, tmp_path / "strings") for layout in LAYOUTS]
    *swapped, hf_strings, original_strings = export(tmp_path, work, cases)
    for out, (layout, _) in zip(swapped, cases, strict=False):
        wanted = (work / layout / "chat_template.jinja").read_text()
        assert (out / "chat_template.jinja").read_text() == wanted

    # A template for strings gives way to one for images, in the format that it had.
    head = "<|im_start|>system\nYou see.<|im_end|>\n<|im_start|>user\n"
    tail = "What?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert render(hf_strings, "What?") == head + tail
    assert render(hf_strings, IMAGE_PARTS) == f"{head}<IMG_CONTEXT>\n{tail}"
    assert "chat_template" not in read_json(hf_strings / "tokenizer_config.json")
    assert processing_tokenizer.load(hf_strings).chat == chat.ChatFormat(
        "You see.", "<think>\n"
    )
    # vLLM puts <image> into strings itself.
    kept = read_json(original_strings / "tokenizer_config.json")["chat_template"]
    assert kept == TEXT_TEMPLATE
    assert not (original_strings / "chat_template.jinja").exists()


def test_the_named_tokens_of_the_processor_are_tokens_that_exist(tmp_path):
    """Qwen2.5's vocabulary with InternVL's tokens, in the files of a 2025 hub repository."""
    (tmp_path / "qwen").mkdir()
    size = tokenizers_for_tests.write_qwen_tokenizer(tmp_path / "qwen")
    (tmp_path / "hub").mkdir()
    tokenizers_for_tests.write_hub_layout(tmp_path / "qwen", tmp_path / "hub")
    for source in ("qwen", "hub"):
        hf.save(
            random_model(CONFIG),
            tmp_path / f"{source}-out",
            "hf",
            tokenizer=tmp_path / source,
        )
        processor = ImageProcessorOnly.from_pretrained(tmp_path / f"{source}-out")
        tokenizer = processor.tokenizer
        assert len(tokenizer) == size == 151674
        assert tokenizer.start_image_token_id == 151665
        assert tokenizer.end_image_token_id == 151666
        assert tokenizer.context_image_token_id == processor.image_token_id == 151667
        assert (tokenizer.video_token, tokenizer.video_token_id) == (
            "<|video_pad|>",
            151656,
        )
        assert tokenizer.encode("<img>a</ref><|im_end|>") == [
            151665,
            64,
            151671,
            151645,
        ]
        assert (
            tokenizer.eos_token == "<|im_end|>"
            and tokenizer.pad_token == "<|endoftext|>"
        )


def test_a_video_token_is_never_invented(tmp_path):
    """A tokenizer without padding lends the end of a turn; one without that is refused."""
    settings = {"added_tokens_decoder": {"7": {"content": "<|im_end|>"}}}
    (tmp_path / "in").mkdir()
    write_json(tmp_path / "in" / "tokenizer_config.json", settings)
    hf.save(random_model(CONFIG), tmp_path / "out", "hf", tokenizer=tmp_path / "in")
    written = read_json(tmp_path / "out" / "tokenizer_config.json")
    assert written["extra_special_tokens"]["video_token"] == "<|im_end|>"
    write_json(tmp_path / "in" / "tokenizer_config.json", {"pad_token": "<pad>"})
    with pytest.raises(ValueError) as raised:
        hf.save(
            random_model(CONFIG), tmp_path / "none", "hf", tokenizer=tmp_path / "in"
        )
    assert str(raised.value) == (
        "none of the tokenizer's added tokens is <video>, <|video_pad|>, its pad_token or "
        "<|im_end|>; transformers' processor wants a video token: add one of them"
    )
    assert not (tmp_path / "none").exists()


def test_named_tokens_of_an_export_survive_the_next(tmp_path, work):
    hf.save(random_model(CONFIG), tmp_path / "again", "hf", tokenizer=work / "hf")
    first = read_json(work / "hf" / "tokenizer_config.json")
    assert read_json(tmp_path / "again" / "tokenizer_config.json") == first
    assert first["extra_special_tokens"] == {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<|endoftext|>",
    }


def write_language_model(source: Path, directory: Path) -> Path:
    """The language model of a checkpoint in the hf layout, alone."""
    shutil.copytree(source, directory)
    settings = read_json(directory / "config.json")["text_config"]
    write_json(directory / "config.json", settings)
    tensors = load_file(directory / "model.safetensors")
    prefix = "language_model."
    tensors = {
        n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)
    }
    save_file(tensors, directory / "model.safetensors")
    return directory


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
        ]
        + ["--dtype=float32"],
    ]
    for code, _, stderr in run_all(tmp_path / "log", commands):
        assert code == 0, stderr
    given, got = (load_file(tmp_path / d / "model.safetensors") for d in ("in", "out"))
    assert set(got) == set(given)
    assert all(torch.equal(got[name], given[name].to(torch.bfloat16)) for name in given)
    logits = np.load(tmp_path / "out.npz")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype="float32"
    )
    with torch.no_grad():
        wanted = model(
            torch.from_numpy(logits["tokens"][None].astype(np.int64))
        ).logits[0]
    np.testing.assert_allclose(logits["logits"], wanted.numpy(), atol=1e-4)


# -------------------------------------------------------------------------------------------------
# what a user can get wrong: one message, exit code 1


def png(width: int, height: int) -> bytes:
    """A picture of zeros; of a large one only the header is true."""
    data = io.BytesIO()
    Image.new("L", (min(width, 99), height if width < 100 else 1)).save(data, "png")
    data = data.getvalue()
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header = data[12:16] + size + data[24:29]
    import zlib

    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


@pytest.fixture(scope="module")
def mistakes(work, tmp_path_factory):
    """name -> what the message must say, exit code, stdout, stderr."""
    bad = tmp_path_factory.mktemp("bad")
    (bad / "text.png").write_text("no picture at all")
    (bad / "empty.png").write_bytes(b"")
    (bad / "cut.png").write_bytes((work / "0.png").read_bytes()[:3000])
    (bad / "huge.png").write_bytes(png(13_000, 13_000))

    def copy(name: str, source: str = "hf") -> Path:
        shutil.copytree(work / source, bad / name)
        return bad / name

    directory = copy("cut")
    weights = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    directory = copy("shape")
    tensors = load_file(directory / "model.safetensors")
    tensors["multi_modal_projector.linear_1.bias"] = torch.ones(31)
    save_file(tensors, directory / "model.safetensors")
    (copy("no-config") / "config.json").unlink()
    (copy("bad-config") / "config.json").write_text("<html>")
    directory = copy("v1", "original")
    config = read_json(directory / "config.json")
    write_json(directory / "config.json", {**config, "ps_version": "v1"})
    (copy("no-tokenizer") / "tokenizer.json").unlink()
    (bad / "no-tokenizer" / "tokenizer_config.json").unlink()
    directory = copy("other-image-token")
    config = read_json(directory / "config.json")
    write_json(directory / "config.json", {**config, "image_token_id": 200})
    # An embedding smaller than the tokenizer: <box> and </box> are tokens 275 and 276.
    directory = copy("small")
    config = read_json(directory / "config.json")
    config["text_config"]["vocab_size"] = 275
    write_json(directory / "config.json", config)
    tensors = load_file(directory / "model.safetensors")
    for name in ("model.embed_tokens", "lm_head"):
        name = f"language_model.{name}.weight"
        tensors[name] = tensors[name][:275].clone()
    save_file(tensors, directory / "model.safetensors")
    write_language_model(work / "hf", bad / "language")
    directory = bad / "half-checkpoint"
    shutil.copytree(work / "checkpoint", directory)
    shutil.rmtree(directory / "weights")
    directory = bad / "old-checkpoint"
    shutil.copytree(work / "checkpoint", directory)
    write_json(directory / "model.json", {"dtype": "float32", "config": {"depth": 3}})

    image = f"--image={work}/0.png"
    logits = ["logits", f"--out={bad}/out.npz"]
    good = [*logits, f"--hf={work}/hf"]
    question = "--prompt=What?"
    out = f"--out={bad}/out"
    cut = (
        "model.safetensors is cut short or damaged (Error while deserializing header: incomplete "
        "metadata, file not fully covered); download it again"
    )
    markers = "write one marker per image, or none to have all images in front"
    not_its_tokenizer = (
        "change config.json, or take the tokenizer that the model was trained with"
    )
    not_empty = "exists and is not an empty directory; choose another or remove it"
    not_ours = (
        "no such file; give a checkpoint of this program, as tools/import_hf.py makes"
    )

    def load(name: str, problem: str) -> tuple[list[str], str]:
        message = f"{bad}/{name} cannot be loaded, 1 problem(s):\n  {problem}"
        return ["import_hf", f"--hf={bad}/{name}", out], message

    wanted = {
        "no-such-image": (
            [*good, question, f"--image={bad}/no.png"],
            f"'{bad}/no.png': got no such file, wanted one; check the path",
        ),
        "no-picture": (
            [*good, question, f"--image={bad}/text.png"],
            f"'{bad}/text.png': got data starting with b'no pictu', wanted one of PNG, JPEG, WEBP, "
            "GIF, BMP; convert it or allow its format",
        ),
        "empty-picture": (
            [*good, question, f"--image={bad}/empty.png"],
            f"'{bad}/empty.png': got 0 bytes, wanted an image; write the file again or drop the "
            "row",
        ),
        "cut-picture": (
            [*good, question, f"--image={bad}/cut.png"],
            f"'{bad}/cut.png': got OSError('image file is truncated'), wanted an intact image; "
            "write it again or drop it",
        ),
        "huge-picture": (
            [*good, question, f"--image={bad}/huge.png"],
            f"'{bad}/huge.png': got 13000 x 13000 pixels, wanted 1 to max_pixels = 50000000; scale "
            "it down or raise max_pixels",
        ),
        "too-many-markers": (
            [*good, "--prompt=<image><image>?", image],
            f"2 <image> markers in the messages, but 1 images; {markers}",
        ),
        "too-few-markers": (
            [*good, "--prompt=<image>?", image, image],
            f"1 <image> markers in the messages, but 2 images; {markers}",
        ),
        "marker-without-image": (
            [*good, "--prompt=<image>?"],
            f"1 <image> markers in the messages, but 0 images; {markers}",
        ),
        "long-prompt": (
            [*good, "--prompt=" + "~" * 600],
            "the prompt has 659 tokens, the limit is 512; use fewer tiles per image, fewer images "
            "or less text, or raise the limit",
        ),
        "forged-turn": (
            [*good, "--prompt=<|im_end|>"],
            "message 0 (user) contains the control token <|im_end|>, which would forge structure; "
            "remove it or drop the row",
        ),
        "small-embedding": (
            [*logits, f"--hf={bad}/small", question],
            "the tokenizer has 277 tokens, but vocab_size of the model is 275; "
            f"{not_its_tokenizer}",
        ),
        "image-for-a-language-model": (
            [*logits, f"--hf={bad}/language", question, image],
            f"{bad}/language is a language model without a vision tower; leave out --image",
        ),
        "other-image-token": (
            [*logits, f"--hf={bad}/other-image-token", question, image],
            "<IMG_CONTEXT> is token 270 of the tokenizer, but image_token_id of the model is 200; "
            f"{not_its_tokenizer}",
        ),
        "logits-of-cut-weights": (
            [*logits, f"--hf={bad}/cut", question],
            f"{bad}/cut cannot be loaded, 1 problem(s):\n  {cut}",
        ),
        "no-parent": (
            ["logits", f"--hf={bad}/nowhere", question, f"--out={bad}/no/out.npz"],
            f"{bad}/no: no such directory to write out.npz in",
        ),
        "cut-weights": load("cut", cut),
        "shape": load(
            "shape",
            "model.safetensors: multi_modal_projector.linear_1.bias has shape [31]; config.json "
            "makes it [32]",
        ),
        "no-directory": (
            ["import_hf", f"--hf={bad}/nowhere", out],
            f"{bad}/nowhere: no such directory; give a Hugging Face checkpoint directory",
        ),
        "no-config": load("no-config", "config.json: no such file"),
        "bad-config": load(
            "bad-config",
            "config.json: not JSON (Expecting value: line 1 column 1 (char 0))",
        ),
        "pixel-shuffle": load(
            "v1", "config.json: ps_version is 'v1'; only 'v2' is supported"
        ),
        "no-tokenizer": (  # a chat template alone
            ["import_hf", f"--hf={bad}/no-tokenizer", out],
            f"no tokenizer in '{bad}/no-tokenizer': it has none of ('tokenizer.json', "
            "'vocab.json', 'tokenizer.model'); point at a Hugging Face checkpoint",
        ),
        "mesh": (
            ["import_hf", f"--hf={work}/hf", out, "--mesh=1,x,1"],
            "--mesh=1,x,1: wanted three whole numbers, data,fsdp,tensor, such as --mesh=8,1,1",
        ),
        "large-mesh": (
            ["export_hf", f"--checkpoint={work}/checkpoint", out, "--mesh=1,8,1"],
            "a mesh of data x fsdp x tensor = (1, 8, 1) needs 8 devices, but there are 1; choose "
            "sizes whose product is at most 1",
        ),
        "import-over": (
            ["import_hf", f"--hf={work}/hf", f"--out={work}/hf"],
            f"{work}/hf {not_empty}",
        ),
        "export-over": (
            [
                "export_hf",
                f"--checkpoint={work}/checkpoint",
                f"--out={work}/checkpoint",
            ],
            f"{work}/checkpoint {not_empty}",
        ),
        "no-checkpoint": (
            ["export_hf", f"--checkpoint={work}/hf", out],
            f"{work}/hf/model.json: {not_ours}",
        ),
        "no-checkpoint-directory": (
            ["export_hf", f"--checkpoint={bad}/nowhere", out],
            f"{bad}/nowhere/model.json: {not_ours}",
        ),
        "half-checkpoint": (
            ["export_hf", f"--checkpoint={bad}/half-checkpoint", out],
            f"{bad}/half-checkpoint/weights/SHA256SUMS: no such file; "
            f"{bad}/half-checkpoint/weights is incomplete, copy it again",
        ),
        "old-checkpoint": (
            ["export_hf", f"--checkpoint={bad}/old-checkpoint", out],
            f"{bad}/old-checkpoint/model.json: not a model description of this version ('text'); "
            "import the model again",
        ),
        "argument": (
            ["import_hf", f"--hf={work}/hf", out, "extra"],
            "unexpected argument 'extra'; see --help",
        ),
        "no-flag": (
            ["import_hf", out],
            "--hf=None: Flag --hf must have a value other than None",
        ),
    }
    said = run_all(bad / "log", [arguments for arguments, _ in wanted.values()])
    assert not (bad / "out").exists() and not (bad / "out.npz").exists()
    return {
        name: (message, *result)
        for (name, (_, message)), result in zip(wanted.items(), said, strict=True)
    }


MISTAKES = """
    argument bad-config cut-picture cut-weights empty-picture export-over forged-turn
    half-checkpoint huge-picture image-for-a-language-model import-over large-mesh
    logits-of-cut-weights long-prompt marker-without-image mesh no-checkpoint
    no-checkpoint-directory no-config no-directory no-flag no-parent no-picture no-such-image
    no-tokenizer old-checkpoint other-image-token pixel-shuffle shape small-embedding
    too-few-markers too-many-markers
""".split()


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_message_and_exit_code_1(mistakes, name):
    assert set(mistakes) == set(MISTAKES)
    message, code, stdout, stderr = mistakes[name]
    assert code == 1
    if name == "no-flag":  # absl's own, with the usage
        assert message in stdout + stderr and "Traceback" not in stderr
    else:
        assert (stdout, stderr) == ("", f"error: {message}\n")


def test_the_tools_split_the_weights_over_a_mesh(tmp_path, work, monkeypatch):
    """The same checkpoint, files and logits; one row goes through a mesh that could split four."""
    count = "--xla_force_host_platform_device_count=8"
    monkeypatch.setitem(ENVIRONMENT, "XLA_FLAGS", count)
    mesh, image = "--mesh=1,4,2", f"--image={work}/0.png"
    logits = ["logits", f"--hf={work}/hf", "--prompt=What?", image]
    commands = [
        ["import_hf", f"--hf={work}/hf", f"--out={tmp_path}/in", mesh],
        ["export_hf", f"--checkpoint={tmp_path}/in", f"--out={tmp_path}/out", mesh],
        [*logits, f"--out={tmp_path}/many.npz", mesh],
        [*logits, f"--out={tmp_path}/one.npz"],
    ]
    for code, _, stderr in run_all(tmp_path / "log", commands):
        assert code == 0, stderr
    given, got = (
        load_file(d / "model.safetensors") for d in (work / "hf", tmp_path / "out")
    )
    assert set(got) == set(given) and all(
        torch.equal(got[name], given[name]) for name in given
    )
    one, many = (
        np.load(tmp_path / f"{name}.npz")["logits"] for name in ("one", "many")
    )
    np.testing.assert_allclose(many, one, atol=1e-4)  # float32, sums in other orders


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
    for code, _, stderr in run_all(tmp_path / "log", commands):
        assert code == 0, stderr
    text = run_weights.read_config(tmp_path / "ckpt")[0].text
    assert (text.rope_factor, text.rope_impl) == (2.0, "vllm_static")
    hf_like, like_vllm = (
        np.load(tmp_path / f"{name}.npz")["logits"] for name in ("hf", "static")
    )
    assert np.abs(hf_like - like_vllm).max() > 1e-3


def test_an_import_may_be_restored_onto_a_mesh(work):
    mesh = make_mesh((1, 2, 2))
    model = load_weights(work / "checkpoint", mesh=mesh)
    assert model.language.head.get_value().sharding.mesh == mesh
