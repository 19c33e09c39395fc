"""Tokenizers in several forms of files: read alike, refused if damaged, never executed."""

import dataclasses
import json
import pickle

import pytest
from chats_for_tests import ANSWER, CONTROL_TOKENS, QUESTION, as_string, assistant, user
from tokenizers import Tokenizer as RustTokenizer
from tokenizers_for_tests import (
    write_hub_layout,
    write_sentencepiece_tokenizer,
    write_tiny_tokenizer,
)
from transformers import AutoTokenizer

from r1v3_jax.config import TINY
from r1v3_jax.processing.chat import R1V3_CHAT
from r1v3_jax.processing.tokenizer import load


def test_ids_of_the_real_vocabulary(qwen):
    assert qwen.vocab_size == 151674
    assert qwen.image_token_id == 151667
    assert qwen.end_token_id == 151645
    assert qwen.pad_token_id == 151643
    assert qwen.banned_token_ids == (151665, 151666, 151667)
    assert [qwen.control_ids[token] for token in CONTROL_TOKENS] == [
        151644,
        151645,
        151643,
        151665,
        151666,
        151667,
    ]
    assert qwen.hf.convert_ids_to_tokens(151673) == "</box>"


def test_hub_files_give_the_same_ids(qwen_directory, qwen, tmp_path):
    """vocab.json and merges.txt beside a config.json of an unknown model type."""
    write_hub_layout(qwen_directory, tmp_path)
    hub = load(tmp_path)
    assert hub.control_ids == qwen.control_ids
    assert hub.vocab_size == qwen.vocab_size
    messages = [user("Wie heißt 中文 in e\u0301?\r\n\r\n 12 <tool_call>"), ANSWER]
    assert hub.encode_example(messages, [3]) == qwen.encode_example(messages, [3])


def test_nothing_is_cut_or_padded(tiny_directory, tmp_path):
    """Not even where the checkpoint's files ask for it: half an image is worse than an error."""
    expected = load(tiny_directory).encode_prompt([QUESTION], [256])
    AutoTokenizer.from_pretrained(tiny_directory).save_pretrained(tmp_path)
    rust = RustTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rust.enable_truncation(5)
    rust.enable_padding(length=4000)
    rust.save(str(tmp_path / "tokenizer.json"))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(config | {"model_max_length": 7})
    )
    assert load(tmp_path).encode_prompt([QUESTION], [256]) == expected


def test_survives_pickling(qwen):
    """Data workers are other processes."""
    copy = pickle.loads(pickle.dumps(qwen))
    assert copy.encode_example([QUESTION, ANSWER], [3]) == qwen.encode_example(
        [QUESTION, ANSWER], [3]
    )


def test_tiny_tokenizer(tiny_directory, tmp_path):
    tiny = load(tiny_directory)
    assert (tiny.pad_token_id, tiny.end_token_id, tiny.image_token_id) == (
        265,
        267,
        270,
    )
    assert tiny.banned_token_ids == (268, 269, 270)
    assert tiny.encode_text("the 7\n\n") == [257, ord(" "), ord("7"), 263]
    write_tiny_tokenizer(tmp_path)  # the same call, the same tokenizer
    written = [(d / "tokenizer.json").read_bytes() for d in (tiny_directory, tmp_path)]
    assert written[0] == written[1]


def closes(tokenizer, text):
    """Whether the ids of `text` hold the end of thinking, as the sampler looks for it."""
    ends, ids = tokenizer.closing("</think>"), tokenizer.encode_text(text)
    starts = range(len(ids) - len(ends) + 1)
    return any(all(ids[at + i] in end for i, end in enumerate(ends)) for at in starts)


def test_the_end_of_thinking_is_known_however_it_is_merged(
    qwen, tiny_directory, tmp_path
):
    plain = qwen.encode_text("</think>")
    assert [end[0] for end in qwen.closing()] == plain
    assert (
        qwen.encode_text("so.</think>\n\n")[-3:] != plain
    )  # `.</` and `>\n\n` are tokens
    write_sentencepiece_tokenizer(tmp_path, legacy=False)
    for tokenizer in (qwen, load(tiny_directory), load(tmp_path)):
        for before in ("", "x", ". ", "so.", "7)", "?\n", "\n\n", "$$"):
            for after in ("", "\n", "\n\n", "x", " 7", ".", ">"):
                assert closes(tokenizer, f"{before}</think>{after}"), (before, after)
        for text in (
            "<think>",
            "</ think>",
            "< /think>",
            "</thin>",
            "think>",
            "</think",
            "",
        ):
            assert not closes(tokenizer, text), text


