"""The reinforcement stage (`GRPO`)."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from r1v3_jax.config.draft import Draft, check_draft
from r1v3_jax.config.fit import (
    check_positions,
    check_splits,
    check_tiles,
    check_trainable,
)
from r1v3_jax.config.lora import LoRA, check_lora
from r1v3_jax.config.sft import Optimizer
from r1v3_jax.fields import (
    LATER,
    Limit,
    NonNegativeInt,
    PositiveInt,
    Share,
    at_least,
    check,
)
from r1v3_jax.losses import (
    K3,
    NOTHING,
    AdaptiveEntropy,
    Advantage,
    Aggregation,
    AllAlike,
    AllTokens,
    Clipped,
    Correction,
    Gmpo,
    GroupRelative,
    Gspo,
    KLEstimator,
    Masked,
    PolicyLoss,
    Prioritized,
    SampleWeight,
    SequenceMean,
    SoftPrioritized,
    TermByTerm,
    TokenChoice,
)
from r1v3_jax.losses.policy import check_number, reads_reference
from r1v3_jax.losses.schedules import Number, is_off, value
from r1v3_jax.rewards import helpers
from r1v3_jax.rewards.reward import Reward

# How configs of before named an algorithm, and the object that it is.
OLDER_WORDS = {
    "token": "TokenMean()",
    "sequence": "SequenceMean()",
    "constant": "ConstantLength()",
    "k1": "K1()",
    "k2": "K2()",
    "k3": "K3()",
}


def verifying(name: str, run) -> dict:
    """Returns what decides the verdicts of stage `name`, by its name in the identity."""
    return {
        f"{name}.verify.answer": run.verify.answer,
        f"{name}.verify.judging": run.verify.judging,
        f"{name}.verify.custom": run.verify.custom,
        f"{name}.verify.iou": run.verify.iou,
        f"{name}.verify.model_name": run.verify.model_name,
    }


@dataclasses.dataclass(frozen=True)
class GRPO:
    """Group-relative policy optimization, Skywork-R1V3 report section 3.3."""

    train: Callable  # source(index) -> types.Example
    # Whose weights it begins with: those of the stage before (empty), "init" (the run's initial
    # weights), or those of the earlier stage of that name.
    start: str = ""
    steps: PositiveInt = 100
    prompts: PositiveInt = 32  # P, a step
    # G, samples a prompt
    group_size: Annotated[
        int, at_least(2, "an advantage compares samples of one prompt")
    ] = 32

    # Lengths.
    max_prompt_tokens: PositiveInt = 4096
    max_completion_tokens: PositiveInt = 8192
    # Tokens that a completion may have, rounded; may move: R1V3 went from 4,096 to 8,192. 0: the
    # maximum.
    length_limit: Number = 0
    # Tile slots of a step: its images are encoded once to sample and once to learn.
    tiles: NonNegativeInt = 32
    # Smaller (max_prompt_tokens, tiles), rising: a step whose prompts all fit into one is padded to
    # that. The programs of each are compiled when it first comes up; until all have, a step is not
    # called stuck before `Health.stuck_first_step_s`.
    buckets: tuple[tuple[int, int], ...] = ()

    # Sampling.
    temperature: Number = 1.0
    slots: NonNegativeInt = 0  # samples decoded at a time; 0: all of a step
    # Rollout passes that a step may add to replace groups without signal (dynamic sampling, DAPO):
    # those whose rewards are all equal, or those whose answers are all right or all wrong
    # (MiroMind-M1). The two differ where a reward has other terms than the answer.
    refills: NonNegativeInt = 0
    refill_by: Literal["reward", "accuracy"] = "reward"
    # 1: while a step's samples are scored, the devices already sample for the next step, with
    # weights one update old; `correction` makes up for it.
    off_policy_steps: Annotated[int, Limit(lambda n: n in (0, 1), "0 or 1")] = 0
    # Prompts under way, more than a step learns from: no slot is idle while others finish. A step
    # learns from the oldest `prompts`, once all their samples have ended; the others go on with the
    # new weights, and `correction` makes up for it. 0: the prompts of a step are sampled in it.
    in_flight: NonNegativeInt = dataclasses.field(default=0, metadata=LATER)
    # Samples are drawn with the language model's matrices in 8 bits (`models.int8`): a token reads
    # half the bytes of its weights. `correction` makes up for it.
    rollout_int8: bool = False
    # Several tokens a pass, guessed by a head that learns beside the policy: samples stay the same.
    draft: Draft | None = dataclasses.field(default=None, metadata=LATER)

    # Rewards.
    reward: Reward = Reward()  # 0.8 accuracy + 0.2 format, section 3.1

    # The algorithm: objects of `r1v3_jax.losses`, chosen in a config file. Their strengths are
    # flags: --config.grpo.loss.high=0.28. A `Number` may move with the run, as a schedule of
    # `r1v3_jax.losses.schedules`.
    advantage: Advantage = GroupRelative()
    sample_weight: SampleWeight = AllAlike()
    tokens: TokenChoice = AllTokens()
    aggregation: Aggregation = SequenceMean()  # equation 7
    loss: PolicyLoss = Clipped()
    kl_coef: Number = 0.0  # 0: no reference model in memory, no pass through one
    # loss: a term of the loss, as in GRPO. reward: every sample's reward is less by it, as in RLHF.
    kl_in: Literal["loss", "reward"] = "loss"
    # What the KL term holds to, and the teacher of Distilled(): a Hugging Face directory or a
    # checkpoint of ours, of any size that reads the same tokens. Empty: the stage's first weights.
    reference: str = ""
    # After every so many steps the reference becomes decay * itself + (1 - decay) * the policy. 1:
    # it stays as it is. GRPO-CARE: 0.995 every 10.
    reference_decay: Share = dataclasses.field(default=1.0, metadata=LATER)
    reference_every: PositiveInt = dataclasses.field(default=10, metadata=LATER)
    kl_estimator: KLEstimator = K3()
    # Of the policy's mean entropy, which is made larger.
    entropy_coef: Number | AdaptiveEntropy = 0.0
    # For the gap between sampler and trainer: --config.grpo.correction.cap=2.0.
    correction: Correction = NOTHING
    updates_per_rollout: PositiveInt = 1  # 1 is strictly on-policy
    trainable: str = "all"  # all, or parts joined by +: llm, connector, vision
    # Of these parts, adapters learn in place of matrices. None: everything learns whole.
    lora: LoRA | None = dataclasses.field(default=None, metadata=LATER)
    optimizer: Optimizer = Optimizer()

    # Memory.
    # Micro-batches that the samples of a step are cut into. A micro-batch has room for prompts x
    # group_size / accumulate samples of full length; shorter ones are packed, and micro-batches
    # that stay empty are not run.
    accumulate: PositiveInt = 1
    # Parts in which an update reads its prompts and their tiles. With 1, everything that their
    # backward pass needs is kept while the samples are learnt from; with more it is computed again,
    # part by part, at the price of one more forward pass over the prompts.
    prompt_parts: PositiveInt = 1

    # Steps between measurements of `Evaluate.probe`: the candidates for the choice of a checkpoint.
    evaluate_every: NonNegativeInt = 0
    checkpoint_every: PositiveInt = 20
    rollouts_every: NonNegativeInt = 10  # steps between rollouts written to disk

    # The fields above that hold an object of `r1v3_jax.losses`, or a Reward.
    ALGORITHM: ClassVar[tuple[str, ...]] = (
        "advantage",
        "sample_weight",
        "tokens",
        "aggregation",
        "loss",
        "kl_estimator",
        "correction",
        "reward",
    )
    # Whether answers are rewarded, and therefore must be well formed.
    IS_REWARDED: ClassVar[bool] = True
    # Whether it hands on weights of its own.
    HAS_WEIGHTS: ClassVar[bool] = True
    # Rows of collecting stages that it can learn from, by what they hold (`distill.keeps`).
    READS: ClassVar[frozenset[str]] = frozenset({"chains", "said", "rates"})
    # What may change when a stage is resumed: where and how often, not what is computed.
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {
            "checkpoint_every",
            "rollouts_every",
            "accumulate",
            "prompt_parts",
            "slots",
            "buckets",
            # Of a draft head: when it is used, which changes no sample.
            "pays_from",
            "retry_every",
        }
    )

    def __post_init__(self):
        check(self)
        self._check_algorithm()
        for name in ("kl_coef", "entropy_coef"):
            number = getattr(self, name)
            if not isinstance(number, AdaptiveEntropy):
                check_number(f"GRPO.{name}", number, 0, 1e30, "finite and at least 0")
        wanted = "positive, as 1.0: greedy samples do not explore"
        check_number("GRPO.temperature", self.temperature, 1e-6, 1e6, wanted)
        self._check_whole_samples()
        self._check_reference()
        self._check_refills()
        self._check_off_policy()
        self._check_in_flight()
        self._check_samples()
        self._check_buckets()
        if not is_off(self.length_limit):
            most = self.max_completion_tokens
            wanted = f"between 1 and max_completion_tokens = {most}, or 0 for that"
            check_number("GRPO.length_limit", self.length_limit, 1, most, wanted)

    def token_limit(self, step: int) -> int:
        """Returns the tokens that a completion may have at `step`."""
        if is_off(self.length_limit):
            return self.max_completion_tokens
        return round(value(self.length_limit, step / self.steps))

    def needs_reference(self) -> bool:
        """Returns whether a reference model is in memory, and scores every sample."""
        reads = reads_reference(self.loss) or helpers.likelihood_terms(self.reward)
        return not is_off(self.kl_coef) or bool(reads)

    @property
    def decode_slots(self) -> int:
        """Samples decoded at a time."""
        return self.slots or self.prompts * self.group_size

    @property
    def follows(self) -> bool:
        """Whether the reference follows the policy."""
        return self.reference_decay < 1

    def check_fit(self, name: str, run) -> None:
        """Raises ValueError if the stage does not fit the model, the mesh or the probe of `run`."""
        check_trainable(name, self.trainable, run.model)
        check_lora(name, self, run)
        check_draft(name, self)
        check_splits(run.mesh, f"{name}.prompts", self.prompts, "data")
        self._check_prompt_copies(name, run.mesh)
        check_splits(run.mesh, f"{name}.slots", self.slots, "data")
        if self.follows and run.compute.param_dtype != "float32":
            raise ValueError(
                f"{name}.reference_decay = {self.reference_decay} moves the reference by small "
                f"steps, which compute.param_dtype = {run.compute.param_dtype!r} rounds away; "
                "'float32' would do"
            )
        if self.evaluate_every and run.evaluate.probe is None:
            raise ValueError(
                f"{name}.evaluate_every = {self.evaluate_every} measures evaluate.probe, and "
                f"there is none; set it, or {name}.evaluate_every = 0"
            )
        check_positions(
            run,
            f"{name}.max_prompt_tokens + {name}.max_completion_tokens",
            self.max_prompt_tokens + self.max_completion_tokens,
            room_for="completion tokens",
            taken=self.max_prompt_tokens,
        )
        rows = f"{name}.prompts x {name}.group_size / {name}.accumulate"
        rows_count = self.prompts * self.group_size // self.accumulate
        check_splits(run.mesh, rows, rows_count, "data fsdp")
        if run.model.vision is not None:
            check_tiles(run, f"{name}.tiles", self.tiles)
            for _, tiles in self.buckets:
                check_tiles(run, f"{name}.buckets: tiles", tiles)

    def may_change(self) -> frozenset[str]:
        """The fields that a resumed stage may have with other values."""
        if self.off_policy_steps:
            # No rollout is begun across a save: where saves are decides what is sampled.
            return self.MAY_CHANGE - {"checkpoint_every"}
        if self.in_flight:
            # Nothing is under way across a save, and slots decide which weights draw a token.
            return self.MAY_CHANGE - {"checkpoint_every", "slots"}
        return self.MAY_CHANGE

    def depends_on(self, name: str, run) -> dict:
        """Other parts of `run` that decide what the stage computes, by name.

        They have the stage's name in front: once it is done they may change.
        """
        parts = verifying(name, run) | helpers.identity(name, self.reward)
        if self.evaluate_every:
            for field in ("probe", "probe_questions", "select_by"):
                parts[f"{name}.evaluate.{field}"] = getattr(run.evaluate, field)
        return parts

    def _check_algorithm(self) -> None:
        """Raises ValueError for a name or a class in place of an object."""
        for field in self.ALGORITHM:
            value = getattr(self, field)
            if callable(value) and not isinstance(value, type):
                continue
            if isinstance(value, type):
                example = f"{value.__name__}()"
            else:
                default = type(self.__dataclass_fields__[field].default).__name__
                example = OLDER_WORDS.get(value, f"{default}()")
            kind = "a Reward" if field == "reward" else "an object of r1v3_jax.losses"
            raise ValueError(
                f"GRPO.{field} is {value!r}; it must be {kind}, as {example}"
            )

    def _check_whole_samples(self) -> None:
        """Raises ValueError for choices among tokens beside a loss that has one ratio a sample."""
        if not isinstance(self.loss, Gspo | Gmpo):
            return
        loss = type(self.loss).__name__
        # The ratio is a mean over all tokens of a sample: each of them is pushed by it.
        if self.tokens != AllTokens():
            raise ValueError(
                f"GRPO.tokens is {self.tokens} and GRPO.loss {loss}, whose ratio is that of a "
                "whole sample; AllTokens() would do, or a loss token by token, as Clipped()"
            )
        if isinstance(self.correction, Masked):
            raise ValueError(
                f"GRPO.correction is {self.correction} and GRPO.loss {loss}, whose ratio is that "
                "of a whole sample; Truncated(2.0) or WholeSequence() would do"
            )

    def _check_reference(self) -> None:
        """Raises ValueError for a reference without use, and a teacher that cannot teach."""
        # Distilled() reads no reward, and TermByTerm only the terms that the config names.
        advantage = type(self.advantage).__name__
        if self.kl_in == "reward" and (
            is_off(self.kl_coef)
            or reads_reference(self.loss)
            or isinstance(self.advantage, TermByTerm)
        ):
            raise ValueError(
                f"GRPO.kl_in is 'reward', beside kl_coef = {self.kl_coef}, loss = {self.loss} and "
                f"advantage {advantage}; wanted a KL term and who reads its reward: kl_coef = "
                "0.001, Clipped() and GroupRelative() would do"
            )
        if self.reference and not self.needs_reference():
            raise ValueError(
                f"GRPO.reference is {self.reference!r} and nothing reads it; kl_coef = 0.001 or "
                'loss = Distilled() would do, or reference = ""'
            )
        if self.follows and (not self.needs_reference() or reads_reference(self.loss)):
            raise ValueError(
                f"GRPO.reference_decay is {self.reference_decay} beside kl_coef = {self.kl_coef} "
                f"and loss {self.loss}; wanted a KL term or the reward term Likely() that reads "
                "the reference, and no teacher; 1.0 would do: it stays as it is"
            )
        if not reads_reference(self.loss):
            return
        loss = type(self.loss).__name__
        if not self.reference:
            raise ValueError(
                f"GRPO.loss is {loss} and GRPO.reference empty: the stage's first weights have "
                "nothing to teach it; name a checkpoint, as RUN/export"
            )
        # It is pushed by no advantage: what chooses by rewards has no say in it.
        by_rewards = isinstance(self.sample_weight, Prioritized | SoftPrioritized)
        if self.refills or self.tokens != AllTokens() or by_rewards:
            raise ValueError(
                f"GRPO.loss is {loss}, which learns from every token whatever its reward, beside "
                f"refills = {self.refills}, tokens = {self.tokens} and sample_weight = "
                f"{self.sample_weight}; refills = 0, AllTokens() and AllAlike() would do"
            )

    def _check_refills(self) -> None:
        """Raises ValueError if refills would throw away what the advantage tells apart."""
        if (
            self.refills
            and self.refill_by == "reward"
            and helpers.likelihood_terms(self.reward)
        ):
            raise ValueError(
                f"GRPO.refills is {self.refills} by reward, and the reward has Likely(), which "
                "tells right answers apart only when groups are chosen; refill_by = 'accuracy' or "
                "refills = 0 would do"
            )
        is_by_term = isinstance(self.advantage, TermByTerm)
        if self.refills and self.refill_by == "reward" and is_by_term:
            raise ValueError(
                f"GRPO.refills is {self.refills} by reward and advantage TermByTerm, which learns "
                "from groups whose sums are equal and whose terms are not; refill_by = 'accuracy' "
                "or refills = 0 would do"
            )

    def _check_off_policy(self) -> None:
        if self.off_policy_steps and (self.refills or self.correction == NOTHING):
            raise ValueError(
                f"GRPO.off_policy_steps = 1 wants refills = 0, not {self.refills}, and a "
                f"correction, not {self.correction}; correction.cap = 2.0 would do"
            )
        if self.rollout_int8 and self.correction == NOTHING:
            raise ValueError(
                "GRPO.rollout_int8 samples from a slightly other policy than the one that learns, "
                f"and wants a correction, not {self.correction}; correction.cap = 2.0 would do"
            )

    def _check_in_flight(self) -> None:
        """Raises ValueError for a number of prompts, and for settings that move under samples."""
        if not self.in_flight:
            return
        if self.in_flight % self.prompts or self.in_flight <= self.prompts:
            nearest = max(2, round(self.in_flight / self.prompts)) * self.prompts
            raise ValueError(
                f"GRPO.in_flight is {self.in_flight}; it must be a multiple of prompts = "
                f"{self.prompts}, and more; {nearest} would do"
            )
        if self.refills or self.off_policy_steps or self.correction == NOTHING:
            raise ValueError(
                f"GRPO.in_flight = {self.in_flight} wants refills = 0, not {self.refills}, "
                f"off_policy_steps = 0, not {self.off_policy_steps}, and a correction, not "
                f"{self.correction}; correction.cap = 2.0 would do"
            )
        for name in ("temperature", "length_limit"):
            number = getattr(self, name)
            if callable(number):
                raise ValueError(
                    f"GRPO.{name} is {number}, and with in_flight = {self.in_flight} a sample "
                    f"lives through several steps; a number would do, as {number(1.0):g}"
                )

    def _check_samples(self) -> None:
        samples = self.prompts * self.group_size
        if self.slots > samples:
            raise ValueError(
                f"GRPO.slots is {self.slots}; it must be at most prompts x group_size = {samples}"
            )
        if samples % self.accumulate:
            raise ValueError(
                f"GRPO.prompts x group_size = {samples} samples must divide into accumulate = "
                f"{self.accumulate} parts"
            )

    def _check_buckets(self) -> None:
        """Raises ValueError unless the buckets are pairs that rise up to the full size."""
        buckets = self.buckets if isinstance(self.buckets, tuple) else (self.buckets,)
        for bucket in buckets:
            is_pair = isinstance(bucket, tuple) and [type(n) for n in bucket] == [
                int,
                int,
            ]
            if not is_pair:
                raise ValueError(
                    f"GRPO.buckets: {bucket!r} is not (prompt tokens, tiles); give pairs of whole "
                    "numbers, as ((1024, 128),)"
                )
        full = (self.max_prompt_tokens, self.tiles)
        for small, large in itertools.pairwise((*buckets, full)):
            if not (0 < small[0] < large[0] and 0 <= small[1] <= large[1]):
                raise ValueError(
                    "GRPO.buckets: (prompt tokens, tiles) must rise, the tokens strictly, up to "
                    f"max_prompt_tokens and tiles = {full}; {tuple(small)} stands before "
                    f"{tuple(large)}"
                )

    def _check_prompt_copies(self, name: str, mesh: tuple[int, int, int]) -> None:
        """Raises ValueError if samples cannot be with their prompts in an update.

        Each device that rows are split over holds whole prompts, or a share of one prompt's
        samples; see `train.policy_batch.pack`. With 4 prompts and 8 devices two devices share a
        prompt, and an even group_size splits over them.
        """
        shards = mesh[0] * mesh[1]
        if self.prompts % shards and shards % self.prompts:
            nearest = -(-self.prompts // shards) * shards
            raise ValueError(
                f"{name}.prompts = {self.prompts} and data x fsdp = {shards} of mesh {mesh}: "
                f"one must divide the other; {nearest} would do"
            )
        sharing = shards // self.prompts
        if self.prompts < shards and self.group_size % sharing:
            raise ValueError(
                f"{name}.group_size = {self.group_size} does not split over the {sharing} devices "
                f"that have a prompt's samples in mesh {mesh}; use a multiple, or more "
                f"{name}.prompts"
            )
