"""A GGUF file of a language model -> a Hugging Face checkpoint directory, in float32.

    convert("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2")

Every number is what the file says it is: its own blocks, multiplied out. Reads the architectures
llama, qwen2 and qwen3, and the tokenizers of SmolLM2 and Qwen2. Knows GGUF's names; needs the
package `gguf`.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers import models as tokenizer_models
from tokenizers import pre_tokenizers as pre

from r1v3_jax.checksums import write_sums
from r1v3_jax.files import atomic_directory, follow_umask, write_settings, write_text
from r1v3_jax.hf.checkpoint import INDEX
from r1v3_jax.hf.read_config import ARCHITECTURES, FAMILIES, raise_problems

# GGUF's name of a tensor -> Hugging Face's.
TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# tokenizer.ggml.token_type
CONTROL = 3
USER_DEFINED = 4
UNUSED = 5

# How Qwen2 cuts text before it merges bytes: contractions, words, single digits, the rest.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class Weight:
    """A tensor of a GGUF file, and the heads by which its rows have to be sorted."""

    tensor: object  # gguf.ReaderTensor
    heads: int = 0  # 0: its rows are in order

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in torch's order, (out, in)."""
        return tuple(int(size) for size in reversed(self.tensor.shape))

    def read(self) -> np.ndarray:
        """Multiplies it out: float32, (out, in)."""
        from gguf.quants import dequantize

        weight = dequantize(self.tensor.data, self.tensor.tensor_type)
        weight = weight.astype(np.float32, copy=False).reshape(self.shape)
        if self.heads:
            weight = unpaired(weight, self.heads)
        return np.ascontiguousarray(weight)


def unpaired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's order of the rows of q and k, which is made for its form of RoPE.

    A head of 4 has its rows in the order 0 2 1 3 there; here they are 0 1 2 3.
    """
    half = weight.shape[0] // heads // 2
    pairs = weight.reshape(heads, half, 2, -1)
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def convert(path, directory, max_shard_bytes: int = 5 * 10**9) -> None:
    """Writes config.json, safetensors and the tokenizer of a GGUF file into a new directory.

    ImportError without the package `gguf`; FileNotFoundError, or ValueError with every problem of
    the file, before anything is written.
    """
    path = Path(path)
    fields, tensors = _open(path)
    problems: list[str] = []
    config = _config(path, fields, tensors, problems)
    weights = _weights(config, tensors, problems)
    tokenizer = _tokenizer(fields, problems)
    raise_problems(path, problems)

    with atomic_directory(directory) as (partial, writes_files):
        if writes_files:
            _write_weights(weights, partial, max_shard_bytes)
            tokenizer.save(str(partial / "tokenizer.json"))
            settings = _tokenizer_settings(fields)
            write_settings(partial / "tokenizer_config.json", settings)
            if template := fields.get("tokenizer.chat_template"):
                write_text(partial / "chat_template.jinja", template)
            write_settings(partial / "config.json", config)
            write_sums(partial)
            follow_umask(partial)


def _open(path: Path) -> tuple[dict, list]:
    """Returns the fields of a GGUF file, {"general.architecture": "llama", ...}, and tensors."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ImportError(
            "reading a GGUF file needs the package gguf: pip install gguf"
        ) from None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a file that ends in .gguf")
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = list(reader.tensors)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ValueError(
            f"{path} is no GGUF file, or is cut short ({error}); download it again"
        ) from error
    return fields, tensors