@pytest.mark.parametrize("legacy", [False, True])
def test_sentencepiece(tmp_path, legacy):
    size = write_sentencepiece_tokenizer(tmp_path, legacy=legacy)
    tokenizer = load(tmp_path)
    assert tokenizer.vocab_size == size
    assert tokenizer.image_token_id == tokenizer.hf.convert_tokens_to_ids(
        "<IMG_CONTEXT>"
    )
    assert tokenizer.pad_token_id == tokenizer.end_token_id  # it has no padding token
    messages = [
        user("the cat sat\n on 12 é"),
        assistant("two red squares"),
        user("looked"),
    ]
    ids = tokenizer.encode_prompt(messages)
    whole = as_string(R1V3_CHAT, messages) + "<|im_start|>assistant\n<think>\n"
    if not legacy:  # else the answer, cut off from its opening, gets a space of its own
        assert ids == tokenizer.hf.encode(whole, add_special_tokens=False)
        assert tokenizer.decode(ids, skip_special=False) == whole
        pair = tokenizer.decode_all([ids, ids[:3], []], skip_special=False)
        assert pair == [whole, tokenizer.decode(ids[:3], skip_special=False), ""]
        for text in ("the cat", "  the cat ", "a , b . it 's", "\n\n中", ""):
            assert (
                tokenizer.decode(tokenizer.encode_text(text), skip_special=True) == text
            )
    example, mask = tokenizer.encode_example([*messages, assistant("blue")])
    assert example[: len(ids)] == ids
    learned = [
        i for i, m in zip(example[len(ids) :], mask[len(ids) :], strict=True) if m
    ]
    assert tokenizer.decode(learned, skip_special=True).lstrip(" ") == "blue"
    with pytest.raises(ValueError, match="control token </s>"):
        tokenizer.encode_prompt([user("a</s>b")])


def test_text_only(tmp_path):
    write_tiny_tokenizer(tmp_path, images=False)
    with pytest.raises(
        ValueError, match="lacks the single tokens <img>, </img>, <IMG_CONTEXT>;"
    ):
        load(tmp_path)
    tokenizer = load(tmp_path, text_only=True)
    assert tokenizer.image_token_id is None
    assert tokenizer.banned_token_ids == ()
    assert tokenizer.encode_example([QUESTION, ANSWER])[0]
    with pytest.raises(
        ValueError, match="1 images, but the tokenizer has no image tokens"
    ):
        tokenizer.encode_prompt([QUESTION], [256])


def test_missing_directory_and_files(tmp_path):
    for directory, why in [
        (tmp_path / "nowhere", "it does not exist"),
        (tmp_path, "has none of"),
    ]:
        with pytest.raises(ValueError, match=f"no tokenizer in '{directory}': .*{why}"):
            load(directory)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=f"no tokenizer in '{tmp_path}': it has none of"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"model": {"type": "BPE"}}', "null"]
)
def test_damaged_files(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(
        ValueError, match=f"cannot read the tokenizer in '{tmp_path}': "
    ):
        load(tmp_path)


def test_missing_tokens_are_listed_at_once(tiny_directory, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (tiny_directory / name).read_text()
        (tmp_path / name).write_text(
            text.replace("<|im_end|>", "<|x|>").replace("<img>", "<y>")
        )
    with pytest.raises(
        ValueError, match=r"lacks the single tokens <\|im_end\|>, <img>;"
    ):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"lacks the single tokens <\|im_end\|>;"):
        load(tmp_path, text_only=True)


@pytest.mark.parametrize("tokenizer_class", ["Qwen2Tokenizer", "EvilTokenizer"])
def test_code_in_a_checkpoint_never_runs(tiny_directory, tmp_path, tokenizer_class):
    AutoTokenizer.from_pretrained(tiny_directory).save_pretrained(tmp_path)
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(
        f"open({str(marker)!r}, 'w')\nclass EvilTokenizer: pass\n"
    )
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {
        "tokenizer_class": tokenizer_class,
        "auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilTokenizer"}}
        )
    )
    if tokenizer_class == "Qwen2Tokenizer":
        assert load(tmp_path).vocab_size == 277
    else:
        with pytest.raises(ValueError, match="cannot read the tokenizer in"):
            load(tmp_path)
    assert not marker.exists()


def test_check_model(tiny_directory, tmp_path):
    tokenizer = load(tiny_directory)
    text = dataclasses.replace(TINY.text, vocab_size=277)
    config = dataclasses.replace(
        TINY, text=text, image_token_id=270, end_token_id=267, pad_token_id=265
    )
    tokenizer.check_model(config)
    tokenizer.check_model(
        dataclasses.replace(config, text=TINY.text)
    )  # 331 rows: padding
    language = dataclasses.replace(config, vision=None, image_token_id=None)
    tokenizer.check_model(language)
    write_tiny_tokenizer(tmp_path, images=False)
    load(tmp_path, text_only=True).check_model(language)
    small = dataclasses.replace(text, vocab_size=275)
    with pytest.raises(ValueError) as raised:
        tokenizer.check_model(
            dataclasses.replace(
                config, text=small, image_token_id=200, end_token_id=265
            )
        )
    assert str(raised.value) == (
        "<IMG_CONTEXT> is token 270 of the tokenizer, but image_token_id of the model is 200; "
        "<|im_end|> is token 267 of the tokenizer, but the end token (eos_token_id) of the model "
        "is 265; the tokenizer has 277 tokens, but vocab_size of the model is 275; change "
        "config.json, or take the tokenizer that the model was trained with"
    )


@pytest.mark.parametrize("name", ["qwen_directory", "tiny_directory"])
def test_what_as_text_returns_is_encoded_as_characters(request, name):
    """Every special token of the vocabulary, alone, doubled and nested, comes back as it was."""
    tokenizer = load(request.getfixturevalue(name))
    added = tokenizer.hf.added_tokens_decoder
    special = {i for i, token in added.items() if token.special}
    text = "".join(f"a{added[i].content}{added[i].content} " for i in sorted(special))
    text += "<|im_<|im_end|>end|> <im<image>age> <<img>>"
    ids = tokenizer.encode_text(tokenizer.as_text(text))
    assert not special & set(ids)
    assert tokenizer.decode(ids, skip_special=False) == text
    plain = "Nothing <b>special</b> here."
    assert tokenizer.as_text(plain) == plain
