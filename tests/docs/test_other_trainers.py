"""docs/other_trainers.md: what it says is here is here, and what it calls the same is the same.

Formulas of other programs are written out from their sources, in the versions that the page names.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest

from r1v3_jax import config as configs
from r1v3_jax import losses
from r1v3_jax.config import GRPO, LoRA, Run, load_config
from r1v3_jax.data import Rows
from r1v3_jax.data.reworded import Reworded
from r1v3_jax.losses import K1, K2, Cispo, Clipped, Gspo, schedules
from r1v3_jax.rewards import terms
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.verifiers.boxes import find_boxes, find_tagged

PAGE = pages.read(pages.ROOT / "docs/other_trainers.md")
OURS = ("here", "what to set")  # columns whose code is this program's
NAMES = {
    **vars(losses),
    **vars(schedules),
    "LoRA": LoRA,
    "terms": terms,
    "Reward": Reward,
    "Rows": Rows,
    "Reworded": Reworded,
    "find_boxes": find_boxes,
    "find_tagged": find_tagged,
}

# Log-probabilities of two samples of four tokens: ratios on both sides of every bound.
LOGPROBS = jnp.array([[-1.0, -0.2, -2.0, -0.5], [-0.1, -1.5, -0.7, -0.3]])
OLD = jnp.array([[-1.1, -0.9, -0.4, -0.5], [-2.0, -0.3, -0.8, -0.2]])
REFERENCE = jnp.array([[-0.8, -0.3, -2.5, -0.1], [-0.6, -1.0, -0.9, -0.3]])
ADVANTAGES = jnp.array([[1.0] * 4, [-1.5] * 4])
WEIGHTS = jnp.full((2, 4), 1 / 8)
SEGMENTS = jnp.ones((2, 4), jnp.int32)


def our_cells() -> list[str]:
    """Everything between backticks in the columns that name this program's fields."""
    cells = [
        cell
        for table in pages.tables(PAGE)
        for row in table[1:]
        for header, cell in zip(table[0], row, strict=True)
        if header in OURS
    ]
    return sorted({code for cell in cells for code in re.findall(r"`([^`]+)`", cell)})


@pytest.mark.parametrize("code", our_cells())
def test_what_the_page_says_is_here_is_here(code):
    """Proves: each field exists and takes the value beside it; each object can be made."""
    field = re.fullmatch(r"([A-Z]\w+)\.([a-z]\w*)(?:=(.+))?", code)
    if field is None:
        eval(code, dict(NAMES))
        return
    kind, name, text = field.groups()
    made = getattr(configs, kind, None) or NAMES[kind]
    assert name in {f.name for f in dataclasses.fields(made)}
    if text is None:
        return
    value = {name: eval(text, dict(NAMES))}
    if made is Run:
        dataclasses.replace(load_config("tpu_v5p_256"), **value)
    elif made is GRPO:
        GRPO(**{"train": len, **value})
    else:
        made(**value)


def test_the_page_maps_forty_ideas():
    """Proves: the tables of ideas have all five columns, and name no idea twice."""
    named = [table for table in pages.tables(PAGE) if table[0][0] == "idea"]
    ideas = [row[0] for table in named for row in table[1:]]
    assert all(table[0] == ["idea", "TRL", "verl", "EasyR1", "here"] for table in named)
    assert len(ideas) >= 40 and len(set(ideas)) == len(ideas)


