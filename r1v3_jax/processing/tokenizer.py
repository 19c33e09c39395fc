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
one. The assistant's text is also cut off from the header and the opening before it. There a merge
could cross (an answer that begins with a newline), and a training prompt would then differ from
the prompt that sampling starts from. A sampled completion is kept as ids and never encoded again,
because its text does not determine the ids it was sampled as.
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

# Stands inside what looks like a control token and is none, see `Tokenizer.as_text`. Noncharacters
# of Unicode, which no text has.
SEAM = "\ufdd0\ufdd1\ufdd0"


def load(
    directory: str | Path, *, chat: ChatFormat | None = None, text_only: bool = False
) -> "Tokenizer":
    """Loads the tokenizer stored in `directory`; nothing is downloaded or executed.

    Reads tokenizer.json, vocab.json with merges.txt, or a sentencepiece tokenizer.model. Without
    `chat` the format is read off the checkpoint's chat template; without a template it is
    R1V3_CHAT. `text_only` admits tokenizers without image tokens, which then cannot encode images.
    ValueError if nothing can be read, control tokens are missing or the template is not ChatML.
    """
    directory = Path(directory)
    hf = read_tokenizer(directory)
    control_ids = find_control_ids(hf)
    required = [TURN_START, TURN_END]
    if not text_only:
        required += IMAGE_TOKENS
    missing = [token for token in required if token not in control_ids]
    if missing:
        raise ValueError(
            f"the tokenizer in {str(directory)!r} lacks the single tokens {', '.join(missing)}; "
            "add them to its added tokens, or load it with text_only=True if only image tokens "
            "are missing"
        )
    # A base model without a template still gets a format: it has to be taught one anyway.
    if chat is None:
        chat = chat_format(hf, directory) if hf.chat_template else R1V3_CHAT
    return Tokenizer(hf, chat, control_ids)


def read_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Reads the tokenizer's files with transformers. ValueError if that fails."""
    files = ("tokenizer.json", "vocab.json", "tokenizer.model")
    if not any((directory / name).is_file() for name in files):
        if directory.exists():
            state = f"it has none of {files}"
        else:
            state = "it does not exist"
        raise ValueError(
            f"no tokenizer in {str(directory)!r}: {state}; point at a Hugging Face checkpoint"
        )
    try:
        hf = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # damaged files raise whatever their parser raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"cannot read the tokenizer in {str(directory)!r}: {reason}"
        ) from error
    # tokenizer.json may ask to cut and to pad. Half an image is worse than an error.
    if hf.is_fast:
        hf.backend_tokenizer.no_truncation()
        hf.backend_tokenizer.no_padding()
    return hf


