"""Preferences against TRL's DPOTrainer: of the same pairs, the same loss and the same gradients."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import torch
import torch_reference as reference
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from r1v3_jax import hf
from r1v3_jax.config import Compute, Preference
from r1v3_jax.hf.weights import pieces
from r1v3_jax.losses import Mpo
from r1v3_jax.processing.processor import EncodedPair, Processor, Tiles
from r1v3_jax.stages.preference import with_reference
from r1v3_jax.train import preference

trl = pytest.importorskip(
    "trl", reason="no TRL here: pip install --no-deps trl==1.16.0 accelerate==1.15.0"
)
datasets = pytest.importorskip("datasets")

BETA = 0.3
# Tokens of prompt, chosen and rejected answer, the end token among them. Of the fourth pair the
# chosen answer is the end token alone.
LENGTHS = [(12, 9, 14), (3, 17, 5), (7, 6, 6), (16, 1, 2), (5, 11, 3)]
# TRL's losses with their weights, and ours.
CASES = {
    "DPO": (["sigmoid"], [1.0], Mpo(1.0, 0.0, 0.0)),
    "BCO": (["bco_pair"], [1.0], Mpo(0.0, 1.0, 0.0)),
    "MPO": (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0], Mpo(0.8, 0.2, 1.0)),
}
# TRL 1.16 has no shift of the rewards in bco_pair; its version that InternVL's code builds on had.
SHIFT = 0.0


@pytest.fixture(scope="module")
def pairs() -> list[tuple[list[int], list[int], list[int]]]:
    """Ids of prompts, chosen and rejected answers."""
    rng = np.random.default_rng(0)
    made = []
    for lengths in LENGTHS:
        prompt, chosen, rejected = (
            rng.integers(10, reference.VOCAB, length).tolist() for length in lengths
        )
        chosen[-1] = reference.END_TOKEN
        rejected[-1] = reference.END_TOKEN
        made.append((prompt, chosen, rejected))
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Policy and reference in torch, and the directories that ours are read from.

    The reference is the policy with a little noise: rewards of size one, at which no logistic
    function is flat.
    """
    policy = reference.language_model()
    other = reference.language_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    directories = []
    for model in (policy, other):
        directories.append(tmp_path_factory.mktemp("weights"))
        reference.save_hf(model, directories[-1])
    return policy, other, *directories


# --- theirs ------------------------------------------------------------------------------------


# Special words hold no digits: a special token is found inside of words too.
WORDS = {str(token): token for token in range(10, reference.VOCAB)}
WORDS |= {"<pad>": reference.PAD_TOKEN, "<end>": reference.END_TOKEN}


def text_of(ids: list[int]) -> str:
    """Returns ids as text, a word each, for TRL to tokenise: [17, 42, 2] -> " 17 42 <end>"."""
    names = {token: word for word, token in WORDS.items()}
    return "".join(f" {names[token]}" for token in ids)


def tokenizer_of_words() -> PreTrainedTokenizerFast:
    """Returns the tokenizer that reads those words: "17" is token 17."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>"
    )


def theirs(pairs, policy, other, losses, loss_weights, directory):
    """Returns loss, gradients by name and metrics: TRL's tokens, batch, reference and loss."""
    names = ("prompt", "chosen", "rejected")
    rows = [dict(zip(names, map(text_of, pair), strict=True)) for pair in pairs]
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=other,
        args=trl.DPOConfig(
            str(directory),
            loss_type=losses,
            loss_weights=loss_weights,
            beta=BETA,
            per_device_train_batch_size=len(pairs),
            max_length=None,
            bf16=False,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer_of_words(),
    )
    (batch,) = trainer.get_train_dataloader()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {
        name: weight.grad.numpy().copy()
        for name, weight in trainer.model.named_parameters()
    }
    mode = "train" if trainer.model.training else "eval"  # where TRL logs
    metrics = {name: numbers[-1] for name, numbers in trainer._metrics[mode].items()}
    return loss.item(), gradients, metrics


# --- ours --------------------------------------------------------------------------------------


def ours(pairs, policy, other, loss: Mpo):
    """Returns loss, gradients by their names in transformers, and metrics, of a whole step."""
    config = Preference(
        train=lambda index: None,
        pairs=len(pairs),
        max_prompt_tokens=16,
        max_answer_tokens=18,
        tiles=0,
        beta=BETA,
        loss=loss,
    )
    compute = Compute(dtype="float32", param_dtype="float32")
    model, ref = (hf.load(directory, compute=compute) for directory in (policy, other))
    padding = types.SimpleNamespace(pad_token_id=reference.PAD_TOKEN)
    processor = Processor(model.config, padding)
    batch = preference.pair_batch(encoded(pairs), config, processor, shards=1)
    batch = dataclasses.replace(batch, numbers={"shift": np.float32(SHIFT)})
    batch = with_reference(ref, batch, config)
    graph, params = nnx.split(model)

    @jax.jit
    def gradient(params, batch):
        def model(params):
            return nnx.merge(graph, params)

        return preference.gradients(model, params, batch, config=config)

    arrays, metrics = jax.device_get(gradient(params, batch))
    return metrics["loss"], by_name(model.config, arrays), metrics


def encoded(pairs) -> list[EncodedPair]:
    """Returns the pairs as the processor makes them, without images."""
    made = []
    for pair in pairs:
        prompt, chosen, rejected = (np.array(ids, np.int32) for ids in pair)
        made.append(
            EncodedPair(
                tokens=prompt,
                labels=prompt,
                loss_mask=np.zeros(len(prompt), bool),
                tiles=Tiles([], 1, lambda target: None),
                chosen=chosen,
                rejected=rejected,
            )
        )
    return made


def by_name(config, state) -> dict[str, np.ndarray]:
    """Returns each tensor of a checkpoint by its name in transformers, without pad rows."""
    arrays = {
        ".".join(path): leaf.get_value() for path, leaf in nnx.to_flat_state(state)
    }
    tensors = {}
    for piece in pieces(config, "text"):
        array = np.asarray(arrays[piece.param])[piece.index]
        if piece.param in ("language.embedding", "language.head"):
            assert not array[reference.VOCAB :].any()
            array = array[: reference.VOCAB]
        tensors[piece.name] = piece.to_file(array)
    return tensors


# --- the comparison ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_trl(case, pairs, weights, tmp_path):
    losses, loss_weights, loss = CASES[case]
    policy, other, policy_directory, other_directory = weights
    want_loss, want, want_metrics = theirs(
        pairs, policy, other, losses, loss_weights, tmp_path
    )
    got_loss, got, metrics = ours(pairs, policy_directory, other_directory, loss)

    assert got.keys() == want.keys()
    errors = {}
    for name, gradient in want.items():
        assert np.linalg.norm(gradient) > 1e-3, name  # far above rounding
        difference = np.linalg.norm(got[name] - gradient)
        errors[name] = difference / np.linalg.norm(gradient)
    worst = max(errors, key=errors.get)
    off = f"loss off by {abs(got_loss - want_loss):.1e}"
    print(f"{case}: {off}, gradients by {errors[worst]:.1e} at most ({worst})")
    # Float32 on both sides, summed in another order. TRL subtracts sums over an answer, of size
    # 100, which are known to 1e-5; rewards of size one carry that into every gradient.
    assert got_loss == pytest.approx(want_loss, abs=1e-5)
    assert errors[worst] <= 1e-5, errors
    for ending in ("chosen", "rejected"):
        name = f"rewards/{ending}"
        assert metrics[name] == pytest.approx(want_metrics[name], abs=1e-5)
