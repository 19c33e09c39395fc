"""The policy gradient: the loss of samples, and its gradient over a whole batch."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1v3_jax.config import GRPO
from r1v3_jax.losses import NOTHING
from r1v3_jax.losses.corrections import is_cut
from r1v3_jax.losses.policy import log_ratio, reads_reference
from r1v3_jax.losses.schedules import Number, is_off
from r1v3_jax.losses.supervised import weighted_sum
from r1v3_jax.models.caches import PromptCache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.train import shared_prompts
from r1v3_jax.train.logprobs import read_prompts, sample_logprobs
from r1v3_jax.train.strengths import Strengths, strengths
from r1v3_jax.train.update import micro_batch
from r1v3_jax.types import PolicyBatch, SampleRows

# Of a token, in the effective sample size: exp(2 x 20) is a float32.
LARGEST_LOG_RATIO = 20.0


def gradients(model: Callable, params, batch: PolicyBatch, *, config: GRPO):
    """Returns the gradients and metrics of a whole batch, for `train.update.make_update`.

    Prompts are read once, whatever the number of their samples: see `train.shared_prompts`.
    """
    step = strengths(config, batch.numbers)

    def loss(model: R1V3, read, rows: SampleRows):
        return policy_loss(model, read, rows, config, step)

    return shared_prompts.gradients(
        loss, model, params, batch, config.prompt_parts, finish=token_means
    )


def token_means(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns means over the tokens that are learnt from, whatever their weights add up to.

    `ess`, the effective sample size of rho (`losses.corrections`) as a share of the tokens, is made
    of its means under the loss weights: mean(rho)^2 / mean(rho^2); nan if no token has weight.
    """
    has_tokens = metrics["weight"] > 0
    for name in sorted(metrics.keys() - {"loss", "kl", "weight"}):
        metrics[name] /= jnp.maximum(metrics["weight"], 1e-9)
    if "rho_squared" in metrics:
        square = metrics.pop("rho_squared")
        ess = metrics.pop("rho") ** 2 / jnp.maximum(square, 1e-30)
        metrics["ess"] = jnp.where(has_tokens, ess, jnp.nan)
    return metrics


def policy_loss(
    model: R1V3,
    read: tuple[jax.Array, PromptCache],
    rows: SampleRows,
    config: GRPO,
    step: Strengths,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the policy loss of a micro-batch, plus the KL term, minus the entropy term.

    read: the prompts, as `train.logprobs.read_prompts` returns them.
    """
    weights = rows.loss_weights
    logprobs, entropy = sample_logprobs(model, read, rows, temperature=step.temperature)

    # The policy before the update. With one update a rollout it is this very pass.
    if rows.old_logprobs is None:
        old = jax.lax.stop_gradient(logprobs)
    else:
        old = rows.old_logprobs

    segments = rows.segment_ids
    factors = None
    corrected = weights
    if config.correction != NOTHING:
        factors = config.correction(old, rows.sampler_logprobs, weights, segments)
        corrected = weights * factors
    pushes = rows.ref_logprobs if reads_reference(step.loss) else rows.advantages
    loss, metrics = step.loss(logprobs, old, pushes, corrected, segments)
    if not is_off(step.kl_coef) and config.kl_in == "loss":
        divergence = weighted_sum(
            config.kl_estimator(logprobs, rows.ref_logprobs), weights
        )
        loss += step.kl_coef * divergence
        metrics["kl"] = divergence
    if not is_off(step.entropy_coef):
        loss -= step.entropy_coef * weighted_sum(entropy, weights)

    # How far the sampler's forward pass and this one disagree; in exact arithmetic 0 at the first
    # update.
    gap = jnp.abs(old - rows.sampler_logprobs)
    total = weighted_sum(jnp.ones_like(weights), weights)
    metrics["sampler_gap"] = weighted_sum(gap, weights)
    metrics["policy_entropy"] = weighted_sum(entropy, weights)
    if config.in_flight:
        metrics |= off_policy_sums(old, factors, rows, config)
    metrics["weight"] = total
    return loss, metrics


def off_policy_sums(
    old: jax.Array, factors: jax.Array, rows: SampleRows, config: GRPO
) -> dict[str, jax.Array]:
    """Returns sums over tokens that say how far the policy is from those that drew them.

    factors: of `config.correction`. masked: where it bounds the ratio of a token, or masks it.
    """
    weights = rows.loss_weights
    log_ratios = log_ratio(old, rows.sampler_logprobs, weights)
    cut = is_cut(config.correction, factors, jnp.exp(log_ratios)).astype(jnp.float32)
    # The square of what is larger would be infinite, and the size of such samples nan.
    ratios = jnp.exp(jnp.minimum(log_ratios, LARGEST_LOG_RATIO))
    sums = {"rho": ratios, "rho_squared": ratios**2, "masked": cut}
    sums = {name: weighted_sum(terms, weights) for name, terms in sums.items()}
    return jax.lax.stop_gradient(sums)


def needs_old_logprobs(config: GRPO) -> bool:
    """Whether a pass before the update is needed.

    With one update per rollout the update's own forward pass is the policy before it.
    """
    return config.updates_per_rollout > 1 or config.needs_reference()


def with_logprobs(
    batch: PolicyBatch, model: R1V3, reference: R1V3 | None, config: GRPO
) -> PolicyBatch:
    """Returns the batch with the log-probabilities of the sampling weights and of the reference."""
    old = score(model, batch, config.temperature, config.prompt_parts)
    ref = None
    if config.needs_reference():
        ref = score(reference, batch, config.temperature, config.prompt_parts)
    rows = dataclasses.replace(batch.rows, old_logprobs=old, ref_logprobs=ref)
    return dataclasses.replace(batch, rows=rows)


@functools.partial(jax.jit, static_argnames=("temperature", "parts"))
def score(
    model: R1V3, batch: PolicyBatch, temperature: Number, parts: int = 1
) -> jax.Array:
    """Returns log p of every sampled token of a batch, float32[N, B, T].

    Micro-batches without samples are not computed; their entries are 0. temperature: of the
    samples; where it moves, its value at the step comes with the batch.
    """
    read = read_prompts(model, batch.prompts, parts)
    temperature = batch.numbers.get("temperature", temperature)

    def score_micro_batch(i, out):
        rows = micro_batch(batch.rows, i)
        logprobs, _ = sample_logprobs(model, read, rows, temperature=temperature)
        return jax.lax.dynamic_update_index_in_dim(out, logprobs, i, 0)

    zeros = jnp.zeros_like(batch.rows.sampler_logprobs)
    return jax.lax.fori_loop(0, batch.used, score_micro_batch, zeros)
