"""Chat formats and templates: written for others, read back, read off other checkpoints."""

import dataclasses
import re
from types import SimpleNamespace

import pytest
from chats_for_tests import (
    CHATS,
    INTERNVL_CHAT,
    NO_THINK,
    QUESTION,
    assistant,
    conversations,
    starts_on_its_own,
    texts,
    user,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import write_tiny_tokenizer

from r1v3_jax.processing.chat import R1V3_CHAT, ChatFormat, chat_template
from r1v3_jax.processing.tokenizer import load


@pytest.mark.parametrize(
    "chat, stored, kept",
    [
        (R1V3_CHAT, "why\n</think>so", "why\n</think>so"),
        (R1V3_CHAT, "<think>\nwhy\n</think>so", "why\n</think>so"),
        (R1V3_CHAT, "<think>why</think>so", "why</think>so"),
        (R1V3_CHAT, "<think>\n<think>\nwhy", "<think>\nwhy"),  # one copy only
        (R1V3_CHAT, " <think>\nwhy", " <think>\nwhy"),  # only at the start
        (NO_THINK, "<think>\nwhy\n</think>so", "<think>\nwhy\n</think>so"),
    ],
)
def test_stored_opening_is_dropped_once(qwen, chat, stored, kept):
    assert chat.without_opening(stored) == kept
    tokenizer = dataclasses.replace(qwen, chat=chat)
    ids, mask = tokenizer.encode_example([QUESTION, assistant(stored)])
    learned = [i for i, m in zip(ids, mask, strict=True) if m]
    assert tokenizer.decode(learned, skip_special=False) == kept + "<|im_end|>"


TRICKY = ChatFormat(
    system='It\'s "{{ 1 }}" {% x %}\\n\n\t🎉 é', opening="<think> \"'\\\n"
)


@settings(max_examples=150, deadline=None)
@given(
    chat=st.sampled_from([*CHATS, TRICKY]),
    messages=conversations(texts.filter(starts_on_its_own)),
    repeat_opening=st.sampled_from(["", "all", "stripped"]),
)
def test_exported_template_gives_our_ids(qwen, chat, messages, repeat_opening):
    tokenizer = dataclasses.replace(qwen, chat=chat)
    repeat = {"": "", "all": chat.opening, "stripped": chat.opening.strip()}[
        repeat_opening
    ]
    messages = [
        message | {"content": repeat + message["content"]}
        if message["role"] == "assistant"
        else message
        for message in messages
    ]

    def rendered(messages, **options):
        return qwen.hf.apply_chat_template(
            messages, chat_template=chat_template(chat), return_dict=False, **options
        )

    assert rendered(messages) == tokenizer.encode_example(messages)[0]
    prompt = messages[:-1]
    assert rendered(prompt, add_generation_prompt=True) == tokenizer.encode_prompt(
        prompt
    )
    as_parts = [
        message | {"content": [{"type": "text", "text": c} for c in message["content"]]}
        for message in messages
    ]
    assert rendered(as_parts) == rendered(messages)


def test_exported_template_with_images_gives_our_ids(qwen):
    """Image parts become <IMG_CONTEXT>, which transformers' InternVLProcessor expands."""
    from transformers.models.internvl.processing_internvl import InternVLProcessor

    messages = [
        user([{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Same?"}]),
        assistant([{"type": "text", "text": "no"}]),
        user(
            [
                {"type": "text", "text": "And "},
                {"type": "image"},
                {"type": "text", "text": "?"},
            ]
        ),
    ]
    text = qwen.hf.apply_chat_template(
        messages,
        chat_template=chat_template(R1V3_CHAT),
        add_generation_prompt=True,
        tokenize=False,
    )
    processor = SimpleNamespace(
        start_image_token="<img>",
        end_image_token="</img>",
        image_token="<IMG_CONTEXT>",
        image_seq_length=256,
    )
    tiles = {"num_patches": [1, 3, 2]}
    images = iter(range(3))
    expanded = re.sub(
        "<IMG_CONTEXT>",
        lambda _: InternVLProcessor.replace_image_token(processor, tiles, next(images)),
        text,
    )
    ours = qwen.encode_prompt(
        [user("<image>\n<image>\nSame?"), assistant("no"), user("And <image>\n?")],
        [256, 768, 512],
    )
    assert qwen.hf.encode(expanded, add_special_tokens=False) == ours


def test_exported_template_refuses_video(qwen):
    messages = [user([{"type": "video"}])]
    with pytest.raises(Exception, match="text or image, not video"):
        qwen.hf.apply_chat_template(messages, chat_template=chat_template(R1V3_CHAT))


@pytest.mark.parametrize("chat", [*CHATS, TRICKY, ChatFormat(system="", opening="\n")])
def test_exported_template_is_read_back(tmp_path, chat):
    write_tiny_tokenizer(tmp_path, chat_template=chat_template(chat))
    assert load(tmp_path).chat == chat


# Shapes of real templates, shortened.
QWEN_LIKE = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


PARTS_ONLY = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


LLAMA_LIKE = "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
# It adds texts, so a list of parts makes it fail: what it renders of a text must be shown.
LLAMA_3_LIKE = (
    "{% for m in messages %}"
    "{{ '<|header|>' + m['role'] + '<|end|>' + m['content'] }}{% endfor %}"
)


@pytest.mark.parametrize(
    "template, chat",
    [
        (QWEN_LIKE, ChatFormat(system="You are Qwen.", opening="")),
        (PARTS_ONLY, ChatFormat(system=None, opening="<think>\n")),
        (None, R1V3_CHAT),
    ],
)
def test_format_is_read_off_the_checkpoint(tmp_path, template, chat):
    write_tiny_tokenizer(tmp_path, chat_template=template)
    assert load(tmp_path).chat == chat
    assert load(tmp_path, chat=INTERNVL_CHAT).chat == INTERNVL_CHAT


@pytest.mark.parametrize(
    "template, shown",
    [
        (LLAMA_LIKE, "[INST]"),
        (LLAMA_3_LIKE, "renders '<|header|>user<|end|>the text of the user'"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{% for %}", "TemplateSyntaxError"),
        ("<s>" + PARTS_ONLY, "<s>"),
    ],
)
def test_template_that_is_not_chatml(tmp_path, template, shown):
    write_tiny_tokenizer(tmp_path, chat_template=template)
    with pytest.raises(
        ValueError, match=r"not ChatML.* load\(directory, chat="
    ) as error:
        load(tmp_path)
    assert shown in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert load(tmp_path, chat=R1V3_CHAT).chat == R1V3_CHAT