def find_control_ids(hf: PreTrainedTokenizerBase) -> dict[str, int]:
    """Returns {token: id} of the structural tokens that are single tokens of `hf`."""
    # The standard tokens are structure as well: text must not end a document or begin one.
    standard = ("<|endoftext|>", hf.bos_token, hf.eos_token, hf.pad_token, hf.unk_token)
    candidates = (TURN_START, TURN_END, *IMAGE_TOKENS, *standard)
    control_ids = {}
    for token in filter(None, candidates):  # a tokenizer without bos has bos_token None
        ids = hf.encode(token, add_special_tokens=False)
        # An unknown token falls apart into several, or becomes the one for unknown text.
        if len(ids) == 1 and hf.convert_ids_to_tokens(ids) == [token]:
            control_ids[token] = ids[0]
    return control_ids


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A checkpoint's tokenizer and chat format; made by `load`.

    Messages are [{"role": "system" | "user" | "assistant", "content": str}, ...]; a system message
    can only be at the start and replaces the default one. Each `<image>` in the system and user
    messages, in order, stands for one image of image_tokens[i] tokens (256 times its tiles).
    Without any `<image>` the images go in front of the first user message, one a line (the rule of
    InternVL's chat()). In the assistant's text `<image>` is plain text.

    Text must not contain the control tokens, so that it cannot forge turns or images; what
    `as_text` makes of it has them as characters.
    Another format, e.g. NoThink: dataclasses.replace(tokenizer, chat=...).
    """

    hf: PreTrainedTokenizerBase
    chat: ChatFormat
    control_ids: dict[str, int]  # of the structural tokens that this tokenizer has
    # Control tokens that text may contain, and which are then these tokens.
    allowed: frozenset[str] = frozenset()

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
        """The checkpoint's padding token, or <|im_end|> if it has none."""
        if self.hf.pad_token_id is None:
            return self.end_token_id  # any id would do: padding is always masked
        return self.hf.pad_token_id

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Image tokens, which sampling must never emit: a sampled one would have no image."""
        present = [token for token in IMAGE_TOKENS if token in self.control_ids]
        return tuple(self.control_ids[token] for token in present)

    def check_model(self, config: ModelConfig) -> None:
        """Raises ValueError unless this tokenizer fits a model with `config`.

        Image token, end of a turn and number of tokens must agree. All problems are listed at once.
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
        # A model may have more rows than tokens: they are padding.
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
        """Encodes a chat up to where the assistant's text begins, i.e. through the opening.

        ValueError if the final message is not the user's, the images do not match the markers, or
        the text is not plain.
        """
        pieces = self._pieces(messages, image_tokens)
        # After an assistant's message there would be two assistant turns in a row.
        role = messages[-1]["role"]
        if role != "user":
            raise ValueError(
                f"a prompt ends with a user message, got one from {role!r}; "
                "leave out the answer to be sampled"
            )
        pieces.append((self._answer_header(), False))
        tokens, _ = self._encode(pieces)
        return tokens

    def encode_example(
        self, messages: list[dict], image_tokens=()
    ) -> tuple[list[int], list[bool]]:
        """Encodes a chat as (tokens, loss_mask), equally long, for supervised fine-tuning.

        The mask is true on each assistant message and the <|im_end|> after it, nowhere else. An
        assistant message holds what follows the opening ("reasoning\\n</think>\\n\\nanswer"); one
        copy of the opening at its start is dropped. What precedes message i is exactly
        encode_prompt(messages[:i]). ValueError as in encode_prompt, or if nothing is masked.
        """
        pieces = self._pieces(messages, image_tokens)
        # Such a row would only add to the cost of a batch.
        if not any(supervised for _, supervised in pieces):
            raise ValueError(
                "an example has no assistant message, so nothing to learn; drop it"
            )
        return self._encode(pieces)

    def encode_text(self, text: str) -> list[int]:
        """Encodes plain text as it would be encoded in the middle of a sequence."""
        self._check_plain(text, "the text")
        return self._ids(text)

    def as_text(self, text: str) -> str:
        """Returns `text` with a seam in each special token and image marker, to be encoded as is.

        The ids on both sides of a seam are those of characters, so nothing is forged and nothing is
        lost: "a <|im_end|>" is encoded as "a <", then "|im_end|>".
        """
        added = self.hf.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        tokens = {IMAGE_MARKER, *self.control_ids, *special} - self.allowed
        # A token of one character has no inside.
        longest_first = sorted(filter(lambda x: len(x) > 1, tokens), key=len)[::-1]
        pattern = re.compile("|".join(map(re.escape, longest_first)))
        text = text.replace(SEAM, "")
        # What stands right of a seam may be a token again.
        while pattern.search(text):
            text = pattern.sub(lambda found: found[0][0] + SEAM + found[0][1:], text)
        return text

    def closing(self, text: str = "</think>") -> tuple[tuple[int, ...], ...]:
        """Returns, for each token of `text`, the ids that may replace it, the plain id first.

        Byte-pair merges join the two ends of a text with its neighbours: Qwen writes `.</think>`
        and two newlines as `.</`, `think` and one token of `>` and the newlines. So the first token
        may be any that ends like it, and the final one any that starts like it.
        """
        ids = self.encode_text(text)
        # A text of one token is only known as itself: both of its ends could merge.
        if len(ids) == 1:
            return ((ids[0],),)
        head_id, *middle_ids, tail_id = ids
        head, tail = self.hf.convert_ids_to_tokens([head_id, tail_id])
        heads = []
        tails = []
        # head `</` may be `.</`, tail `>` may be `>` with newlines; the middle cannot change.
        for token, token_id in self.hf.get_vocab().items():
            if token.endswith(head) and token_id != head_id:
                heads.append(token_id)
            if token.startswith(tail) and token_id != tail_id:
                tails.append(token_id)
        middle = [(token_id,) for token_id in middle_ids]
        return ((head_id, *sorted(heads)), *middle, (tail_id, *sorted(tails)))

    def decode(self, ids, *, skip_special: bool) -> str:
        """Decodes int[T] ids from anywhere in a sequence.

        `</think>` is ordinary text and stays. `skip_special` leaves out the tokens that the
        tokenizer marks as special. Undoes encode_text up to the tokenizer's normalisation (NFC in
        Qwen2). ValueError for ids outside the vocabulary.
        """
        return self.decode_all([ids], skip_special=skip_special)[0]

    def decode_all(self, rows, *, skip_special: bool) -> list[str]:
        """Decodes several rows of ids as `decode` does, on all cores at once."""
        skipped = []
        if skip_special:
            added = self.hf.added_tokens_decoder
            skipped = [i for i, token in added.items() if token.special]
        # As in _ids: a sentencepiece decoder drops the space before the first word, so each row
        # begins with a control token that is removed from the text again.
        prefix = self.control_ids[TURN_START]
        prefixed = []
        for row in rows:
            ids = np.asarray(row)
            check_token_ids(ids, self.vocab_size)
            if skipped:
                ids = ids[~np.isin(ids, skipped)]
            prefixed.append([prefix, *ids.tolist()])
        if self.hf.is_fast:
            texts = self.hf.backend_tokenizer.decode_batch(
                prefixed, skip_special_tokens=False
            )
        else:
            texts = [
                self.hf.decode(
                    ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
                for ids in prefixed
            ]
        return [text.removeprefix(TURN_START) for text in texts]

    def _ids(self, text: str) -> list[int]:
        if SEAM in text:
            return [i for part in text.split(SEAM) for i in self._ids(part)]
        # A sentencepiece tokenizer puts a space before the first word of its input. No piece of a
        # chat is the start of its input, so each is encoded behind a control token.
        text = TURN_START + text
        if self.hf.is_fast:
            # transformers' own encode holds Python's lock for three times as long.
            encoding = self.hf.backend_tokenizer.encode(text, add_special_tokens=False)
            ids = encoding.ids
        else:
            ids = self.hf.encode(text, add_special_tokens=False, verbose=False)
        return ids[1:]

    def _encode(self, pieces: list[tuple[str, bool]]) -> tuple[list[int], list[bool]]:
        # [("<|im_start|>assistant\n", False), ("Yes.<|im_end|>", True)] with 3 and 3 tokens gives
        # the mask 0 0 0 1 1 1.
        tokens = []
        loss_mask = []
        for text, supervised in pieces:
            ids = self._ids(text)
            tokens += ids
            loss_mask += [supervised] * len(ids)
        return tokens, loss_mask

    def _answer_header(self) -> str:
        return f"{TURN_START}assistant\n{self.chat.opening}"

    def _pieces(self, messages: list[dict], image_tokens) -> list[tuple[str, bool]]:
        """Cuts a chat into (text, supervised) pieces, to be tokenised one by one."""
        check_messages(messages)
        for i, message in enumerate(messages):
            self._check_plain(message["content"], f"message {i} ({message['role']})")
        # The checkpoint's default system message, unless the chat brings its own.
        if messages[0]["role"] != "system" and self.chat.system is not None:
            messages = [{"role": "system", "content": self.chat.system}, *messages]
        pieces = []
        contents = self._with_images(messages, image_tokens)
        for message, content in zip(messages, contents, strict=True):
            role = message["role"]
            if role == "assistant":
                # The newline after <|im_end|> is not sampled, so it is not learnt either.
                answer = self.chat.without_opening(content) + TURN_END
                pieces.append((self._answer_header(), False))
                pieces.append((answer, True))
                pieces.append(("\n", False))
            else:
                turn = f"{TURN_START}{role}\n{content}{TURN_END}\n"
                pieces.append((turn, False))
        return pieces

    def _with_images(self, messages: list[dict], image_tokens) -> list[str]:
        """Returns the contents of the messages with image tokens in place of the markers.

        With image_tokens [2], "<image>\\nLook." becomes "<img>" + 2 x "<IMG_CONTEXT>" +
        "</img>\\nLook.".
        """
        contents = _mark_images(messages, len(image_tokens))
        self._check_image_tokens(image_tokens)
        counts = iter(image_tokens)

        def expand(_):
            return IMAGE_START + IMAGE_CONTEXT * next(counts) + IMAGE_END

        for i, message in enumerate(messages):
            if message["role"] != "assistant":  # there a marker is plain text
                contents[i] = re.sub(IMAGE_MARKER, expand, contents[i])
        return contents

    def _check_image_tokens(self, image_tokens):
        """Raises ValueError if the tokenizer knows no images, or if one of them has no token."""
        # A tokenizer loaded with text_only=True may lack them.
        knows_images = all(token in self.control_ids for token in IMAGE_TOKENS)
        if len(image_tokens) and not knows_images:
            raise ValueError(
                f"{len(image_tokens)} images, but the tokenizer has no image tokens "
                f"({', '.join(IMAGE_TOKENS)}); use a vision checkpoint or leave the images out"
            )
        if any(n < 1 for n in image_tokens):
            raise ValueError(
                f"every image has at least 1 token, got {list(image_tokens)}"
            )

    def _check_plain(self, text: str, origin: str):
        """Raises ValueError if `text` holds a control token or is not Unicode text."""
        for token in self.control_ids:
            if token in text and token not in self.allowed:
                raise ValueError(
                    f"{origin} contains the control token {token}, which would forge structure; "
                    "remove it or drop the row"
                )
        if surrogate := re.search("[\ud800-\udfff]", text):
            raise ValueError(
                f"{origin} has a lone surrogate {surrogate[0]!r} at character {surrogate.start()}, "
                "which is not text; decode the source as UTF-8 with errors='replace'"
            )


def _mark_images(messages: list[dict], num_images: int) -> list[str]:
    """Returns the contents of the messages with one marker for each of `num_images` images.

    ValueError if there are markers, but another number of them.
    """
    contents = [message["content"] for message in messages]
    roles = [message["role"] for message in messages]
    # In an assistant's text a marker is plain text, such as the SVG tag <image>.
    markers = 0
    for role, content in zip(roles, contents, strict=True):
        if role != "assistant":
            markers += content.count(IMAGE_MARKER)
    # Without any marker all images go in front of the first question.
    if markers == 0 and num_images > 0:
        if "user" not in roles:
            raise ValueError(f"{num_images} images, but no user message to hold them")
        question = roles.index("user")
        contents[question] = f"{IMAGE_MARKER}\n" * num_images + contents[question]
    elif markers != num_images:
        raise ValueError(
            f"{markers} {IMAGE_MARKER} markers in the messages, but {num_images} "
            "images; write one marker per image, or none to have all images in front"
        )
    return contents


def export_template(directory: str | Path, layout: str) -> str | None:
    """Returns a chat template for exporting with the tokenizer in `directory`.

    None if the tokenizer's own template will do. `layout` is one of `hf.read_config.LAYOUTS`.
    transformers' InternVLProcessor replaces <IMG_CONTEXT>. vLLM replaces <image> in the original
    layout, and puts it there itself if a template knows strings only.
    """
    tokenizer = load(directory)
    if tokenizer.hf.chat_template:
        parts = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
        try:
            text = tokenizer.hf.apply_chat_template(
                [{"role": "user", "content": parts}], tokenize=False
            )
        except Exception:
            # A template is a program: one for strings fails at a list in any way.
            text = ""
        # One placeholder in the text for the one image: transformers finds it. vLLM puts its own.
        if layout == "hf":
            fits = text.count(IMAGE_CONTEXT) == 1
        else:
            fits = IMAGE_CONTEXT not in text
        if fits:
            return None
    template = chat_template(tokenizer.chat)
    if layout == "hf":
        return template
    return template.replace(IMAGE_CONTEXT, IMAGE_MARKER)


def image_index(tokens: np.ndarray, image_token_id: int) -> np.ndarray:
    """Finds the row of the flattened image embeddings at each position, int[B, T] -> int32[B, T].

    Counted over the whole array in reading order, -1 for text. Two sequences with images of 2 and
    3 tokens ("I" is <IMG_CONTEXT>):

        tokens       [[11 12  I  I 13 14]      image_index  [[-1 -1  0  1 -1 -1]
                      [11  I  I  I 13  0]]                   [-1  2  3  4 -1 -1]]
    """
    is_image = np.asarray(tokens) == image_token_id
    # Is-image 0 0 1 1 0 0 1 counts up as 0 0 1 2 2 2 3, so the rows are -1 -1 0 1 1 1 2; the
    # values at text are then replaced by -1.
    rows = np.cumsum(is_image, dtype=np.int32).reshape(is_image.shape) - 1
    return np.where(is_image, rows, -1).astype(np.int32)


def check_token_ids(ids, vocab_size: int):
    """Raises ValueError for ids outside 0 <= id < vocab_size; `ids` is int[...] on the host.

    Needed because JAX clamps bad indices: the model would silently read another token's embedding.
    """
    ids = np.asarray(ids)
    if ids.size == 0:  # an empty list has dtype float64
        return
    if ids.dtype.kind not in "iu":
        raise ValueError(f"token ids must be integers, got {ids.dtype}")
    outside = np.argwhere((ids < 0) | (ids >= vocab_size))
    if len(outside):
        position = tuple(int(i) for i in outside[0])
        raise ValueError(
            f"token id {ids[position]} at position {position} is outside the vocabulary of "
            f"{vocab_size} tokens; was it made with another checkpoint's tokenizer?"
        )


def check_prompt_length(prompt_tokens: int, max_prompt_tokens: int):
    """Raises ValueError for a prompt that is too long: cutting could cut an image."""
    if prompt_tokens > max_prompt_tokens:
        raise ValueError(
            f"the prompt has {prompt_tokens} tokens, the limit is {max_prompt_tokens}; use fewer "
            "tiles per image, fewer images or less text, or raise the limit"
        )
