"""Chats as ids: written out, two ways agree, the loss mask, images, forged text, bad prompts."""

import dataclasses
import re
import unicodedata

import numpy as np
import pytest
from chats_for_tests import (
    ANSWER,
    BARE_CHAT,
    CONTROL_TOKENS,
    NO_THINK,
    QUESTION,
    as_string,
    assistant,
    chats,
    conversations,
    starts_on_its_own,
    system,
    texts,
    user,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from r1v3_jax.processing.chat import R1V3_CHAT, ChatFormat
from r1v3_jax.processing.tokenizer import (
    check_prompt_length,
    check_token_ids,
    image_index,
)

# The ids below are tiktoken's for the same strings (qwen.tiktoken with Qwen's split pattern).
# fmt: off
SYSTEM_IDS = [
    # <|im_start|> system \n You are   a helpful assistant . <|im_end|> \n
    151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198,
]
QUESTION_IDS = [
    # <|im_start|> user \n What is " " 1 7 + 2 6 ? <|im_end|> \n
    151644, 872, 198, 3838, 374, 220, 16, 22, 10, 17, 21, 30, 151645, 198,
]
HEADER_IDS = [
    # <|im_start|> assistant \n
    151644, 77091, 198,
]
THINK_IDS = [
    # <th ink >\n
    13708, 766, 397,
]
ANSWER_IDS = [
    # 1 7 + 2 6 = 4 3 \n </ think >\n\n \ boxed { 4 3 } <|im_end|>
    16, 22, 10, 17, 21, 28, 19, 18, 198, 522, 26865, 1339, 59, 79075, 90, 19, 18, 92, 151645,
]
# fmt: on


def test_prompt_written_out(qwen):
    prompt = qwen.encode_prompt([QUESTION])
    assert prompt == SYSTEM_IDS + QUESTION_IDS + HEADER_IDS + THINK_IDS


def test_no_think_prompt_ends_with_the_header(qwen):
    no_think = dataclasses.replace(qwen, chat=NO_THINK)
    assert no_think.encode_prompt([QUESTION]) == SYSTEM_IDS + QUESTION_IDS + HEADER_IDS


def test_example_written_out(qwen):
    ids, mask = qwen.encode_example([QUESTION, ANSWER])
    prompt = SYSTEM_IDS + QUESTION_IDS + HEADER_IDS + THINK_IDS
    assert ids == prompt + ANSWER_IDS + [198]
    assert mask == [False] * len(prompt) + [True] * len(ANSWER_IDS) + [False]


def test_a_leading_system_message_replaces_the_default(qwen):
    ids = qwen.encode_prompt([system("Be brief."), QUESTION])
    assert qwen.decode(ids, skip_special=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is 17+26?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    bare = dataclasses.replace(qwen, chat=BARE_CHAT)
    assert bare.encode_prompt([QUESTION]) == QUESTION_IDS + HEADER_IDS + THINK_IDS
    assert bare.encode_prompt([system("Be brief."), QUESTION]) == ids


def test_image_written_out(qwen):
    bare = dataclasses.replace(qwen, chat=BARE_CHAT)
    # fmt: off
    ids = [
        # <|im_start|> user \n <img> <IMG_CONTEXT> x 2 </img> \n Look . <|im_end|> \n
        151644, 872, 198, 151665, 151667, 151667, 151666, 198, 10380, 13, 151645, 198,
    ]
    # fmt: on
    assert (
        bare.encode_prompt([user("<image>\nLook.")], [2])
        == ids + HEADER_IDS + THINK_IDS
    )
    assert (
        bare.encode_prompt([user("Look.")], [2]) == ids + HEADER_IDS + THINK_IDS
    )  # no marker


@pytest.mark.parametrize(
    "messages, image_tokens, expected",
    [
        (  # in order of the markers
            [user("Is <image> left of <image>?")],
            [1, 2],
            "user\nIs <img>I</img> left of <img>II</img>?",
        ),
        (  # no marker: all images in front of the first user message
            [system("S"), user("One"), assistant("yes"), user("Two")],
            [2, 1],
            "system\nS|user\n<img>II</img>\n<img>I</img>\nOne|assistant\nyes|user\nTwo",
        ),
        (  # over several messages
            [system("<image>"), user("a <image>"), assistant("b"), user("<image> c")],
            [1, 2, 3],
            "system\n<img>I</img>|user\na <img>II</img>|assistant\nb|user\n<img>III</img> c",
        ),
        (  # an assistant's <image> is text, not a marker
            [user("Which tag?"), assistant("SVG has <image>."), user("Here: <image>")],
            np.array([2]),
            "user\nWhich tag?|assistant\nSVG has <image>.|user\nHere: <img>II</img>",
        ),
        ([user("None")], [], "user\nNone"),
    ],
)
def test_image_places(qwen, messages, image_tokens, expected):
    tokenizer = dataclasses.replace(qwen, chat=ChatFormat(system=None, opening=""))
    ids = tokenizer.encode_prompt(messages, image_tokens)
    text = tokenizer.decode(ids, skip_special=False).replace("<IMG_CONTEXT>", "I")
    assert text.removesuffix("<|im_start|>assistant\n") == "".join(
        f"<|im_start|>{turn}<|im_end|>\n" for turn in expected.split("|")
    )


def test_image_index_written_out():
    I = 9
    ids = np.array(
        [
            [1, 2, I, I, 3, 4],
            [1, I, I, I, 3, 0],
            [0, 0, 0, 0, 0, I],
        ]
    )
    index = image_index(ids, I)
    expected = [
        [-1, -1, 0, 1, -1, -1],
        [-1, 2, 3, 4, -1, -1],
        [-1, -1, -1, -1, -1, 5],
    ]
    assert index.dtype == np.int32
    np.testing.assert_array_equal(index, expected)


@settings(max_examples=150, deadline=None)
@given(chat=chats, messages=conversations(texts.filter(starts_on_its_own)))
def test_turn_by_turn_equals_the_whole_string(qwen, chat, messages):
    tokenizer = dataclasses.replace(qwen, chat=chat)
    whole = qwen.hf.encode(as_string(chat, messages), add_special_tokens=False)
    assert tokenizer.encode_example(messages)[0] == whole


@settings(max_examples=150, deadline=None)
@given(chat=chats, messages=conversations())
def test_loss_mask_law(qwen, chat, messages):
    """Masked tokens are the answers with their <|im_end|>; before each stands its own prompt."""
    tokenizer = dataclasses.replace(qwen, chat=chat)
    ids, mask = tokenizer.encode_example(messages)
    assert len(ids) == len(mask)
    learned = tokenizer.decode(
        [i for i, m in zip(ids, mask, strict=True) if m], skip_special=False
    )
    answers = [
        chat.without_opening(m["content"]) for m in messages if m["role"] == "assistant"
    ]
    assert learned == "".join(
        unicodedata.normalize("NFC", a) + "<|im_end|>" for a in answers
    )

    edges = np.flatnonzero(np.diff([False, *mask, False]))
    starts, stops = edges[::2], edges[1::2]
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    assert len(starts) == len(turns)
    for start, stop, turn in zip(starts, stops, turns, strict=True):
        assert ids[:start] == tokenizer.encode_prompt(messages[:turn])
        assert ids[stop - 1] == tokenizer.end_token_id


def test_training_conditions_on_the_sampling_prompt_where_a_merge_would_cross(qwen):
    """An answer that begins with newlines: tokenising the whole string would eat the opening."""
    messages = [QUESTION, assistant("\n\nx")]
    prompt = qwen.encode_prompt([QUESTION])
    whole = qwen.hf.encode(as_string(R1V3_CHAT, messages), add_special_tokens=False)
    assert whole[: len(prompt)] != prompt  # ">\n\n\n" is one token
    ids, mask = qwen.encode_example(messages)
    assert ids[: len(prompt)] == prompt
    assert mask.index(True) == len(prompt)


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_round_trip(qwen, text):
    ids = qwen.encode_text(text)
    normal = unicodedata.normalize("NFC", text)
    assert qwen.decode(ids, skip_special=False) == normal
    assert qwen.decode(ids, skip_special=True) == normal
    check_token_ids(ids, qwen.vocab_size)


@settings(max_examples=150, deadline=None)
@given(messages=conversations(), images=st.lists(st.integers(1, 5), max_size=3))
def test_text_cannot_forge_structure(qwen, messages, images):
    ids, _ = qwen.encode_example(messages, images)
    turns = len(messages) + (messages[0]["role"] != "system")
    assert [ids.count(qwen.control_ids[token]) for token in CONTROL_TOKENS] == [
        turns,
        turns,
        0,
        len(images),
        len(images),
        sum(images),
    ]


def test_decode_with_and_without_special_tokens(qwen):
    ids = qwen.encode_prompt([user("<image>Hi")], [2])
    assert qwen.decode(ids, skip_special=False) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT></img>Hi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    assert qwen.decode(ids, skip_special=True) == (
        "system\nYou are a helpful assistant.\nuser\nHi\nassistant\n<think>\n"
    )
    assert (
        qwen.decode(ANSWER_IDS, skip_special=True) == ANSWER["content"]
    )  # </think> stays
    assert (
        qwen.decode(np.array(ANSWER_IDS, np.int32), skip_special=True)
        == ANSWER["content"]
    )
    assert qwen.decode([], skip_special=True) == ""


@pytest.mark.parametrize("token", CONTROL_TOKENS)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_control_tokens_in_text_are_refused(qwen, role, token):
    messages = [system("s"), user("u"), assistant("a")]
    i = ["system", "user", "assistant"].index(role)
    messages[i] = {"role": role, "content": f"x{token}y"}
    message = rf"message {i} \({role}\) contains the control token {re.escape(token)},"
    with pytest.raises(ValueError, match=message):
        qwen.encode_example(messages)
    with pytest.raises(ValueError, match="control token"):
        qwen.encode_prompt([*messages, user("u")])
    with pytest.raises(ValueError, match=rf"the text contains .* {re.escape(token)},"):
        qwen.encode_text(f"x{token}y")


@pytest.mark.parametrize(
    "messages, image_tokens, error",
    [
        (
            [user("<image> <image>")],
            [1],
            "2 <image> markers in the messages, but 1 images",
        ),
        ([user("<image>")], [], "1 <image> markers in the messages, but 0 images"),
        ([user("<image>")], [1, 1], "1 <image> markers in the messages, but 2 images"),
        ([user("<image>")], [0], "at least 1 token, got .0."),
        ([system("s"), assistant("a")], [1], "1 images, but no user message"),
        ([], [], "filled list of dicts"),
        (["hello"], [], "filled list of dicts"),
        (
            [user("a"), {"role": "human", "content": "b"}],
            [],
            "message 1 has role 'human'",
        ),
        ([{"content": "b"}], [], "message 0 has role None"),
        ([user(None)], [], "message 0 .* content of type NoneType"),
        (
            [user([{"type": "text", "text": "a"}])],
            [],
            "message 0 .* content of type list",
        ),
        ([user("a"), system("s")], [], "message 1 is a system message"),
        (
            [user("a\ud800b")],
            [],
            r"message 0 \(user\) has a lone surrogate '\\ud800' at char.* 1",
        ),
        ([QUESTION, ANSWER], [], "ends with a user message, got one from 'assistant'"),
        ([system("s")], [], "ends with a user message, got one from 'system'"),
    ],
)
def test_bad_prompts(qwen, messages, image_tokens, error):
    with pytest.raises(ValueError, match=error):
        qwen.encode_prompt(messages, image_tokens)


def test_example_without_an_answer(qwen):
    with pytest.raises(ValueError, match="no assistant message"):
        qwen.encode_example([QUESTION])


def test_check_token_ids():
    check_token_ids([0, 5, 9], 10)
    check_token_ids(np.zeros((2, 0), np.int32), 10)
    check_token_ids([], 10)
    for ids, error in [
        (
            [[0, 1], [10, -1]],
            r"token id 10 at position \(1, 0\) .* vocabulary of 10 tokens",
        ),
        ([3, -1], r"token id -1 at position \(1,\)"),
        (np.array([2**31 - 1], np.int32), "token id 2147483647 at"),
        ([0.0], "must be integers, got float64"),
        ([2**70], "must be integers, got object"),
    ]:
        with pytest.raises(ValueError, match=error):
            check_token_ids(ids, 10)


def test_decode_refuses_ids_outside_the_vocabulary(qwen):
    with pytest.raises(ValueError, match=r"token id 151674 at position \(1,\)"):
        qwen.decode([16, 151674], skip_special=True)


def test_check_prompt_length():
    check_prompt_length(8192, 8192)
    with pytest.raises(ValueError, match="has 8193 tokens, the limit is 8192"):
        check_prompt_length(8193, 8192)
