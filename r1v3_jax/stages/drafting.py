"""The draft head of a GRPO stage: taught in every step, and used while its guesses pay."""

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.config import GRPO, Run
from r1v3_jax.data.abstract import on_mesh
from r1v3_jax.models import build
from r1v3_jax.models.draft_head import DraftHead
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.programs import guessing_programs
from r1v3_jax.run.context import Context
from r1v3_jax.run.metrics import Timer
from r1v3_jax.run.program import Program, concrete, lower_on_mesh
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import shard_bytes
from r1v3_jax.train import draft_head
from r1v3_jax.train.draft_head import Lesson
from r1v3_jax.train.policy_batch import policy_batch_of
from r1v3_jax.train.policy_gradient import needs_old_logprobs
from r1v3_jax.train.update import TrainState, abstract_state
from r1v3_jax.types import PolicyBatch


def drafting_programs(
    config: Run,
    stage: GRPO,
    mesh,
    sampling: SamplingParams,
    policy: R1V3,
    kept: int,
    size: tuple[int, int],
) -> list[Program]:
    """Returns the programs of a draft head, with the shapes they get, for the dry run.

    policy: in shapes. kept: bytes on a chip all the time, the head's state among them. size: tokens
    that prompts are padded to, and tile slots.
    """
    if stage.draft is None:
        return []
    _, update = draft_head.make_update(stage)
    state = abstract_drafts(config, stage, mesh)
    table = guessing_programs(
        mesh,
        sampling,
        head=state.model,
        trained=policy,
        size=(stage.prompts, *size),
        group_size=stage.group_size,
        slots=stage.slots,
        int8=stage.rollout_int8,
        moving_temperature=callable(stage.temperature),
        resident=kept,
    )
    # The head is taught before the policy's own update, with the batch of that.
    scored = {"old": needs_old_logprobs(stage), "ref": stage.needs_reference()}
    batch = policy_batch_of(config.model, stage, *size, **scored)
    batch = on_mesh(batch, config, mesh)
    step = concrete(jax.ShapeDtypeStruct((), jnp.int32), mesh)
    lesson = Lesson(policy, batch, step)
    lower = lower_on_mesh(mesh, lambda: update.lower(state, lesson))
    beside = kept - shard_bytes(policy) - shard_bytes(state)
    return [*table, Program("update", lower, use="drafts", resident=beside)]


def abstract_drafts(config: Run, stage: GRPO, mesh) -> TrainState | None:
    """Returns the shapes of a head's state on the devices of `mesh`; None without a head."""
    if stage.draft is None:
        return None
    optimizer, _ = draft_head.make_update(stage)
    tokens = stage.draft.tokens
    head = build.abstract_head(config.model.text, config.compute, tokens, mesh)
    return abstract_state(head, optimizer, draft_head.learns, mesh)


class Drafting:
    """Hands rollouts the head, teaches it, and says when it is of no use.

    Samples are the same with a head and without, up to rounding (`sampling.drafts`), so nothing
    that is learnt depends on it.
    """

    def __init__(self, context: Context, config: GRPO):
        self.config = config.draft
        self.state: TrainState | None = None
        # Tokens that a pass yielded in the last rollout with guesses; before the first one 1.
        self.tokens_a_pass = 1.0
        self._was_used = False
        if config.draft is None:
            return
        run = context.run
        optimizer, self.update = draft_head.make_update(config)
        text = run.model.text
        self.state = draft_head.create(
            config, text, run.compute, optimizer, seed=run.seed
        )

    def go_on(self, state: TrainState | None, tokens_a_pass: float) -> None:
        """Takes over what a saved state holds of the head."""
        self.state = state
        self.tokens_a_pass = tokens_a_pass

    def has_guesses(self, step: int) -> bool:
        """Tells whether a rollout for this step has guesses, by what is known now.

        With pays_from 1.3 and retry_every 10: in step 0, and as long as a pass yields 1.3 tokens;
        then again in the next step that 10 divides.
        """
        if self.state is None:
            return False
        is_tried = step % self.config.retry_every == 0
        return is_tried or self.tokens_a_pass >= self.config.pays_from

    def head(self, step: int) -> DraftHead | None:
        """Returns the head for the rollout of a step; None: it is sampled without."""
        if not self.has_guesses(step):
            return None
        return build.head_for_decoding(self.state.model)

    def measure(self, groups: list[Group]) -> None:
        """Takes down how many tokens a pass has yielded in the rollout of these groups."""
        measured = [group.tokens_a_pass for group in groups if group.tokens_a_pass]
        self._was_used = bool(measured)
        if measured:
            self.tokens_a_pass = float(np.mean(measured))

    def learn(
        self, step: int, policy: R1V3, batch: PolicyBatch, timer: Timer
    ) -> dict[str, float]:
        """Teaches the head with the samples of a step; policy: as it was when they were drawn."""
        if self.state is None:
            return {}
        lesson = Lesson(policy, batch, jnp.int32(np.int32(step)))
        with timer("teach"):
            self.state, metrics = self.update(self.state, lesson)
            # A head whose loss is not finite stays as it was, and what it guesses does no harm.
            loss = float(jax.device_get(metrics["loss"]))
        return {"drafts/loss": loss}

    def metrics(self) -> dict[str, float]:
        """Returns what is logged of a step's guesses."""
        if self.state is None:
            return {}
        used = {"drafts/used": float(self._was_used)}
        if self._was_used:
            used["drafts/tokens_a_pass"] = self.tokens_a_pass
        return used
