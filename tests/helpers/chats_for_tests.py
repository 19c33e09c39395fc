"""Chats for tests: messages, chat formats, and chats drawn by hypothesis."""

import dataclasses

from hypothesis import strategies as st

from r1v3_jax.processing.chat import R1V3_CHAT, ChatFormat

CONTROL_TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
]


NO_THINK = dataclasses.replace(R1V3_CHAT, opening="")


INTERNVL_CHAT = ChatFormat(system="你是书生·万象。", opening="")


BARE_CHAT = ChatFormat(system=None, opening="<think>\n")


CHATS = [R1V3_CHAT, NO_THINK, INTERNVL_CHAT, BARE_CHAT]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


QUESTION = user("What is 17+26?")


ANSWER = assistant("17+26=43\n</think>\n\n\\boxed{43}")


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
