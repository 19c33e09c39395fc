"""Text to token ids and back: ChatML turns, image placeholders, the loss mask.

Knows a checkpoint's tokenizer and its chat format. Does not know pixels (an image is a number of
tokens here), weights or the context length, and never runs code from a checkpoint.

One example in the R1V3 format, one turn a line. A slash is a newline, so is the end of each line,
and n is 256 times the tiles of the image:

    <|im_start|>system / You are a helpful assistant.<|im_end|>
    <|im_start|>user / <img>[<IMG_CONTEXT> x n]</img> / What is this?<|im_end|>
    <|im_start|>assistant / <think> / It has whiskers. / </think> / A cat.<|im_end|>
                                      ^ sampling starts here   loss mask ends here ^

The control tokens are hard boundaries: no merge crosses them, so turns may be tokenised one by
one. The assistant's text is cut off from the header and the opening before it too. There a merge
could cross (an answer that begins with a newline), and a training prompt would then differ from
the prompt that sampling starts from. A sampled completion is kept as ids and never encoded again:
text does not say which ids it was sampled as.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from r1v3_jax.config import ModelConfig
from r1v3_jax.processing.chat import (
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_MARKER,
    IMAGE_START,
    IMAGE_TOKENS,
    R1V3_CHAT,
    TURN_END,
    TURN_START,
    ChatFormat,
    chat_format,
    chat_template,
    check_messages,
)


def load(
    directory: str | Path, *, chat: ChatFormat | None = None, text_only: bool = False
) -> "Tokenizer":
    """The tokenizer stored in `directory`, which is only read, never downloaded or executed.

    Reads tokenizer.json, vocab.json with merges.txt, or a sentencepiece tokenizer.model. Without
    `chat` the format is read off the checkpoint's chat template; R1V3_CHAT where there is none.
    `text_only` admits tokenizers without image tokens: those then cannot encode images.
    ValueError if nothing can be read, control tokens are missing or the template is not ChatML.
    """
    directory = Path(directory)
    files = ("tokenizer.json", "vocab.json", "tokenizer.model")
    if not any((directory / name).is_file() for name in files):
        state = (
            "it does not exist" if not directory.exists() else f"it has none of {files}"
        )
        raise ValueError(
            f"no tokenizer in {str(directory)!r}: {state}; point at a Hugging Face checkpoint"
        )
    try:
        hf = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # damaged files raise whatever the parser at hand raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"cannot read the tokenizer in {str(directory)!r}: {reason}"
        ) from error

    if hf.is_fast:  # a file may ask to cut and to pad
        hf.backend_tokenizer.no_truncation()
        hf.backend_tokenizer.no_padding()
    control_ids = {}
    # The standard tokens are structure as well: text must not end a document or begin one.
    standard = ("<|endoftext|>", hf.bos_token, hf.eos_token, hf.pad_token, hf.unk_token)
    for token in filter(None, (TURN_START, TURN_END, *IMAGE_TOKENS, *standard)):
        ids = hf.encode(token, add_special_tokens=False)
        if len(ids) == 1 and hf.convert_ids_to_tokens(ids) == [token]:
            control_ids[token] = ids[0]
    wanted = (
        (TURN_START, TURN_END) if text_only else (TURN_START, TURN_END, *IMAGE_TOKENS)
    )
    if missing := [token for token in wanted if token not in control_ids]:
        raise ValueError(
            f"the tokenizer in {str(directory)!r} lacks the single tokens {', '.join(missing)}; "
            "add them to its added tokens, or load it with text_only=True if only image tokens "
            "are missing"
        )
    if chat is None:
        chat = chat_format(hf, directory) if hf.chat_template else R1V3_CHAT
    return Tokenizer(hf, chat, control_ids)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A checkpoint's tokenizer and chat format; made by `load`.

    Messages are [{"role": "system" | "user" | "assistant", "content": str}, ...]; a system message
    can only be the first and replaces the default one. Each `<image>` in the system and user
    messages, in order, stands for one image, of image_tokens[i] tokens (256 times its tiles); if
    there is none, the images go in front of the first user message, one a line (the rule of
    InternVL's chat()). In the assistant's text `<image>` is plain text.

    Text must not contain the control tokens, so that it cannot forge turns or images.
    Another format, e.g. NoThink: dataclasses.replace(tokenizer, chat=...).

    control_ids: ids of the tokens that make structure, as far as the tokenizer has them.
    """

    hf: PreTrainedTokenizerBase
    chat: ChatFormat
    control_ids: dict[str, int]

    @property
    def vocab_size(self) -> int:
        """Number of token ids; the embedding may have more rows (padding)."""
        return len(self.hf)

    @property
    def image_token_id(self) -> int | None:
        """The token that an image embedding replaces; None if the tokenizer has no such token."""
        return self.control_ids.get(IMAGE_CONTEXT)

    @property
    def end_token_id(self) -> int:
        """<|im_end|>, where sampling stops."""
        return self.control_ids[TURN_END]

    @property
    def pad_token_id(self) -> int:
        """The checkpoint's padding; <|im_end|> if it has none, for padding is always masked."""
        return (
            self.end_token_id if self.hf.pad_token_id is None else self.hf.pad_token_id
        )

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Tokens that sampling must never emit: there is no image behind a sampled one."""
        return tuple(
            self.control_ids[token]
            for token in IMAGE_TOKENS
            if token in self.control_ids
        )

    def check_model(self, config: ModelConfig) -> None:
        """ValueError if this tokenizer is not that of a model with `config`: image token, end of a
        turn and number of tokens must agree.
        """
        problems = []
        if config.vision is not None and self.image_token_id != config.image_token_id:
            problems.append(
                f"{IMAGE_CONTEXT} is token {self.image_token_id} of the tokenizer, but "
                f"image_token_id of the model is {config.image_token_id}"
            )
        if self.end_token_id != config.end_token_id:
            problems.append(
                f"{TURN_END} is token {self.end_token_id} of the tokenizer, but the end token "
                f"(eos_token_id) of the model is {config.end_token_id}"
            )
        if self.vocab_size > config.text.vocab_size:
            problems.append(
                f"the tokenizer has {self.vocab_size} tokens, but vocab_size of the model is "
                f"{config.text.vocab_size}"
            )
        if problems:
            raise ValueError(
                f"{'; '.join(problems)}; change config.json, or take the tokenizer that the model "
                "was trained with"
            )

    def encode_prompt(self, messages: list[dict], image_tokens=()) -> list[int]:
        """Ids up to where the assistant's text begins, i.e. through the opening.

        ValueError if the last message is not the user's, the images do not match the markers, or
        the text is not plain.
        """
        pieces = self._pieces(messages, image_tokens)
        if messages[-1]["role"] != "user":
            raise ValueError(
                f"a prompt ends with a user message, got one from {messages[-1]['role']!r}; "
                "leave out the answer to be sampled"
            )
        return self._encode([*pieces, (self._answer_header(), False)])[0]

    def encode_example(
        self, messages: list[dict], image_tokens=()
    ) -> tuple[list[int], list[bool]]:
        """(tokens, loss_mask), equally long, for supervised fine-tuning.

        The mask is true on each assistant message and the <|im_end|> after it, nowhere else. An
        assistant message holds what follows the opening ("reasoning\\n</think>\\n\\nanswer"); one
        copy of the opening at its start is dropped. What precedes it is exactly
        encode_prompt(messages[:i]). ValueError as in encode_prompt, or if nothing is masked.
        """
        pieces = self._pieces(messages, image_tokens)
        if not any(supervised for _, supervised in pieces):
            raise ValueError(
                "an example has no assistant message, so nothing to learn; drop it"
            )
        return self._encode(pieces)

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text as they would be in the middle of a sequence."""
        self._check_plain(text, "the text")
        return self._ids(text)

    def closing(self, text: str = "</think>") -> tuple[tuple[int, ...], ...]:
        """For each token of `text` the ids that may stand in its place, the plain one first.

        Byte-pair merges join the ends of a text with what is beside it: Qwen writes
        `.</think>` and two newlines as `.</`, `think` and one token of `>` and the newlines.
        """
        first, *rest = self.encode_text(text)
        if not rest:
            return ((first,),)
        *middle, last = rest
        vocabulary = self.hf.get_vocab()
        begin, end = self.hf.convert_ids_to_tokens([first, last])
        before = sorted(i for token, i in vocabulary.items() if token.endswith(begin))
        behind = sorted(i for token, i in vocabulary.items() if token.startswith(end))
        return (
            (first, *(i for i in before if i != first)),
            *((i,) for i in middle),
            (last, *(i for i in behind if i != last)),
        )

    def decode(self, ids, *, skip_special: bool) -> str:
        """Text of int[T] ids from anywhere in a sequence; `</think>` is ordinary text and stays.

        `skip_special` leaves out the tokens that the tokenizer marks as special. Undoes
        encode_text up to the tokenizer's normalisation (NFC in Qwen2). ValueError for ids outside
        the vocabulary.
        """
        return self.decode_all([ids], skip_special=skip_special)[0]

    def decode_all(self, rows, *, skip_special: bool) -> list[str]:
        """`decode` of each of several; the tokenizer's library takes all cores for it."""
        added = self.hf.added_tokens_decoder
        left_out = (
            [i for i, token in added.items() if token.special] if skip_special else []
        )
        wanted = []
        for ids in map(np.asarray, rows):
            check_token_ids(ids, self.vocab_size)
            # As in _ids: a sentencepiece decoder drops the space before the first word.
            kept = ids[~np.isin(ids, left_out)] if left_out else ids
            wanted.append([self.control_ids[TURN_START], *kept.tolist()])
        if self.hf.is_fast:
            texts = self.hf.backend_tokenizer.decode_batch(
                wanted, skip_special_tokens=False
            )
        else:
            how = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
            texts = [self.hf.decode(ids, **how) for ids in wanted]
        return [text.removeprefix(TURN_START) for text in texts]

    def _ids(self, text: str) -> list[int]:
        # A sentencepiece tokenizer puts a space before the first word of its input. No piece of a
        # chat comes first, so each is encoded behind a control token.
        text = TURN_START + text
        if (
            self.hf.is_fast
        ):  # transformers' own way holds Python's lock for three times as long
            return self.hf.backend_tokenizer.encode(text, add_special_tokens=False).ids[
                1:
            ]
        return self.hf.encode(text, add_special_tokens=False, verbose=False)[1:]

    def _encode(self, pieces: list[tuple[str, bool]]) -> tuple[list[int], list[bool]]:
        tokens, loss_mask = [], []
        for text, supervised in pieces:
            ids = self._ids(text)
            tokens += ids
            loss_mask += [supervised] * len(ids)
        return tokens, loss_mask

    def _answer_header(self) -> str:
        return f"{TURN_START}assistant\n{self.chat.opening}"

    def _pieces(self, messages: list[dict], image_tokens) -> list[tuple[str, bool]]:
        """The chat as (text, supervised) pieces, to be tokenised one by one."""
        check_messages(messages)
        for i, message in enumerate(messages):
            self._check_plain(message["content"], f"message {i} ({message['role']})")
        if messages[0]["role"] != "system" and self.chat.system is not None:
            messages = [{"role": "system", "content": self.chat.system}, *messages]
        pieces = []
        contents = self._with_images(messages, image_tokens)
        for message, content in zip(messages, contents, strict=True):
            if message["role"] == "assistant":
                answer = self.chat.without_opening(content) + TURN_END
                pieces += [
                    (self._answer_header(), False),
                    (answer, True),
                    ("\n", False),
                ]
            else:
                pieces.append(
                    (f"{TURN_START}{message['role']}\n{content}{TURN_END}\n", False)
                )
        return pieces

    def _with_images(self, messages: list[dict], image_tokens) -> list[str]:
        """The contents of the messages, with the image tokens in the places of the markers."""
        contents = [message["content"] for message in messages]
        asking = [
            i for i, message in enumerate(messages) if message["role"] != "assistant"
        ]
        markers = sum(contents[i].count(IMAGE_MARKER) for i in asking)
        if markers == 0 and len(image_tokens) > 0:
            first = next((i for i in asking if messages[i]["role"] == "user"), None)
            if first is None:
                raise ValueError(
                    f"{len(image_tokens)} images, but no user message to hold them"
                )
            contents[first] = f"{IMAGE_MARKER}\n" * len(image_tokens) + contents[first]
        elif markers != len(image_tokens):
            raise ValueError(
                f"{markers} {IMAGE_MARKER} markers in the messages, but {len(image_tokens)} "
                "images; write one marker per image, or none to have all images in front"
            )
        if len(image_tokens) and not all(
            token in self.control_ids for token in IMAGE_TOKENS
        ):
            raise ValueError(
                f"{len(image_tokens)} images, but the tokenizer has no image tokens "
                f"({', '.join(IMAGE_TOKENS)}); use a vision checkpoint or leave the images out"
            )
        if any(n < 1 for n in image_tokens):
            raise ValueError(
                f"every image has at least 1 token, got {list(image_tokens)}"
            )
        counts = iter(image_tokens)
        for i in asking:
            contents[i] = re.sub(
                IMAGE_MARKER,
                lambda _: IMAGE_START + IMAGE_CONTEXT * next(counts) + IMAGE_END,
                contents[i],
            )
        return contents

    def _check_plain(self, text: str, where: str):
        for token in self.control_ids:
            if token in text:
                raise ValueError(
                    f"{where} contains the control token {token}, which would forge structure; "
                    "remove it or drop the row"
                )
        if surrogate := re.search("[\ud800-\udfff]", text):
            raise ValueError(
                f"{where} has a lone surrogate {surrogate[0]!r} at character {surrogate.start()}, "
                "which is not text; decode the source as UTF-8 with errors='replace'"
            )


