"""Two halves and a connector become one model: each number where it belongs, each read once."""

import collections
import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import tokenizers_for_tests
import torch
import torch_reference as reference
import transformers
from checkpoints_for_tests import our_logits, read_tensors, refusal, write_shards
from halves_for_tests import (
    TILE,
    TOKENS,
    write_dinov2,
    write_language,
    write_plain_tokenizer,
)
from random_models import params, random_model
from safetensors.torch import load_file, save_file

from r1v3_jax import hf
from r1v3_jax.config import TINY_300M
from r1v3_jax.hf.assemble import assemble, is_same_tower, resize_grid
from r1v3_jax.hf.checkpoint import Checkpoint, Tensor
from r1v3_jax.hf.halves import (
    check_is_visual,
    is_tower,
    open_tower,
    tower_of,
    whole_checkpoint,
    whole_model,
)
from r1v3_jax.models.layers import layer_norm
from r1v3_jax.processing import tokenizer
from r1v3_jax.processing.new_tokens import (
    FAMILY_TOKENS,
    PROBES,
    plan_tokens,
    write_tokens,
)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """The directories dinov2 and language, and the models in them."""
    root = tmp_path_factory.mktemp("halves")
    models = (write_dinov2(root / "dinov2"), write_language(root / "language"))
    return root, *models


def joined(root, language="language", connector=None, tower=None, **options):
    """Assembles directories as tools/assemble.py does."""
    if tower is None:
        tower = open_tower(root / "dinov2", TILE)
    new = plan_tokens(root / language)
    words = root / f"words-{language}"
    if not words.exists():
        words.mkdir()
        write_tokens(root / language, words, new)
    ids = tokenizer.load(words).control_ids
    whole = whole_checkpoint(Checkpoint.open(root / language))
    return assemble(tower, connector, whole, new, ids, **options)


def test_the_tower_is_dinov2s(halves):
    """transformers resamples its positions itself; its final norm stands in the connector's."""
    root, dinov2, _ = halves
    model = hf.load(joined(root))
    tiles = reference.rng_tiles(3)
    ours = np.asarray(jax.jit(lambda m, x: m.vision(x))(model, tiles))
    with torch.no_grad():
        pixels = reference.to_pixel_values(tiles)
        theirs = dinov2(pixels).last_hidden_state[:, 1:].numpy()
    weight = model.connector.norm[...]
    bias = model.connector.norm_bias[...]
    for four in (weight, bias):
        np.testing.assert_array_equal(four, np.tile(four[:48], 4))
    normed = layer_norm(ours, weight[:48], bias[:48], 1e-6)
    # float32, sums in other orders.
    np.testing.assert_allclose(normed, theirs, atol=1e-5)


@pytest.mark.parametrize("tie", [False, True])
def test_text_is_the_language_models_own(tmp_path, halves, tie):
    """Also with a tied head; the new tokens' logit is the mean of the others, so never the most."""
    language = write_language(tmp_path / "language", tie=tie)
    tower = open_tower(halves[0] / "dinov2", TILE)
    model = hf.load(joined(tmp_path, tower=tower))
    text = np.random.default_rng(0).integers(0, TOKENS, (2, 24))
    logits = our_logits(model, text)
    with torch.no_grad():
        theirs = language(torch.tensor(text)).logits[..., :TOKENS].numpy()
    np.testing.assert_allclose(logits[..., :TOKENS], theirs, atol=1e-5)
    assert logits.shape[-1] == TOKENS + 9
    mean = logits[..., :TOKENS].mean(-1, keepdims=True)
    np.testing.assert_allclose(logits[..., TOKENS:], np.tile(mean, 9), atol=1e-5)
    assert (logits.argmax(-1) < TOKENS).all()


def test_every_tensor_is_read_once(halves, monkeypatch):
    """All of both files, except what only DINOv2's training used."""
    root, *_ = halves
    reads = collections.Counter()
    read = Tensor.read

    def counted(tensor):
        reads[tensor.name] += 1
        return read(tensor)

    monkeypatch.setattr(Tensor, "read", counted)
    hf.load(joined(root))
    names = {*read_tensors(root / "dinov2"), *read_tensors(root / "language")}
    assert "embeddings.mask_token" in names
    assert reads == dict.fromkeys(names - {"embeddings.mask_token"}, 1)


