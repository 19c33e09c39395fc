"""Teaches a draft head what the policy said: the samples of a step, beside its update.

The policy's weights are read and nothing is changed in them: they are no parameter here, and the
program that updates the policy is the same with a head and without. A step teaches with one of its
micro-batches, another each time. That costs a forward pass over it and over the step's prompts, and
the head's own passes.
"""

import dataclasses

import jax
import jax.numpy as jnp

from r1v3_jax.config import GRPO, Compute, TextConfig
from r1v3_jax.losses.supervised import weighted_sum
from r1v3_jax.models import build
from r1v3_jax.models.draft_head import DraftHead
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.slices import sum_over_slices
from r1v3_jax.train import update as train_update
from r1v3_jax.train.logprobs import hidden_before, read_prompts
from r1v3_jax.train.optimizer import make_optimizer, schedule
from r1v3_jax.train.update import TrainState, micro_batch
from r1v3_jax.types import PolicyBatch, SampleRows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a head learns from in one step."""

    policy: R1V3
    batch: PolicyBatch
    step: jax.Array  # int32[], chooses the micro-batch


def make_update(config: GRPO):
    """Returns the optimizer of a stage's draft head, and its jitted `(state, lesson)` step."""
    rate = config.draft.optimizer
    optimizer = make_optimizer(rate, config.steps)

    def gradients(head, params, lesson: Lesson):
        def loss(params, rows: SampleRows, prompts):
            return draft_loss(head(params), lesson.policy, prompts, rows, temperature)

        batch = lesson.batch
        temperature = batch.numbers.get("temperature", config.temperature)
        prompts = read_prompts(lesson.policy, batch.prompts, config.prompt_parts)
        # Micro-batches without samples teach nothing: of 3 in use, steps 0 to 3 take 0 1 2 0.
        rows = micro_batch(batch.rows, lesson.step % jnp.maximum(batch.used, 1))
        slope = jax.value_and_grad(loss, has_aux=True)
        (total, count), grads = slope(params, rows, prompts)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
        grads, total, count = sum_over_slices((grads, total, count))
        count = jnp.maximum(count, 1)
        mean = jax.tree.map(lambda g: g / count, grads)
        return mean, {"loss": total / count}

    lr = schedule(rate, config.steps)
    return optimizer, train_update.make_update(gradients, optimizer, learns, lr)


def learns(path: tuple, value) -> bool:
    """Says that every weight of a head learns."""
    return True


def create(
    config: GRPO, text: TextConfig, compute: Compute, optimizer, *, seed: int
) -> TrainState:
    """Returns the state of a fresh head for a language model with these dimensions."""
    head = build.init_head(text, compute, config.draft.tokens, seed=seed)
    return train_update.create(head, optimizer, learns)


def draft_loss(
    head: DraftHead,
    policy: R1V3,
    prompts,
    rows: SampleRows,
    temperature,
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of -log q(token) over all guesses of a micro-batch, and their number.

    prompts: as `logprobs.read_prompts` returns them. Every place of a row is guessed from, with one
    guess after the other as in sampling, but behind the tokens that were sampled:

        tokens         [  a   b   c  end  u ]
        segment_ids    [  1   1   1   1   2 ]
        first guess    [  b   c  end  -   - ]   of the hidden state before a, and of a; ...
        second guess   [  c  end  -   -   - ]   of the first guess's state, and of b; ...

    A guess beyond the end of its sample does not count. temperature: of the samples.
    """
    hidden = jax.lax.stop_gradient(hidden_before(policy, prompts, rows))
    tokens = rows.tokens
    embedded = policy.language.embed(tokens)
    place = jnp.arange(tokens.shape[1])
    seen = ()
    total = jnp.float32(0)
    count = jnp.float32(0)
    for ahead in range(1, head.tokens):
        hidden, seen = head(hidden, embedded, seen)
        embedded = jnp.roll(embedded, -1, axis=1)
        wanted = jnp.roll(tokens, -ahead, axis=1)
        logprobs, _ = policy.logprobs(hidden, wanted, temperature=temperature)
        is_same_sample = jnp.roll(rows.segment_ids, -ahead, axis=1) == rows.segment_ids
        is_inside = place < tokens.shape[1] - ahead
        is_guessed = (rows.segment_ids > 0) & is_same_sample & is_inside
        weights = is_guessed.astype(jnp.float32)
        total -= weighted_sum(logprobs, weights)
        count += jnp.sum(weights)
    return total, count
