"""Writes the tokenizer of a generated task: a vocabulary of whole words, for that task alone.

Knows nothing of images or models. A task lists its words; each of them is one token.
"""

import re
from collections.abc import Sequence
from pathlib import Path

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<video>",
    "<unk>",
)


def write(directory: str | Path, vocabulary: Sequence[str]) -> int:
    """Writes a tokenizer in Hugging Face's format; returns the size of its vocabulary.

    vocabulary: the tokens in order of their ids, SPECIAL_TOKENS first. Where several fit, the
    longest one is taken: of "12" and "1", the text "12" is the token "12". Chat format: ChatML
    without a system turn, opened by `<think>`.
    """
    # Imported here: a config that only names this function loads without them.
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    from r1v3_jax.processing.chat import ChatFormat, chat_template

    # 1. The tokens. Long ones are tried before the short ones they begin with: " rows" before " ".
    ordinary = list(vocabulary[len(SPECIAL_TOKENS) :])
    ordinary.sort(key=len, reverse=True)
    pattern = "|".join(map(re.escape, ordinary))
    ids = {word: i for i, word in enumerate(vocabulary)}

    # 2. The tokenizer: text is cut at the pattern, every piece is one token.
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(pattern), behavior="isolated"
    )
    backend.decoder = tokenizers.decoders.Fuse()  # joins without spaces
    specials = []
    for token in SPECIAL_TOKENS:
        added = tokenizers.AddedToken(token, normalized=False, special=True)
        specials.append(added)
    backend.add_special_tokens(specials)

    # 3. The files.
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        # The names that transformers' InternVLProcessor asks for.
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        chat_template=chat_template(ChatFormat(system=None, opening="<think>\n")),
        clean_up_tokenization_spaces=False,
    )
    hf.save_pretrained(directory)
    return len(hf)