def test_config_and_new_rows(halves):
    root, *_ = halves
    assembly = joined(root)
    assert assembly.config.text.vocab_size == TOKENS + 9
    assert assembly.config.image_token_id == TOKENS + 2
    assert assembly.config.end_token_id == 267
    assert assembly.config.vision.image_size == TILE
    before = load_file(root / "language" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = assembly.read(name)
        kept = before[name][:TOKENS].numpy()
        np.testing.assert_array_equal(rows[:TOKENS], kept)
        mean = np.tile(kept.mean(0, dtype=np.float64), (9, 1))
        np.testing.assert_allclose(rows[TOKENS:], mean, atol=1e-7)


@pytest.mark.parametrize("sides", [(5, 4), (4, 6), (37, 16), (3, 3)])
def test_positions_are_resampled_as_torch_does_it(sides):
    old, new = sides
    position = np.random.default_rng(0).normal(size=(1, 1 + old * old, 8))
    position = position.astype(np.float32)
    ours = resize_grid(position, new)
    grid = torch.from_numpy(position[:, 1:]).reshape(1, old, old, 8).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(
        grid, size=(new, new), mode="bicubic", align_corners=False
    )
    np.testing.assert_array_equal(ours[:, 0], position[:, 0])
    theirs = theirs.permute(0, 2, 3, 1).reshape(1, new * new, 8).numpy()
    np.testing.assert_allclose(ours[:, 1:], theirs, atol=1e-6)


def test_another_language_model_of_the_same_width_takes_over_the_connector(halves):
    """As R1V1: trained with one, plugged into the other. Tower and connector bit for bit."""
    root, *_ = halves
    first = hf.load(joined(root, seed=3))
    whole = whole_model(first.config, "float32", lambda: first, "first")
    write_language(root / "reasoner", qwen3=True, layers=3)
    tower = tower_of(whole, None)
    assert is_same_tower(whole.part("vision"), open_tower(root / "dinov2", TILE).part)
    assembly = joined(root, "reasoner", whole.part("connector"), tower)
    second = hf.load(assembly)
    assert second.config.text.layers == 3 and second.config.text.qk_norm
    before, after = params(first), params(second)
    for name in before:
        if not name.startswith("language."):
            np.testing.assert_array_equal(before[name], after[name], name)
    alone = hf.load(root / "reasoner")
    np.testing.assert_array_equal(
        after["language.blocks.q"], params(alone)["language.blocks.q"]
    )


@pytest.mark.parametrize("layout", ["original", "hf"])
def test_an_internvit_alone_is_that_of_its_model(tmp_path, halves, layout):
    """Both spellings of a tower's own repository: names without the model's prefix."""
    model = random_model(TINY_300M)
    hf.save(model, tmp_path / "whole", layout)
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    (tmp_path / "tower").mkdir()
    vision = config["vision_config"]
    (tmp_path / "tower" / "config.json").write_text(json.dumps(vision))
    prefix = re.compile("vision_(model|tower)\\.")
    tensors = {
        prefix.sub("", name): tensor
        for name, tensor in read_tensors(tmp_path / "whole").items()
        if prefix.match(name)
    }
    write_shards(tmp_path / "tower", tensors, 2)
    assert is_tower(tmp_path / "tower")
    tower = open_tower(tmp_path / "tower", None)
    assert tower.config == TINY_300M.vision
    whole = whole_checkpoint(Checkpoint.open(tmp_path / "whole"))
    after = params(hf.load(joined(halves[0], tower=tower)))
    again = params(hf.load(joined(halves[0], tower=tower_of(whole, None))))
    for name, array in params(model).items():
        if name.startswith("vision."):
            np.testing.assert_array_equal(after[name], array, name)
            np.testing.assert_array_equal(again[name], array, name)


def test_seeds_and_formats_of_a_random_connector(halves):
    root, *_ = halves
    name = "mlp1.1.weight"
    one, same, other = (joined(root, seed=seed).read(name) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    model = hf.load(joined(root), "bfloat16")
    assert {array.dtype.name for array in params(model).values()} == {"bfloat16"}


# -------------------------------------------------------------------------------------------------
# what does not fit


def test_a_connector_of_other_widths(halves):
    other = random_model(TINY_300M)  # joins 48 to 32
    whole = whole_model(other.config, "float32", lambda: other, "other")
    narrow = dataclasses.replace(
        TINY_300M, vision=dataclasses.replace(TINY_300M.vision, embed=40)
    )
    narrow = random_model(narrow)
    narrow = whole_model(narrow.config, "float32", lambda: narrow, "narrow")
    joined(halves[0], connector=whole.part("connector"))
    said = refusal(lambda: joined(halves[0], connector=narrow.part("connector")))
    assert said == (
        "the connector in narrow joins a tower of width 40 to a language model of width 32, and "
        "these have 48 and 32; take halves of its widths, or --connector=random and train it"
    )


def test_images_in_odd_patches(halves):
    dinov2 = halves[0] / "dinov2"
    assert refusal(lambda: open_tower(dinov2, None)) == (
        f"{dinov2}: 35 pixels are not an even number of patches of 7, and the connector merges "
        "2 x 2 of them; --image_size=28 would do"
    )


def test_a_damaged_tower_is_refused_with_every_problem(tmp_path):
    write_dinov2(tmp_path / "dinov2")
    file = tmp_path / "dinov2" / "model.safetensors"
    tensors = load_file(file)
    del tensors["layernorm.bias"]
    tensors["encoder.layer.1.mlp.fc1.bias"] = torch.ones(95)
    tensors["register_tokens"] = torch.ones(1, 4, 48)
    save_file(tensors, file)
    said = refusal(lambda: open_tower(tmp_path / "dinov2", TILE))
    assert said == "\n  ".join(
        [
            f"{tmp_path}/dinov2 cannot be loaded, 3 problem(s):",
            "model.safetensors: encoder.layer.1.mlp.fc1.bias has shape [95]; config.json makes it "
            "[96]",
            "model.safetensors: register_tokens is not a weight of this model",
            "layernorm.bias [48] is missing",
        ]
    )


def test_towers_of_another_form(tmp_path):
    write_dinov2(tmp_path / "giant")
    path = tmp_path / "giant" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "use_swiglu_ffn": True}))
    assert "use_swiglu_ffn is true" in refusal(lambda: open_tower(path.parent, TILE))
    path.write_text(json.dumps({"model_type": "siglip_vision_model"}))
    assert refusal(lambda: check_is_visual(path.parent)) == (
        f"{path.parent}: model_type 'siglip_vision_model' has no tower of InternViT's form; wanted "
        "internvl, internvl_chat, skywork_chat, intern_vit_6b, internvl_vision, dinov2"
    )


