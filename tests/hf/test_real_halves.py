"""Real pretrained halves, assembled, beside onnxruntime and transformers. Skipped without them.

    bash launch/local/real_halves.sh            # once; --coder for the larger language model too
    python -m pytest -rP tests/hf/test_real_halves.py

Prints what docs/results/transfer.md holds. R1V3_HALVES names another directory.
"""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tools_for_tests import succeed
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1v3_jax import hf
from r1v3_jax.models import build
from r1v3_jax.models.layers import layer_norm
from r1v3_jax.processing import tokenizer
from r1v3_jax.run.weights import load_weights
from r1v3_jax.sampling.loop import generate
from r1v3_jax.sampling.params import SamplingParams

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
HALVES = Path(os.environ.get("R1V3_HALVES") or CACHE / "r1v3_jax" / "halves")
LANGUAGES = ("smollm2-135m", "qwen2.5-coder-0.5b")
pytestmark = pytest.mark.skipif(
    not (HALVES / "dinov2-s").is_dir(),
    reason="no pretrained halves: bash launch/local/real_halves.sh fetches them",
)
QUESTIONS = (
    "What is the capital of France?",
    "Add 17 and 26 step by step.",
    "Write a Python function that reverses a string.",
    "Name the planets of the solar system in order.",
    "What is the boiling point of water in Celsius and in Fahrenheit?",
    "Translate to French: The cat sleeps on the chair.",
    "A train travels 60 km in 45 minutes. How fast is it?",
    "List three uses of a paper clip.",
    "Explain in two sentences why the sky is blue.",
    "Which is larger, 9.11 or 9.9?",
)
NEW_TOKENS = 64
IMAGE_SIZE = 224


def assemble(language: str, out: Path) -> Path:
    """Joins DINOv2-S and a language model with the tool, as a user does."""
    if not (HALVES / language).is_dir():
        pytest.skip(
            f"no {language}: bash launch/local/real_halves.sh --coder fetches it"
        )
    print(
        succeed(
            "assemble",
            f"--vision={HALVES}/dinov2-s",
            f"--language={HALVES}/{language}",
            f"--out={out}",
            f"--image_size={IMAGE_SIZE}",
        )
    )
    return out


def photographs() -> np.ndarray:
    """Three real pictures as the tower wants them: float32[3, 224, 224, 3], normalised."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(array) for array in load_sample_images().images]
    pictures.append(pictures[0].rotate(90))
    small = [picture.resize((IMAGE_SIZE, IMAGE_SIZE)) for picture in pictures]
    pixels = np.stack([np.asarray(picture) for picture in small]) / 255
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    return ((pixels - mean) / std).astype(np.float32)


def onnx_features(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The patches before and after the final norm, in onnxruntime: float[I, 256, 384]."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = onnx.load(HALVES / "vit_s_focus.onnx")
    (first,) = (
        node
        for node in model.graph.node
        if node.name == "/backbone/layernorm/ReduceMean"
    )
    names = [first.input[0], "/backbone/layernorm/Add_1_output_0"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    pixels = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2))
    before, after = session.run(names, {"input_image": pixels})
    return before[:, 1:], after[:, 1:]


def test_the_assembled_tower_is_onnxruntimes(tmp_path):
    """Real photographs. The norm behind the last block stands in the connector's norm here."""
    model = load_weights(assemble("smollm2-135m", tmp_path / "joined"))
    tiles = photographs()
    before, after = onnx_features(tiles)

    ours = np.asarray(jax.jit(lambda m, x: m.vision(x))(model, tiles))
    width = model.config.vision.embed
    weight = model.connector.norm[...]
    bias = model.connector.norm_bias[...]
    # The same norm for each of the four patches that are merged.
    np.testing.assert_array_equal(weight, np.tile(weight[:width], 4))
    np.testing.assert_array_equal(bias, np.tile(bias[:width], 4))
    normed = np.asarray(layer_norm(ours, weight[:width], bias[:width], 1e-6))

    for name, got, wanted in (("before", ours, before), ("after", normed, after)):
        difference = np.abs(got - wanted).max()
        print(
            f"tower {name} its final norm: largest difference {difference:.1e} of values up to "
            f"{np.abs(wanted).max():.1f}, mean size {np.abs(wanted).mean():.2f}"
        )
    # The bar is for what DINOv2 puts out: float32 in another order of sums.
    np.testing.assert_allclose(normed, after, atol=1e-4)


