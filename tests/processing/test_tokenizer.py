"""Chat encoding: exact ids, agreement with transformers, the loss mask, forged text, errors."""

import dataclasses
import json
import pickle
import re
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers_for_tests import (
    write_hub_layout,
    write_qwen_tokenizer,
    write_sentencepiece_tokenizer,
    write_tiny_tokenizer,
)
from transformers import AutoTokenizer

from r1v3_jax.config import TINY
from r1v3_jax.processing.chat import R1V3_CHAT, ChatFormat, chat_template
from r1v3_jax.processing.tokenizer import (
    check_prompt_length,
    check_token_ids,
    image_index,
    load,
)

NO_THINK = dataclasses.replace(R1V3_CHAT, opening="")
INTERNVL_CHAT = ChatFormat(system="你是书生·万象。", opening="")
BARE_CHAT = ChatFormat(system=None, opening="<think>\n")
CHATS = [R1V3_CHAT, NO_THINK, INTERNVL_CHAT, BARE_CHAT]
CONTROL_TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
]


@pytest.fixture(scope="session")
def qwen_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("qwen")
    assert write_qwen_tokenizer(directory) == 151674
    return directory


@pytest.fixture(scope="session")
def qwen(qwen_directory):
    return load(qwen_directory)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    assert write_tiny_tokenizer(directory) == 277
    return directory


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


# --- written out -----------------------------------------------------------------------------


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
QUESTION = user("What is 17+26?")
ANSWER = assistant("17+26=43\n</think>\n\n\\boxed{43}")


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


# --- two ways agree --------------------------------------------------------------------------

# Pieces that stress the cuts: halves of control tokens, newlines, combining marks, openings.
fragments = st.sampled_from(
    [
        "<",
        "<|im_",
        "im_start|>",
        "<img",
        "IMG_CONTEXT>",
        "\n",
        " ",
        "<think>",
        "</think>",
        "user",
    ]
    + ["\r\n", "7", "cat", "中", "e\u0301", "é", "🎉", "\0", "{{x}}"]
)
texts = st.one_of(
    st.text(max_size=20), st.lists(fragments, max_size=8).map("".join)
).filter(lambda text: not any(token in text for token in [*CONTROL_TOKENS, "<image>"]))
chats = st.sampled_from(CHATS)


@st.composite
def conversations(draw, answers=texts):
    """[system], then user and assistant turns that end with an answer."""
    messages = [system(draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [user(draw(texts)), assistant(draw(answers))]
    return messages


def as_string(chat, messages):
    """The chat as one string, written independently of the code under test."""
    if messages[0]["role"] != "system" and chat.system is not None:
        messages = [system(chat.system), *messages]
    turns = [
        "<|im_start|>"
        + message["role"]
        + "\n"
        + (chat.opening if message["role"] == "assistant" else "")
        + message["content"]
        + "<|im_end|>\n"
        for message in messages
    ]
    return "".join(turns)


def starts_on_its_own(text):
    """No merge reaches from a text like this into the opening before it, and no strip applies."""
    return text[:1].isalnum()


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


# --- agreement with transformers -------------------------------------------------------------

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
    map_in_chunks = [
        message | {"content": [{"type": "text", "text": c} for c in message["content"]]}
        for message in messages
    ]
    assert rendered(map_in_chunks) == rendered(messages)


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


# --- other tokenizers ------------------------------------------------------------------------


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


# --- errors ----------------------------------------------------------------------------------


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