def test_more_tokens_than_rows(tmp_path, halves):
    model = reference.language_model(vocab_size=260, eos_token_id=2)
    reference.save_hf(model, tmp_path / "language")
    tokenizers_for_tests.write_tiny_tokenizer(tmp_path / "language", images=False)
    # Its eos is token 2 of 260 rows; the tokenizer's <|im_end|> is 267.
    tower = open_tower(halves[0] / "dinov2", TILE)
    assert "267 is outside the vocabulary of 260" in refusal(
        lambda: joined(tmp_path, tower=tower)
    )


# -------------------------------------------------------------------------------------------------
# the tokenizer


def test_a_tokenizer_without_chatml_gets_it(tmp_path):
    """And a chat template; its own tokens and texts keep their ids."""
    source = tmp_path / "source"
    source.mkdir()
    write_plain_tokenizer(source)
    before = transformers.AutoTokenizer.from_pretrained(source)
    new = plan_tokens(source)
    assert new.chatml == ["<|im_start|>", "<|im_end|>"] and new.chat_is_new
    out = tmp_path / "out"
    out.mkdir()
    write_tokens(source, out, new)
    words = tokenizer.load(out)
    assert list(new.ids) == ["<|im_start|>", "<|im_end|>", *FAMILY_TOKENS]
    assert words.end_token_id == new.kept + 1
    assert words.vocab_size == new.kept + 11
    assert words.hf.eos_token == "<|im_end|>"
    assert words.chat.opening == "<think>\n"
    for text in PROBES:
        assert words.encode_text(text) == before.encode(text)


def test_qwens_tokenizer_gets_the_published_ids(tmp_path):
    """Qwen2.5's 151,665 tokens and nine more: <IMG_CONTEXT> is 151667, as in Skywork-R1V3."""
    for name in ("r1v3", "qwen", "out"):
        (tmp_path / name).mkdir()
    tokenizers_for_tests.write_qwen_tokenizer(tmp_path / "r1v3")
    published = tokenizer.load(tmp_path / "r1v3").hf.get_vocab()
    path = tmp_path / "r1v3" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    added = content["added_tokens"]
    content["added_tokens"] = [token for token in added if token["id"] <= 151664]
    (tmp_path / "qwen" / "tokenizer.json").write_text(json.dumps(content))
    new = plan_tokens(tmp_path / "qwen")
    write_tokens(tmp_path / "qwen", tmp_path / "out", new)
    words = tokenizer.load(tmp_path / "out")
    assert words.hf.get_vocab() == published
    assert words.image_token_id == 151667
    # A tokenizer that has all of them stays as it is.
    assert plan_tokens(tmp_path / "r1v3").ids == {}


def test_a_sentencepiece_tokenizer_is_extended_too(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    tokenizers_for_tests.write_sentencepiece_tokenizer(source)
    # Without the tokens that the helper adds: a plain Llama.
    path = source / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["added_tokens_decoder"]
    path.write_text(json.dumps(settings))
    new = plan_tokens(source)
    assert len(new.ids) == 11
    write_tokens(source, out, new)
    assert tokenizer.load(out).vocab_size == new.kept + 11