def _config(path: Path, fields: dict, tensors: list, problems: list[str]) -> dict:
    """Returns config.json. ValueError if it is another kind of model."""
    # 1. What this program reads.
    family = fields.get("general.architecture")
    if family not in FAMILIES:
        raise ValueError(
            f"{path}: a GGUF of architecture {family!r}; this program reads "
            f"{', '.join(FAMILIES)}"
        )

    def number(name: str, default=None):
        value = fields.get(f"{family}.{name}", default)
        if value is None:
            problems.append(f"{family}.{name} is missing")
            return 1
        return value

    scaling = number("rope.scaling.type", "none")
    if scaling != "none":
        problems.append(f"{family}.rope.scaling.type is {scaling!r}; wanted none")
    if number("expert_count", 0):
        problems.append(f"{family}.expert_count is not 0; experts are not supported")

    # 2. Sizes. A head has its equal share of the width unless the file says otherwise.
    heads = number("attention.head_count")
    width = number("embedding_length")
    head_dim = number("attention.key_length", width // heads)
    if number("rope.dimension_count", head_dim) != head_dim:
        problems.append(f"{family}.rope.dimension_count is not the head's {head_dim}")
    names = {tensor.name: tensor for tensor in tensors}
    embedding = names.get("token_embd.weight")

    # 3. Ids that the file does not name are left out: the tokenizer knows them.
    ids = {}
    for key in ("bos", "eos", "padding"):
        token = fields.get(f"tokenizer.ggml.{key}_token_id")
        if token is not None:
            ids[f"{key.removesuffix('ding')}_token_id"] = token
    return {
        "architectures": [ARCHITECTURES[family][0]],
        "model_type": family,
        "torch_dtype": "float32",
        "hidden_size": width,
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": number("feed_forward_length"),
        "hidden_act": "silu",
        "vocab_size": 1 if embedding is None else int(embedding.shape[1]),
        "max_position_embeddings": number("context_length"),
        # A float32 in the file: 9.999999747378752e-06 was written as 1e-05.
        "rms_norm_eps": _short(number("attention.layer_norm_rms_epsilon")),
        "rope_theta": number("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in names,
        **ids,
    }


def _short(value: float) -> float:
    """Returns the shortest decimal number that is the same float32."""
    return float(str(np.float32(value)))


def _weights(config: dict, tensors: list, problems: list[str]) -> dict[str, Weight]:
    """Returns {Hugging Face's name: weight}; what is not one of the model's is a problem."""
    # Only of a Llama are the rows of q and k in llama.cpp's order.
    heads = {}
    if config["model_type"] == "llama":
        heads["attn_q"] = config["num_attention_heads"]
        heads["attn_k"] = config["num_key_value_heads"]
    weights = {}
    for tensor in tensors:
        # blk.0.attn_q.weight -> blk.0.attn_q, weight; token_embd.weight -> token_embd, weight
        stem, _, kind = tensor.name.rpartition(".")
        parts = stem.split(".")
        if len(parts) == 3 and parts[0] == "blk" and parts[2] in BLOCK:
            name = f"model.layers.{parts[1]}.{BLOCK[parts[2]]}.{kind}"
        elif stem in TOP:
            name = f"{TOP[stem]}.{kind}"
        else:
            problems.append(f"{tensor.name} is not a weight of this model")
            continue
        if not _is_readable(tensor):
            problems.append(
                f"{tensor.name} is stored as {tensor.tensor_type.name}, which the package gguf "
                "cannot multiply out"
            )
        weights[name] = Weight(tensor, heads.get(parts[-1], 0))
    return weights


def _is_readable(tensor) -> bool:
    """Returns whether the package multiplies out the tensor's blocks: tries its first row."""
    from gguf.quants import dequantize

    try:
        dequantize(tensor.data[:1], tensor.tensor_type)
    except NotImplementedError:
        return False
    return True


def _write_weights(
    weights: dict[str, Weight], directory: Path, max_shard_bytes: int
) -> None:
    """Writes the shards and their index; no more than a file's tensors are in memory."""
    split = split_state_dict_into_shards_factory(
        weights,
        get_storage_size=lambda weight: 4 * math.prod(weight.shape),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    for filename, names in split.filename_to_tensors.items():
        tensors = {name: weights[name].read() for name in names}
        save_file(tensors, directory / filename, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_settings(directory / INDEX, index)


# -------------------------------------------------------------------------------------------------
# the tokenizer


def _tokenizer(fields: dict, problems: list[str]) -> Tokenizer | None:
    """Returns the tokenizer, with the ids of the file; None and a problem if it is another kind."""
    # 1. How text is cut before bytes are merged. The file only has a name for it.
    kind = fields.get("tokenizer.ggml.model")
    cut = fields.get("tokenizer.ggml.pre")
    normalizer = None
    if kind == "gpt2" and cut == "qwen2":
        words = pre.Split(Regex(QWEN2_SPLIT), "isolated")
        cutter = pre.Sequence([words, pre.ByteLevel(False, use_regex=False)])
        normalizer = normalizers.NFC()
    elif kind == "gpt2" and cut == "smollm":
        cutter = pre.Sequence([pre.Digits(True), pre.ByteLevel(False)])
    else:
        problems.append(
            f"a tokenizer of kind {kind!r}, {cut!r}; the kinds that are read are 'gpt2' with "
            "'qwen2' or 'smollm'. Convert the model's safetensors instead"
        )
        return None

    # 2. The vocabulary. Tokens of padding belong to nobody.
    texts = fields["tokenizer.ggml.tokens"]
    types = fields["tokenizer.ggml.token_type"]
    added = {
        i: AddedToken(texts[i], special=kind == CONTROL, normalized=False)
        for i, kind in enumerate(types)
        if kind in (CONTROL, USER_DEFINED)
    }
    ids = {
        text: i for i, text in enumerate(texts) if types[i] != UNUSED and i not in added
    }
    # SmolLM2's control tokens come first and have their place among the others; Qwen's follow.
    last = max(ids.values())
    ids |= {texts[i]: i for i in added if i < last}
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = cutter
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens([added[i] for i in sorted(added)])

    # 3. Has every token its id?
    moved = [
        text
        for i, text in enumerate(texts)
        if types[i] != UNUSED and tokenizer.token_to_id(text) != i
    ]
    if moved:
        problems.append(f"{len(moved)} tokens would get other ids, as {moved[0]!r}")
    return tokenizer


def _tokenizer_settings(fields: dict) -> dict:
    """Returns tokenizer_config.json."""
    texts = fields["tokenizer.ggml.tokens"]
    names = {
        "bos_token": "bos",
        "eos_token": "eos",
        "pad_token": "padding",
        "unk_token": "unknown",
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields[f"{fields['general.architecture']}.context_length"],
    }
    for key, name in names.items():
        token = fields.get(f"tokenizer.ggml.{name}_token_id")
        if token is not None:
            settings[key] = texts[token]
    return settings
