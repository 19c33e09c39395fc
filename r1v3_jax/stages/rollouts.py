"""The rollouts of a GRPO stage: in their step, one step ahead, or through several steps."""

from r1v3_jax.config import GRPO
from r1v3_jax.data.reader import Reader
from r1v3_jax.models.build import for_decoding
from r1v3_jax.models.draft_head import DraftHead
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.rollout.collect import Collected, begin, collect
from r1v3_jax.rollout.in_flight import InFlight
from r1v3_jax.rollout.sampler import GroupSampler, PendingRollout
from r1v3_jax.run.context import Context
from r1v3_jax.stages.drafting import Drafting
from r1v3_jax.stages.loop import Loop
from r1v3_jax.types import StepInfo


class Rollouts:
    """Hands a stage the scored groups of each step."""

    def __init__(
        self,
        context: Context,
        config: GRPO,
        loop: Loop,
        sampler: GroupSampler,
        questions: Reader,
        drafting: Drafting,
    ):
        self.context = context
        self.config = config
        self.loop = loop
        self.sampler = sampler
        self.questions = questions
        self.drafting = drafting
        self.pending: PendingRollout | None = (
            None  # the next step's, if it is under way
        )
        self.in_flight: InFlight | None = None
        if config.in_flight:
            key = context.key("rollout")
            self.in_flight = InFlight(sampler, config, key, loop.next_saved)

    def collect(self, step: int, model: R1V3) -> Collected:
        """Samples and scores the groups of a step."""
        # A rollout that is under way has its head.
        drafter = None if self.pending else self.drafting.head(step)
        info = self.info(step, drafter)
        if self.in_flight is not None:
            return self.in_flight.collect(model, self.questions, info)

        # Off-policy, the devices start sampling for the next step while this step's samples are
        # scored. Not across a save: after a resumption (as after a preemption) the next step would
        # be sampled with newer weights.
        is_ahead = self.config.off_policy_steps and not self.loop.is_saved(step)

        def begin_next() -> PendingRollout:
            decoding_model = for_decoding(model, int8=self.config.rollout_int8)
            # By what was measured before this step: its own rollout is not scored yet.
            info = self.info(step + 1, self.drafting.head(step + 1))
            return begin(
                self.sampler, decoding_model, self.questions, self.config, info
            )

        collected = collect(
            self.sampler,
            model,
            self.questions,
            self.config,
            info,
            pending=self.pending,
            begin_next=begin_next if is_ahead else None,
        )
        self.pending = collected.ahead
        return collected

    @property
    def are_done(self) -> bool:
        """Whether nothing is under way that a saved state would lack."""
        return self.in_flight is None or not self.in_flight.batches

    def info(self, step: int, drafter: DraftHead | None) -> StepInfo:
        """Returns what the rollout of a step needs to know; drafter: for its guesses."""
        config = self.config
        progress = step / config.steps
        moves = callable(config.temperature)
        return StepInfo(
            step=step,
            key=self.context.key("rollout", step),
            token_limit=config.token_limit(step),
            progress=progress,
            temperature=config.temperature(progress) if moves else None,
            drafter=drafter,
        )