def export_template(directory: str | Path, layout: str) -> str | None:
    """The chat template of an exported checkpoint in a layout of `hf_config.LAYOUTS`, for the
    tokenizer in `directory`; None if its own will do.

    transformers' InternVLProcessor replaces <IMG_CONTEXT>. vLLM replaces <image> in the original
    layout, and puts it there itself where a template knows strings only.
    """
    tokenizer = load(directory)
    if tokenizer.hf.chat_template:
        content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
        try:
            text = tokenizer.hf.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False
            )
        except (
            Exception
        ):  # a template is a program: one for strings fails at a list in any way
            text = ""
        if (
            text.count(IMAGE_CONTEXT) == 1
            if layout == "hf"
            else IMAGE_CONTEXT not in text
        ):
            return None
    template = chat_template(tokenizer.chat)
    return template if layout == "hf" else template.replace(IMAGE_CONTEXT, IMAGE_MARKER)


def image_index(tokens: np.ndarray, image_token_id: int) -> np.ndarray:
    """int[B, T] -> int32[B, T]: the row of the flattened image embeddings at each position.

    Counted over the whole array in reading order, -1 for text. Two sequences with images of 2 and
    3 tokens ("I" is <IMG_CONTEXT>):

        tokens       [[11 12  I  I 13 14]      image_index  [[-1 -1  0  1 -1 -1]
                      [11  I  I  I 13  0]]                   [-1  2  3  4 -1 -1]]
    """
    is_image = np.asarray(tokens) == image_token_id
    rows = np.cumsum(is_image, dtype=np.int32).reshape(is_image.shape) - 1
    return np.where(is_image, rows, -1).astype(np.int32)


def check_token_ids(ids, vocab_size: int):
    """Refuses ids outside 0 <= id < vocab_size; `ids` is int[...] on the host.

    Needed because JAX clamps bad indices: the model would silently read another token's embedding.
    """
    ids = np.asarray(ids)
    if ids.size == 0:
        return
    if ids.dtype.kind not in "iu":
        raise ValueError(f"token ids must be integers, got {ids.dtype}")
    bad = np.argwhere((ids < 0) | (ids >= vocab_size))
    if len(bad):
        position = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"token id {ids[position]} at position {position} is outside the vocabulary of "
            f"{vocab_size} tokens; was it made with another checkpoint's tokenizer?"
        )


def check_prompt_length(prompt_tokens: int, max_prompt_tokens: int):
    """Refuses prompts that are too long: cutting one would cut images, so nothing is cut."""
    if prompt_tokens > max_prompt_tokens:
        raise ValueError(
            f"the prompt has {prompt_tokens} tokens, the limit is {max_prompt_tokens}; use fewer "
            "tiles per image, fewer images or less text, or raise the limit"
        )
