"""GGUF files become Hugging Face checkpoints: the numbers that transformers and gguf have too."""

import json

import numpy as np
import pytest
import torch
import torch_reference as reference
import transformers
from checkpoints_for_tests import refusal
from safetensors.torch import load_file
from tokenizers_for_tests import TINY_MERGES
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from r1v3_jax import hf
from r1v3_jax.hf.read_gguf import convert, unpaired
from r1v3_jax.processing import tokenizer

gguf = pytest.importorskip("gguf", reason="needs the package gguf")

Q = gguf.GGMLQuantizationType
WIDTH = 64  # blocks of a quantised row have 32 numbers
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# The vocabulary of SmolLM2 in small: control tokens first, then bytes, then merges.
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def words() -> list[str]:
    merged = [pair.replace(" ", "") for pair in TINY_MERGES]
    return [*CONTROL, *bytes_to_unicode().values(), *merged]


def random_model(family: str, *, tie: bool):
    sizes = dict(
        hidden_size=WIDTH,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=len(words()),
        tie_word_embeddings=tie,
        eos_token_id=2,
        pad_token_id=2,
        bos_token_id=1,
    )
    if family == "llama":
        values = dict(num_hidden_layers=2, max_position_embeddings=512, **sizes)
        config = LlamaConfig(**values, rms_norm_eps=1e-5)
        return reference.randomize(LlamaForCausalLM(config), seed=0)
    return reference.language_model(qwen3=family == "qwen3", **sizes)


