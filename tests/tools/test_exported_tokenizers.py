"""Chat templates and tokenizer files of an export, as transformers and vLLM read them."""

import shutil
from pathlib import Path

import pytest
import tokenizers_for_tests
import transformers
from random_models import random_model
from small_checkpoints import CONFIG
from tools_for_tests import run_all
from torch_reference import ImageProcessorOnly

from r1v3_jax import hf
from r1v3_jax.files import read_json, write_json
from r1v3_jax.hf.read_config import LAYOUTS
from r1v3_jax.processing import chat, tokenizer, tokenizer_files

# What Skywork-R1V3 and Qwen2.5 ship: a template that knows strings only.
TEXT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou see.<|im_end|>\n' }}"
    "{% endif %}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def export(directory: Path, work: Path, cases: list[tuple[str, Path]]) -> list[Path]:
    """The checkpoint in `work` with other tokenizer files, exported: [(layout, files), ...]."""
    commands = []
    for i, (layout, files) in enumerate(cases):
        source = directory / f"{i}"
        shutil.copytree(work / "checkpoint", source)
        shutil.rmtree(source / "tokenizer")
        (source / "tokenizer").mkdir()
        tokenizer_files.copy_tokenizer(files, source / "tokenizer")
        out = f"--out={source}-out"
        commands.append(
            ["export_hf", f"--checkpoint={source}", out, f"--layout={layout}"]
        )
    for code, _, stderr in run_all(commands):
        assert code == 0, stderr
    return [directory / f"{i}-out" for i in range(len(cases))]


def render(directory: Path, content) -> str:
    theirs = transformers.AutoTokenizer.from_pretrained(
        directory, trust_remote_code=False
    )
    return theirs.apply_chat_template(
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

    # A template for strings is replaced by one for images, in the same format.
    head = "<|im_start|>system\nYou see.<|im_end|>\n<|im_start|>user\n"
    tail = "What?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert render(hf_strings, "What?") == head + tail
    assert render(hf_strings, IMAGE_PARTS) == f"{head}<IMG_CONTEXT>\n{tail}"
    assert "chat_template" not in read_json(hf_strings / "tokenizer_config.json")
    assert tokenizer.load(hf_strings).chat == chat.ChatFormat("You see.", "<think>\n")
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
        theirs = processor.tokenizer
        assert len(theirs) == size == 151674
        assert theirs.start_image_token_id == 151665
        assert theirs.end_image_token_id == 151666
        assert theirs.context_image_token_id == processor.image_token_id == 151667
        assert theirs.video_token == "<|video_pad|>"
        assert theirs.video_token_id == 151656
        ids = theirs.encode("<img>a</ref><|im_end|>")
        assert ids == [151665, 64, 151671, 151645]
        assert theirs.eos_token == "<|im_end|>"
        assert theirs.pad_token == "<|endoftext|>"


def test_a_video_token_is_never_invented(tmp_path):
    """Without a padding token the end of a turn is taken; without both the tokenizer is refused."""
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
    settings = read_json(work / "hf" / "tokenizer_config.json")
    assert read_json(tmp_path / "again" / "tokenizer_config.json") == settings
    assert settings["extra_special_tokens"] == {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<|endoftext|>",
    }
