"""tools/assemble.py and tools/import_gguf.py as a user types them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from halves_for_tests import (
    TILE,
    write_dinov2,
    write_language,
    write_plain_tokenizer,
)
from safetensors.torch import load_file, save_file
from tools_for_tests import run_all, succeed

from r1v3_jax.config import load_config
from r1v3_jax.files import read_json, write_json
from r1v3_jax.pipeline.preflight import check_init
from r1v3_jax.run.weights import load_weights, read_config

NEW = "<img>, </img>, <IMG_CONTEXT>, <quad>, </quad>, <ref>, </ref>, <box>, </box>"


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """dinov2, language, other (Qwen3, 3 layers), and joined: the first two as a checkpoint."""
    root = tmp_path_factory.mktemp("halves")
    write_dinov2(root / "dinov2")
    write_language(root / "language")
    write_language(root / "other", qwen3=True, layers=3)
    printed = succeed(
        "assemble",
        f"--vision={root}/dinov2",
        f"--language={root}/language",
        f"--out={root}/joined",
        f"--image_size={TILE}",
    )
    assert printed == (
        "positions: 5 x 5 resampled to 4 x 4\n"
        "the tower's final norm: the start of the connector's\n"
        "left out: embeddings.mask_token, which only its training used\n"
        f"tokens 268 to 276 are new: {NEW}\n"
        "12 rows without a token made room for them\n"
        "there was no chat template of ChatML: R1V3's takes its place\n"
        f"{root}/joined: InternVLChatModel, 115,472 parameters, float32\n"
    )
    return root


def test_what_is_assembled_is_a_checkpoint_like_any_other(halves, work, tmp_path):
    """A run starts from it, both layouts hold it, and both answer about a picture as it does."""
    config, _ = read_config(halves / "joined")
    base = load_config("digits")
    start = {"model": config, "init_from": str(halves / "joined")}
    check_init(dataclasses.replace(base, **start, write_tokenizer=None))
    commands = []
    for layout in ("hf", "original"):
        out = f"{tmp_path}/{layout}"
        commands += [
            [
                "export_hf",
                f"--checkpoint={halves}/joined",
                f"--out={out}",
                f"--layout={layout}",
            ],
            [
                "logits",
                f"--hf={out}",
                "--prompt=What?",
                f"--image={work}/0.png",
                f"--out={out}.npz",
            ],
        ]
    for code, _, stderr in run_all(commands):
        assert code == 0, stderr
    one, two = (np.load(tmp_path / f"{layout}.npz") for layout in ("hf", "original"))
    assert one["tiles"].shape == (13, TILE, TILE, 3)
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def test_a_trained_connector_moves_to_another_language_model(halves, tmp_path):
    """The tower and the connector of a checkpoint of ours, behind a model of the same width."""
    out = tmp_path / "moved"
    printed = succeed(
        "assemble",
        f"--vision={halves}/joined",
        f"--connector={halves}/joined",
        f"--language={halves}/other",
        f"--out={out}",
    )
    assert printed.startswith(f"tokens 268 to 276 are new: {NEW}\n")
    before, after = load_weights(halves / "joined"), load_weights(out)
    for name in ("norm", "up", "down_bias"):
        np.testing.assert_array_equal(
            getattr(before.connector, name)[...], getattr(after.connector, name)[...]
        )
    assert after.config.text.layers == 3


def test_a_connector_of_another_tower_is_said(halves, tmp_path):
    """Widths meet, numbers do not: a warning, and the checkpoint is written."""
    write_dinov2(tmp_path / "dinov2", seed=1)
    command = [
        "assemble",
        f"--vision={tmp_path}/dinov2",
        f"--connector={halves}/joined",
        f"--language={halves}/language",
        f"--out={tmp_path}/out",
        f"--image_size={TILE}",
    ]
    ((code, printed, stderr),) = run_all([command])
    assert code == 0, stderr
    assert (
        f"the connector in {halves}/joined was trained with another tower than that in "
        f"{tmp_path}/dinov2; train it again before it is used" in stderr
    )
    assert "the tower's final norm: left out, the connector's is there\n" in printed


def test_a_tokenizer_without_chatml_gets_it_and_that_is_said(halves, tmp_path):
    """257 tokens, two for turns and nine for pictures; 23 of 280 rows made room for them."""
    shutil.copytree(halves / "language", tmp_path / "plain")
    for path in (tmp_path / "plain").glob("*token*"):
        path.unlink()
    write_plain_tokenizer(tmp_path / "plain")
    config = read_json(tmp_path / "plain" / "config.json")
    ids = {"eos_token_id": 256, "pad_token_id": 256}
    write_json(tmp_path / "plain" / "config.json", {**config, **ids})
    printed = succeed(
        "assemble",
        f"--vision={halves}/joined",
        f"--language={tmp_path}/plain",
        f"--out={tmp_path}/out",
    )
    assert printed == (
        f"tokens 257 to 267 are new: <|im_start|>, <|im_end|>, {NEW}\n"
        "23 rows without a token made room for them\n"
        "<|im_start|> and <|im_end|> were missing: the model has to be taught its turns\n"
        "there was no chat template of ChatML: R1V3's takes its place\n"
        f"{tmp_path}/out: InternVLChatModel, 114,896 parameters, float32\n"
    )
    config, _ = read_config(tmp_path / "out")
    assert (config.end_token_id, config.image_token_id) == (258, 261)


def write_bfloat16(source, directory):
    """A copy of a checkpoint with its weights in bfloat16."""
    shutil.copytree(source, directory)
    path = directory / "model.safetensors"
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    save_file(tensors, path)


def mistakes(halves, work, bad) -> dict[str, tuple[list[str], str]]:
    """Name -> the command line, and the message that it must lead to."""
    write_bfloat16(halves / "language", bad / "language")
    (bad / "siglip").mkdir()
    siglip = {"model_type": "siglip_vision_model"}
    (bad / "siglip" / "config.json").write_text(json.dumps(siglip))
    write_gguf_header(bad / "gemma.gguf", "gemma3")
    out = f"--out={bad}/out"
    vision = f"--vision={halves}/dinov2"
    language = f"--language={halves}/language"
    size = f"--image_size={TILE}"
    good = ["assemble", out, vision, language, size]
    return {
        "widths": (
            [*good, f"--connector={work}/checkpoint"],
            f"the connector in {work}/checkpoint joins a tower of width 40 to a language model of "
            "width 32, and these have 48 and 32; take halves of its widths, or "
            "--connector=random and train it",
        ),
        "no-connector": (
            [*good, f"--connector={halves}/other"],
            f"--connector={halves}/other holds a language model alone, with neither tower nor "
            "connector; give the checkpoint of a vision-language model",
        ),
        "odd-patches": (
            ["assemble", out, vision, language],
            f"{halves}/dinov2: 35 pixels are not an even number of patches of 7, and the "
            "connector merges 2 x 2 of them; --image_size=28 would do",
        ),
        "another-tower": (
            ["assemble", out, language, f"--vision={bad}/siglip"],
            f"{bad}/siglip: model_type 'siglip_vision_model' has no tower of InternViT's form; "
            "wanted internvl, internvl_chat, skywork_chat, intern_vit_6b, internvl_vision, dinov2",
        ),
        "gguf-as-language": (
            ["assemble", out, vision, size, f"--language={bad}/gemma.gguf"],
            f"{bad}/gemma.gguf: a GGUF file; convert it first, with python tools/import_gguf.py "
            f"--gguf={bad}/gemma.gguf --out=DIR, and give DIR",
        ),
        "gguf-of-gemma": (
            ["import_gguf", out, f"--gguf={bad}/gemma.gguf"],
            f"{bad}/gemma.gguf: a GGUF of architecture 'gemma3'; this program reads qwen2, qwen3, "
            "llama",
        ),
        "two-formats": (
            ["assemble", out, vision, size, f"--language={bad}/language"],
            f"{halves}/dinov2 with {bad}/language: its tensors are BF16 and F32; say which dtype "
            "you want, float32 or bfloat16",
        ),
    }


def write_gguf_header(path, architecture):
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    writer = gguf.GGUFWriter(path, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_mistake_is_one_sentence(halves, work, tmp_path):
    """Exit code 1, one line on stderr, nothing written."""
    table = mistakes(halves, work, tmp_path)
    results = run_all([command for command, _ in table.values()])
    for (name, (_, message)), result in zip(table.items(), results, strict=True):
        assert result == (1, "", f"error: {message}\n"), name
    assert not (tmp_path / "out").exists()