def gguf_name(name: str) -> str:
    """model.layers.1.self_attn.q_proj.weight -> blk.1.attn_q.weight"""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{NAMES[part]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's own permutation of q and k, from its converter."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, family="qwen2", *, tie=False, pre="smollm", types=(Q.Q8_0,), **kv):
    """Writes a random model as llama.cpp does, its matrices in several kinds of blocks."""
    model = random_model(family, tie=tie)
    config = model.config
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words())
    kinds = [3] * len(CONTROL) + [1] * (len(words()) - len(CONTROL))
    writer.add_token_types(kinds)
    writer.add_token_merges(TINY_MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for key, value in kv.items():
        writer.add_string(key.replace("__", "."), value)
    for i, (name, weight) in enumerate(model.state_dict().items()):
        if tie and name.startswith("lm_head"):
            continue
        array = weight.numpy()
        part = gguf_name(name)
        if family == "llama" and part.split(".")[-2] in ("attn_q", "attn_k"):
            array = paired(array, 4 if "attn_q" in part else 2)
        if array.ndim == 1:
            writer.add_tensor(part, array)
        else:
            kind = types[i % len(types)]
            blocks = gguf.quants.quantize(array, kind)
            writer.add_tensor(part, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_numbers_are_those_of_the_file(tmp_path, family, tie):
    """Unquantised, so that they are the model's own, whatever the order of rows in the file."""
    model = write_gguf(tmp_path / "m.gguf", family, tie=tie, types=(Q.F32,))
    convert(tmp_path / "m.gguf", tmp_path / "out")
    read = load_file(tmp_path / "out" / "model.safetensors")
    wanted = dict(model.state_dict())
    if tie:
        del wanted["lm_head.weight"]
    assert set(read) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(read[name], tensor), name

    # And the config makes the same model of them.
    ours = hf.load(tmp_path / "out")
    assert ours.config.text.tie_embeddings == tie
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    text = torch.arange(24)[None]
    with torch.no_grad():
        assert torch.equal(theirs(text).logits, model(text).logits)


def test_blocks_are_multiplied_out_as_transformers_does_it(tmp_path):
    """Several kinds of blocks in one file; transformers' numbers, bit by bit."""
    pytest.importorskip("accelerate", reason="transformers reads GGUF with accelerate")
    types = (Q.Q4_1, Q.Q8_0, Q.Q5_0, Q.BF16, Q.F16, Q.Q4_0)
    write_gguf(tmp_path / "m.gguf", "llama", types=types)
    convert(tmp_path / "m.gguf", tmp_path / "out")
    read = load_file(tmp_path / "out" / "model.safetensors")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    )
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(read[name], tensor), name


def test_a_block_by_hand(tmp_path):
    """Q8_0: 32 numbers share a float16; each is that times a signed byte."""
    write_gguf(tmp_path / "m.gguf", types=(Q.Q8_0,))
    convert(tmp_path / "m.gguf", tmp_path / "out")
    read = load_file(tmp_path / "out" / "model.safetensors")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    (stored,) = (x for x in reader.tensors if x.name == "blk.1.ffn_down.weight")
    blocks = np.frombuffer(stored.data.tobytes(), np.uint8).reshape(-1, 34)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    wanted = scale * blocks[:, 2:].view(np.int8)
    got = read["model.layers.1.mlp.down_proj.weight"].numpy()
    np.testing.assert_array_equal(got, wanted.reshape(WIDTH, 96))


def test_shards_and_their_index(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "one")
    convert(tmp_path / "m.gguf", tmp_path / "many", max_shard_bytes=60_000)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    one, many = (hf.load(tmp_path / name) for name in ("one", "many"))
    np.testing.assert_array_equal(
        one.language.blocks.q[...], many.language.blocks.q[...]
    )


def test_the_order_of_rows_of_a_head():
    """A head of 4: llama.cpp has its rows in the order 0 2 1 3."""
    rows = np.array([0, 2, 1, 3, 4, 6, 5, 7])[:, None]
    np.testing.assert_array_equal(unpaired(rows, 2)[:, 0], np.arange(8))


def test_the_tokenizer_is_the_files(tmp_path):
    """Digits one by one, as SmolLM2 cuts them; ids, chat and special tokens as in the file."""
    write_gguf(tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "out")
    words_of = tokenizer.load(tmp_path / "out", text_only=True)
    assert words_of.hf.get_vocab() == {token: i for i, token in enumerate(words())}
    assert (words_of.hf.eos_token, words_of.hf.bos_token) == (
        "<|im_end|>",
        "<|im_start|>",
    )
    symbol = bytes_to_unicode()
    ids = words_of.encode_text("the 42")
    named = [words()[i] for i in ids]
    assert named == ["the", symbol[ord(" ")], "4", "2"]
    messages = [{"role": "user", "content": "the"}]
    assert words_of.chat.opening == "" and words_of.chat.system is None
    assert words_of.encode_prompt(messages)[0] == 1


# -------------------------------------------------------------------------------------------------
# what is refused


def test_another_architecture(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    said = refusal(lambda: convert(tmp_path / "m.gguf", tmp_path / "out"))
    assert said == (
        f"{tmp_path}/m.gguf: a GGUF of architecture 'gemma3'; this program reads qwen2, qwen3, "
        "llama"
    )
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "m.gguf"
    assert "no such file" in refusal(lambda: convert(path, tmp_path / "out"))
    path.write_bytes(b"<html>")
    assert "is no GGUF file" in refusal(lambda: convert(path, tmp_path / "out"))
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:-5000])
    assert "is no GGUF file, or is cut short" in refusal(
        lambda: convert(path, tmp_path / "out")
    )


def test_a_model_of_another_kind(tmp_path):
    """Scaled RoPE and an unknown tokenizer: both in one message."""
    kv = {"qwen2__rope__scaling__type": "yarn"}
    write_gguf(tmp_path / "m.gguf", pre="tekken", **kv)
    said = refusal(lambda: convert(tmp_path / "m.gguf", tmp_path / "out"))
    assert said == "\n  ".join(
        [
            f"{tmp_path}/m.gguf cannot be loaded, 2 problem(s):",
            "qwen2.rope.scaling.type is 'yarn'; wanted none",
            "a tokenizer of kind 'gpt2', 'tekken'; the kinds that are read are 'gpt2' with "
            "'qwen2' or 'smollm'. Convert the model's safetensors instead",
        ]
    )