def same(ours, theirs) -> None:
    """Two functions of LOGPROBS agree in value and gradient, up to rounding in float32."""
    for mine, other in zip(
        jax.value_and_grad(ours)(LOGPROBS),
        jax.value_and_grad(theirs)(LOGPROBS),
        strict=True,
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def loss_of(loss, advantages=ADVANTAGES):
    return lambda logprobs: loss(logprobs, OLD, advantages, WEIGHTS, SEGMENTS)[0]


def test_bound_of_bad_samples_is_delta_of_trl():
    """Proves: min(min(r, delta) A, clip(r) A) of TRL is Clipped with dual = delta."""

    def trl(logprobs):
        ratio = jnp.exp(logprobs - OLD)
        clipped = jnp.clip(ratio, 1 - 0.2, 1 + 0.28)
        capped = jnp.minimum(ratio, 3.0)
        return -jnp.minimum(capped * ADVANTAGES, clipped * ADVANTAGES).mean()

    same(loss_of(Clipped(low=0.2, high=0.28, dual=3.0)), trl)
    with pytest.raises(AssertionError):
        same(loss_of(Clipped(low=0.2, high=0.28)), trl)


def test_bound_of_bad_samples_is_clip_ratio_c_of_verl():
    """Proves: the losses of verl and EasyR1 with their constant 3.0 are Clipped(dual=3.0)."""

    def verl(logprobs):
        ratio = jnp.exp(logprobs - OLD)
        clipped = jnp.clip(ratio, 1 - 0.2, 1 + 0.2)
        larger = jnp.maximum(-ADVANTAGES * ratio, -ADVANTAGES * clipped)
        bounded = jnp.minimum(-ADVANTAGES * 3.0, larger)
        return jnp.where(ADVANTAGES < 0, bounded, larger).mean()

    same(loss_of(Clipped(dual=3.0)), verl)


def test_cispo_of_trl_has_its_bound_one_higher():
    """Proves: epsilon_high = 5 of TRL bounds the ratio itself, and is Cispo(high=4)."""

    def trl(logprobs):
        bounded = jax.lax.stop_gradient(jnp.minimum(jnp.exp(logprobs - OLD), 5.0))
        return (-bounded * ADVANTAGES * logprobs).mean()

    assert jnp.exp(LOGPROBS - OLD).max() > 5  # the bound cuts
    same(loss_of(Cispo(low=1.0, high=4.0)), trl)


def test_gspo_of_verl_has_the_same_gradient():
    """Proves: a ratio whose gradient goes through each token by itself adds up to ours."""

    # Ratios 0.82 and 1.19: one of the samples is cut, the other is not.
    advantages = -ADVANTAGES

    def verl(logprobs):
        mean = (logprobs - OLD).mean(axis=1, keepdims=True)
        free = logprobs - jax.lax.stop_gradient(logprobs)
        ratio = jnp.exp(free + jax.lax.stop_gradient(mean))
        clipped = jnp.clip(ratio, 1 - 0.2, 1 + 0.1)
        return jnp.maximum(-advantages * ratio, -advantages * clipped).mean()

    same(loss_of(Gspo(low=0.2, high=0.1), advantages), verl)


def k3(logprobs):
    return jnp.exp(REFERENCE - logprobs) - (REFERENCE - logprobs) - 1


def test_kl_of_trl_has_the_gradient_of_k2():
    """Proves: r K3 with r = 1, TRL's use_bias_correction_kl, moves each token as K2 does."""

    def trl(logprobs):
        ratio = jnp.exp(logprobs - jax.lax.stop_gradient(logprobs))
        return (ratio * k3(logprobs)).sum()

    gradient = jax.grad(trl)(LOGPROBS)
    ours = jax.grad(lambda logprobs: K2()(logprobs, REFERENCE).sum())(LOGPROBS)
    np.testing.assert_allclose(gradient, ours, rtol=1e-5, atol=1e-6)
    without = jax.grad(lambda logprobs: k3(logprobs).sum())(LOGPROBS)
    assert not np.allclose(without, ours, rtol=1e-2)


def test_kl_of_verl_with_a_plus():
    """Proves: k1+ of verl is K1, and the gradient of k3+ is that of K2."""

    def with_plus(value, logprobs):
        half_square = 0.5 * (logprobs - REFERENCE) ** 2
        free = half_square - jax.lax.stop_gradient(half_square)
        return (free + jax.lax.stop_gradient(value)).sum()

    same(
        lambda logprobs: K1()(logprobs, REFERENCE).sum(),
        lambda logprobs: with_plus(logprobs - REFERENCE, logprobs),
    )
    gradient = jax.grad(lambda logprobs: with_plus(k3(logprobs), logprobs))(LOGPROBS)
    ours = jax.grad(lambda logprobs: K2()(logprobs, REFERENCE).sum())(LOGPROBS)
    np.testing.assert_allclose(gradient, ours, rtol=1e-6)


def their_mean(word: str, terms: np.ndarray, mask: np.ndarray, limit: int) -> float:
    """The mean that a word of verl's `agg_loss`, or of TRL's `loss_type`, stands for."""
    by_sample = (terms * mask).sum(axis=1)
    means = {
        "token-mean": by_sample.sum() / mask.sum(),
        "seq-mean-token-mean": (by_sample / mask.sum(axis=1)).mean(),
        "seq-mean-token-sum-norm": by_sample.mean() / limit,
        "dapo": by_sample.sum() / mask.sum(),
        "grpo": (by_sample / mask.sum(axis=1)).mean(),
        "dr_grpo": by_sample.sum() / (len(mask) * limit),
    }
    return means[word]


def test_words_for_the_mean():
    """Proves: each word of the table is the mean of the object beside it."""
    mask = np.arange(8) < np.array([[3], [8], [1]])
    terms_of_tokens = np.random.default_rng(0).normal(size=mask.shape)
    [table] = [t for t in pages.tables(PAGE) if "`token-mean`" in t[1][0]]
    checked = []
    for theirs, here, _ in table[1:4]:
        weights = eval(here.strip("`"), dict(NAMES))(mask, 8, np.ones(3))
        for word in re.findall(r"(?:verl|TRL) `([\w-]+)`", theirs):
            ours = (weights * terms_of_tokens).sum()
            wanted = their_mean(word, terms_of_tokens, mask, limit=8)
            np.testing.assert_allclose(ours, wanted, rtol=1e-5)
            checked.append(word)
    assert len(checked) == 6
