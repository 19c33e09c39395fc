"""The chat format: ChatML turns, the system message, chat templates read and written.

Knows strings alone: no token ids, and no images except their markers in the text.
"""

import dataclasses
import json
import re
from pathlib import Path

from transformers import PreTrainedTokenizerBase

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
IMAGE_START = "<img>"
IMAGE_END = "</img>"
IMAGE_CONTEXT = "<IMG_CONTEXT>"  # the token that one image embedding replaces
IMAGE_TOKENS = (IMAGE_START, IMAGE_END, IMAGE_CONTEXT)
IMAGE_MARKER = "<image>"  # in message text: the next image goes here; not a token
ROLES = ("system", "user", "assistant")


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """ChatML in the variant of one checkpoint."""

    system: str | None  # message of the system turn if a chat has none; None: no turn
    opening: str  # what the assistant's turn already holds when generation begins

    def override(self, system: str, opening: str) -> "ChatFormat":
        """Returns this format with each of the two replaced that is not empty."""
        return ChatFormat(system or self.system, opening or self.opening)

    def without_opening(self, answer: str) -> str:
        """Returns `answer` without one copy of the opening at its start.

        Stored text may repeat the opening with or without the whitespace around it.
        """
        for opening in (self.opening, self.opening.strip()):
            if opening and answer.startswith(opening):
                return answer[len(opening) :]
        return answer


# System message: R1V3 report, section 6.2. Opening: the checkpoint's generation prompt ends in it.
# NoThink is dataclasses.replace(R1V3_CHAT, opening="").
R1V3_CHAT = ChatFormat(system="You are a helpful assistant.", opening="<think>\n")


def chat_format(hf: PreTrainedTokenizerBase, directory: Path) -> ChatFormat:
    """Reads the format off a rendering of the checkpoint's own chat template.

    ValueError if the rendering is not ChatML. `directory` is only named in the message.
    """
    sentinel = "the text of the user"
    plain = r"((?:(?!<\|im_).)*)"  # anything without a turn in it
    shape = re.compile(
        rf"(?:<\|im_start\|>system\n{plain}<\|im_end\|>\n)?"
        rf"<\|im_start\|>user\n{sentinel}<\|im_end\|>\n"
        rf"<\|im_start\|>assistant\n{plain}",
        re.DOTALL,
    )
    # Text templates want a string; templates of vision models may want a list of parts.
    renderings = []
    failures = []
    for content in (sentinel, [{"type": "text", "text": sentinel}]):
        try:
            rendering = hf.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as error:  # a template is a program: it may fail in any way
            failures.append(f"{type(error).__name__}: {error}")
            continue
        if match := shape.fullmatch(rendering):
            return ChatFormat(system=match[1], opening=match[2])
        renderings.append(rendering)
    # A template for texts fails at a list of parts: what it renders of a text says more.
    shown = next(iter([*renderings, *failures]))
    raise ValueError(
        f"the chat template in {str(directory)!r} is not ChatML, it renders {shown[:200]!r}; "
        "pass the format: load(directory, chat=ChatFormat(system=..., opening=...))"
    )


def check_messages(messages: list[dict]):
    """Raises ValueError unless `messages` is a filled list of {"role", "content"}.

    Only the first message can have the role "system".
    """
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise ValueError(
            "messages must be a filled list of dicts with a role and a content"
        )
    for i, message in enumerate(messages):
        role = message.get("role")
        content = message.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(
                f"message {i} has role {role!r} and content of type {type(content).__name__}; "
                f"wanted {' | '.join(ROLES)} and a str with {IMAGE_MARKER} where an image goes"
            )
        if role == "system" and i > 0:
            raise ValueError(
                f"message {i} is a system message; only the first message can be one"
            )


def chat_template(chat: ChatFormat) -> str:
    """Writes `chat` as a Jinja chat template for an exported checkpoint.

    `tokenizer.load` reads the template back as the same format. It renders the string that
    `Tokenizer` encodes. Content may also be a list of parts of type "text" or "image". An image
    becomes "<IMG_CONTEXT>\\n"; transformers' InternVLProcessor then replaces each <IMG_CONTEXT> by
    <img>, as many tokens as the image has, and </img>.
    """
    # A chat without a system turn of its own begins with this text.
    if chat.system is None:
        system = ""
    else:
        system = f"{TURN_START}system\n{chat.system}{TURN_END}\n"
    values = {
        "system": system,
        "opening": chat.opening,
        "bare_opening": chat.opening.strip(),
    }
    settings = []
    for name, value in values.items():
        # Jinja reads the escapes of a JSON string as JSON does.
        literal = json.dumps(value, ensure_ascii=False)
        settings.append(f"{{%- set {name} = {literal} -%}}\n")
    return "".join(settings) + _CHAT_TEMPLATE


_CHAT_TEMPLATE = r"""
{%- if messages[0].role != "system" -%}{{ system }}{%- endif -%}
{%- for message in messages -%}
  {%- set turn = namespace(text="") -%}
  {%- if message.content is string -%}
    {%- set turn.text = message.content -%}
  {%- else -%}
    {%- for part in message.content -%}
      {%- if part.type == "image" -%}
        {%- set turn.text = turn.text + "<IMG_CONTEXT>\n" -%}
      {%- elif part.type == "text" -%}
        {%- set turn.text = turn.text + part.text -%}
      {%- else -%}
        {{ raise_exception("content parts are of type text or image, not " + part.type) }}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if message.role == "assistant" -%}
    {%- if opening and turn.text.startswith(opening) -%}
      {%- set turn.text = turn.text[opening | length :] -%}
    {%- elif bare_opening and turn.text.startswith(bare_opening) -%}
      {%- set turn.text = turn.text[bare_opening | length :] -%}
    {%- endif -%}
    {%- set turn.text = opening + turn.text -%}
  {%- endif -%}
  {{ "<|im_start|>" + message.role + "\n" + turn.text + "<|im_end|>\n" }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\n" + opening }}{%- endif -%}
"""
