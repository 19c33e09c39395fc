"""The tokenizer of the demonstration task: what is one token, stable ids, lengths of texts."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest

from r1v3_jax.processing import chat
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.tasks import digit_chains, digit_questions, digits
from r1v3_jax.tasks.digits import Digits

SOURCES = [
    Digits(d, s)
    for d, s in itertools.product(("home", "second"), ("train", "held_out"))
]
LEVELS = ("read", "easy", "normal", "hard")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    digits.write_tokenizer(directory)
    return load(directory)


def test_text_comes_back_from_its_tokens(tokenizer):
    unknown = tokenizer.control_ids["<unk>"]
    for source, level in itertools.product(SOURCES, LEVELS):
        for index in range(125):
            example = source.example(index, level)
            for text in (example.question, example.chain):
                ids = tokenizer.encode_text(text)
                assert unknown not in ids
                assert tokenizer.decode(ids, skip_special=False) == text
                assert tokenizer.decode(ids, skip_special=True) == text


def test_what_is_one_token(tokenizer):
    one = [
        *"0123456789+-=;,.?: \n",
        "<think>",
        "</think>",
        "\\boxed{",
        "}",
        " ok",
        "none",
    ]
    one += [f" {word}" for word in digit_chains.CRITICAL_WORDS] + [
        " stepwise:",
        " carefully:",
    ]
    assert all(len(tokenizer.encode_text(text)) == 1 for text in one)
    assert len(tokenizer.encode_text("47 38\n</think>\n\\boxed{85}")) == 5 + 3 + 4
    for question in itertools.chain(*digit_questions.QUESTIONS.values()):
        assert len(tokenizer.encode_text(question)) == len(question.split()) + 1
    # Other English falls into letters, and is not lost.
    assert tokenizer.decode(
        tokenizer.encode_text("Which row is longer?"), skip_special=False
    ) == ("Which row is longer?")


def test_ids_stay_what_they_are(tokenizer):
    """A checkpoint of the task is worth nothing with other ids."""
    words = digits.vocabulary()
    assert tokenizer.hf.convert_ids_to_tokens(range(len(words))) == words
    assert (
        hashlib.sha256("|".join(words).encode()).hexdigest()[:16] == "577a5b392e69a934"
    )


def test_chat_format_and_names(tokenizer, tmp_path):
    assert digits.write_tokenizer(tmp_path / "a") == tokenizer.vocab_size <= 128
    digits.write_tokenizer(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert tokenizer.chat == chat.ChatFormat(system=None, opening="<think>\n")
    assert (
        tokenizer.decode([tokenizer.end_token_id], skip_special=False) == "<|im_end|>"
    )
    assert (
        tokenizer.decode([tokenizer.pad_token_id], skip_special=False)
        == "<|endoftext|>"
    )
    # What transformers' InternVLProcessor reads off a tokenizer.
    hf = tokenizer.hf
    names = (
        hf.start_image_token,
        hf.end_image_token,
        hf.context_image_token,
        hf.video_token,
    )
    assert names == ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    ids = (hf.start_image_token_id, hf.end_image_token_id, hf.context_image_token_id)
    assert ids == tuple(tokenizer.control_ids[name] for name in names[:3])
    turn = [{"role": "user", "content": "Add the two rows."}]
    text = "<|im_start|>user\nAdd the two rows.<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert (
        hf.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) == text
    )
    assert tokenizer.decode(tokenizer.encode_prompt(turn), skip_special=False) == text
    assert "<think>" in tokenizer.decode(
        tokenizer.encode_prompt(turn), skip_special=True
    )


def test_lengths_in_tokens(tokenizer):
    """Prompts with an image of 16 tokens; completions with their <|im_end|>."""
    prompts, completions = Counter(), {}
    for level in LEVELS:
        for index in range(1000):
            example = Digits(split="held_out").example(index, level)
            turns = [
                {"role": "user", "content": example.question},
                {"role": "assistant", "content": example.chain},
            ]
            ids, mask = tokenizer.encode_example(turns, [16])
            prompts[mask.index(True)] += 1
            group = (level, digit_chains.style_of(example.chain))
            completions.setdefault(group, []).append(sum(mask))
    print(f"\nprompt tokens {min(prompts)} to {max(prompts)}")
    for group, lengths in completions.items():
        low, middle, high = min(lengths), int(np.median(lengths)), max(lengths)
        print(f"{' '.join(group)}: {low} to {high} completion tokens, median {middle}")
    assert max(prompts) <= 48
    assert max(map(max, completions.values())) <= 64