def test_every_number_of_the_gguf_is_transformers(tmp_path):
    """SmolLM2's file through tools/import_gguf.py and through transformers: bit by bit."""
    pytest.importorskip("accelerate", reason="transformers reads GGUF with accelerate")
    theirs = AutoModelForCausalLM.from_pretrained(
        HALVES, gguf_file="smollm2-135m.gguf", dtype=torch.float32
    ).state_dict()
    ours = load_file(HALVES / "smollm2-135m" / "model.safetensors")
    assert set(ours) == set(theirs) - {"lm_head.weight"}  # tied
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    print(f"{len(ours)} tensors of smollm2-135m.gguf: all bits equal")


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_is_the_language_models_own(language, tmp_path):
    """64 greedy tokens of ten prompts, and all logits, as transformers has them."""
    checkpoint = assemble(language, tmp_path / "joined")
    own = AutoTokenizer.from_pretrained(HALVES / language)
    words = tokenizer.load(checkpoint / "tokenizer")

    # 1. The same prompts, though the tokenizer has grown.
    prompts = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        theirs = own.apply_chat_template(messages, add_generation_prompt=True)
        prompts.append(words.encode_prompt(messages))
        assert prompts[-1] == theirs["input_ids"]

    # 2. Greedy answers of the assembled model, and of the language model alone in this program.
    #    They do not stop at the end of a turn, so that all have 64 tokens.
    assembled = load_weights(checkpoint)
    answers = greedy(assembled, prompts)
    assert greedy(hf.load(HALVES / language, dtype="float32"), prompts) == answers

    # 3. transformers' greedy answer is the same one if each token of it is the most probable after
    #    those before it.
    sequences = [[*x, *y] for x, y in zip(prompts, answers, strict=True)]
    kept = len(own)  # rows of padding are left out when tokens are added
    ours = [score(assembled, sequence)[:, :kept] for sequence in sequences]
    del assembled
    theirs = reference_logits(HALVES / language, sequences, kept, torch.float32)
    exact = reference_logits(HALVES / language, sequences, kept, torch.float64)
    margin = np.inf
    for prompt, answer, logits in zip(prompts, answers, theirs, strict=True):
        answering = logits[len(prompt) - 1 : -1]
        assert answering.argmax(axis=-1).tolist() == answer
        ranked = np.sort(answering, axis=-1)
        margin = min(margin, (ranked[:, -1] - ranked[:, -2]).min())

    # 4. All logits. float32 has an error of its own, which float64 shows.
    size = max(np.abs(logits).max() for logits in exact)
    difference = farthest(ours, theirs)
    our_error = farthest(ours, exact)
    their_error = farthest(theirs, exact)
    print(
        f"{language}: {len(prompts)} x {NEW_TOKENS} greedy tokens identical, smallest margin "
        f"{margin:.1e}; logits up to {size:.1f}: largest difference {difference:.1e}; from float64 "
        f"{our_error:.1e} here, {their_error:.1e} in transformers"
    )
    print(repr(words.decode(answers[1], skip_special=True)))
    # The largest logits are around 40, so an error of 1e-4 is two or three parts in a million.
    assert difference < 1e-5 * size
    assert our_error < 2 * their_error


def reference_logits(directory: Path, sequences, kept: int, dtype) -> list[np.ndarray]:
    """transformers' logits after each token of each sequence: float[T, kept]."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    with torch.no_grad():
        return [
            model(torch.tensor([sequence])).logits[0, :, :kept].numpy()
            for sequence in sequences
        ]


def farthest(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest difference of two lists of logits."""
    pairs = zip(ours, theirs, strict=True)
    return max(np.abs(one - two).max() for one, two in pairs)


def greedy(model, prompts: list[list[int]]) -> list[list[int]]:
    """64 greedy tokens of each prompt, without a stop."""
    longest = max(map(len, prompts))
    tokens = np.zeros((len(prompts), longest), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    # The last row of the vocabulary ends nothing: it is the least probable kind of token.
    last = model.config.text.vocab_size - 1
    unstopped = dataclasses.replace(model.config, end_token_id=last)
    model = build.for_decoding(build.with_config(model, unstopped))
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0)
    done = generate(
        model, tokens, lengths, jax.random.key(0), group_size=1, sampling=sampling
    )
    assert np.all(np.asarray(done.lengths) == NEW_TOKENS)
    return np.asarray(done.tokens).tolist()


@jax.jit
def forward(model, tokens):
    positions = jnp.arange(tokens.shape[1])[None]
    return model.logits(model(tokens, positions, jnp.ones_like(tokens)))


def score(model, sequence: list[int]) -> np.ndarray:
    """Logits after each token of a sequence: float[T, V]."""
    padded = np.zeros((1, 192), np.int32)
    padded[0, : len(sequence)] = sequence
    logits = np.asarray(forward(model, padded))
    return logits[0, : len(sequence), : model.config.text.vocab_size]
