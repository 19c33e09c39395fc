"""What a user of the tools can get wrong: one message on stderr, and exit code 1."""

import io
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_checkpoints import write_language_model
from tools_for_tests import run_all

from r1v3_jax.files import read_json, write_json

# Name of a mistake -> the command line, and the message that it must lead to.
Mistakes = dict[str, tuple[list[str], str]]
QUESTION = "--prompt=What?"


# -------------------------------------------------------------------------------------------------
# files with something wrong in them


def png(width: int, height: int) -> bytes:
    """A picture of zeros; of a large one only the header is true."""
    buffer = io.BytesIO()
    Image.new("L", (min(width, 99), height if width < 100 else 1)).save(buffer, "png")
    data = buffer.getvalue()
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header = data[12:16] + size + data[24:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


def write_bad_images(work: Path, bad: Path) -> None:
    (bad / "text.png").write_text("no picture at all")
    (bad / "empty.png").write_bytes(b"")
    (bad / "cut.png").write_bytes((work / "0.png").read_bytes()[:3000])
    (bad / "huge.png").write_bytes(png(13_000, 13_000))


def write_bad_directories(work: Path, bad: Path) -> None:
    """Copies of an exported directory, each with one thing wrong."""

    def copy(name: str, source: str = "hf") -> Path:
        shutil.copytree(work / source, bad / name)
        return bad / name

    def change_config(directory: Path, **changes) -> None:
        config = read_json(directory / "config.json")
        write_json(directory / "config.json", {**config, **changes})

    weights = copy("cut") / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])

    weights = copy("shape") / "model.safetensors"
    tensors = load_file(weights)
    tensors["multi_modal_projector.linear_1.bias"] = torch.ones(31)
    save_file(tensors, weights)

    (copy("no-config") / "config.json").unlink()
    (copy("bad-config") / "config.json").write_text("<html>")
    change_config(copy("v1", "original"), ps_version="v1")
    change_config(copy("other-image-token"), image_token_id=200)

    directory = copy("no-tokenizer")
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer_config.json").unlink()

    # An embedding smaller than the tokenizer: <box> and </box> are tokens 275 and 276.
    directory = copy("small")
    text_config = read_json(directory / "config.json")["text_config"]
    change_config(directory, text_config={**text_config, "vocab_size": 275})
    tensors = load_file(directory / "model.safetensors")
    for part in ("model.embed_tokens", "lm_head"):
        name = f"language_model.{part}.weight"
        tensors[name] = tensors[name][:275].clone()
    save_file(tensors, directory / "model.safetensors")

    write_language_model(work / "hf", bad / "language")
    shutil.rmtree(copy("half-checkpoint", "checkpoint") / "weights")
    description = {"dtype": "float32", "config": {"depth": 3}}
    write_json(copy("old-checkpoint", "checkpoint") / "model.json", description)


# -------------------------------------------------------------------------------------------------
# the mistakes


def of_images(work: Path, bad: Path) -> Mistakes:
    good = ["logits", f"--out={bad}/out.npz", f"--hf={work}/hf"]
    return {
        "no-such-image": (
            [*good, QUESTION, f"--image={bad}/no.png"],
            f"'{bad}/no.png': got no such file, wanted one; check the path",
        ),
        "no-picture": (
            [*good, QUESTION, f"--image={bad}/text.png"],
            f"'{bad}/text.png': got data starting with b'no pictu', wanted one of PNG, JPEG, WEBP, "
            "GIF, BMP; convert it or allow its format",
        ),
        "empty-picture": (
            [*good, QUESTION, f"--image={bad}/empty.png"],
            f"'{bad}/empty.png': got 0 bytes, wanted an image; write the file again or drop the "
            "row",
        ),
        "cut-picture": (
            [*good, QUESTION, f"--image={bad}/cut.png"],
            f"'{bad}/cut.png': got OSError('image file is truncated'), wanted an intact image; "
            "write it again or drop it",
        ),
        "huge-picture": (
            [*good, QUESTION, f"--image={bad}/huge.png"],
            f"'{bad}/huge.png': got 13000 x 13000 pixels, wanted 1 to max_pixels = 50000000; scale "
            "it down or raise max_pixels",
        ),
    }


def of_prompts(work: Path, bad: Path) -> Mistakes:
    image = f"--image={work}/0.png"
    logits = ["logits", f"--out={bad}/out.npz"]
    good = [*logits, f"--hf={work}/hf"]
    markers = "write one marker per image, or none to have all images in front"
    not_its_tokenizer = (
        "change config.json, or take the tokenizer that the model was trained with"
    )
    return {
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
            [*logits, f"--hf={bad}/small", QUESTION],
            "the tokenizer has 277 tokens, but vocab_size of the model is 275; "
            f"{not_its_tokenizer}",
        ),
        "image-for-a-language-model": (
            [*logits, f"--hf={bad}/language", QUESTION, image],
            f"{bad}/language is a language model without a vision tower; leave out --image",
        ),
        "other-image-token": (
            [*logits, f"--hf={bad}/other-image-token", QUESTION, image],
            "<IMG_CONTEXT> is token 270 of the tokenizer, but image_token_id of the model is 200; "
            f"{not_its_tokenizer}",
        ),
    }


def of_checkpoints(work: Path, bad: Path) -> Mistakes:
    logits = ["logits", f"--out={bad}/out.npz"]
    out = f"--out={bad}/out"
    cut = (
        "model.safetensors is cut short or damaged (Error while deserializing header: incomplete "
        "metadata, file not fully covered); download it again"
    )
    not_ours = (
        "no such file; give a checkpoint of this program, as tools/import_hf.py makes"
    )

    def load(name: str, problem: str) -> tuple[list[str], str]:
        message = f"{bad}/{name} cannot be loaded, 1 problem(s):\n  {problem}"
        return ["import_hf", f"--hf={bad}/{name}", out], message

    return {
        "logits-of-cut-weights": (
            [*logits, f"--hf={bad}/cut", QUESTION],
            f"{bad}/cut cannot be loaded, 1 problem(s):\n  {cut}",
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
    }


def of_options(work: Path, bad: Path) -> Mistakes:
    out = f"--out={bad}/out"
    not_empty = "exists and is not an empty directory; choose another or remove it"
    return {
        "no-parent": (
            ["logits", f"--hf={bad}/nowhere", QUESTION, f"--out={bad}/no/out.npz"],
            f"{bad}/no: no such directory to write out.npz in",
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
        "argument": (
            ["import_hf", f"--hf={work}/hf", out, "extra"],
            "unexpected argument 'extra'; see --help",
        ),
        "no-flag": (
            ["import_hf", out],
            "--hf=None: Flag --hf must have a value other than None",
        ),
    }


@pytest.fixture(scope="module")
def mistakes(work, tmp_path_factory):
    """name -> the message that must come, exit code, stdout, stderr."""
    bad = tmp_path_factory.mktemp("bad")
    write_bad_images(work, bad)
    write_bad_directories(work, bad)
    table = {}
    for part in (of_images, of_prompts, of_checkpoints, of_options):
        table |= part(work, bad)
    results = run_all([arguments for arguments, _ in table.values()])
    # No mistake leaves a file behind.
    assert not (bad / "out").exists()
    assert not (bad / "out.npz").exists()
    outcomes = {}
    for (name, (_, message)), result in zip(table.items(), results, strict=True):
        outcomes[name] = (message, *result)
    return outcomes


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
        assert message in stdout + stderr
        assert "Traceback" not in stderr
    else:
        assert (stdout, stderr) == ("", f"error: {message}\n")
