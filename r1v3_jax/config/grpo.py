"""GRPO."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal

from r1v3_jax.config.fields import one_of, positive, require
from r1v3_jax.config.rewards import Shaping
from r1v3_jax.config.sft import SFT, Optimizer


@dataclasses.dataclass(frozen=True)
class GRPO:
    """Group-relative policy optimization, Skywork-R1V3 report section 3.3."""

    train: Callable  # source(index) -> types.Example
    steps: int = 100
    prompts: int = 32  # P, a step
    group_size: int = 32  # G, samples a prompt
    max_prompt_tokens: int = 4096
    max_completion_tokens: int = 8192
    # Progressive lengths, ((from_step, tokens), ...): R1V3 went from 4,096 to 8,192. Empty: the
    # maximum.
    length_limits: tuple[tuple[int, int], ...] = ()
    slots: int = 0  # decode slots; 0: one for each sample
    tiles: int = (
        32  # tile slots of a step: its images are encoded once to sample, once to learn
    )
    # Smaller (max_prompt_tokens, tiles), rising: a step whose prompts all fit into one is padded to
    # that. The programs of each are compiled when it first comes up; until all have, a step is not
    # called stuck before `Health.stuck_first_step_s`.
    buckets: tuple[tuple[int, int], ...] = ()
    temperature: float = 1.0
    accuracy_weight: float = (
        0.8  # reward = this * accuracy + the rest * format, section 3.1
    )
    shaping: Shaping = Shaping()
    divide_by_std: bool = True  # False: Dr. GRPO
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Literal["token", "sequence", "constant"] = "sequence"  # equation 7
    kl_coef: float = 0.0  # 0: no reference model in memory and no pass through one
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    updates_per_rollout: int = 1  # 1 is strictly on-policy
    # Rollout passes a step may add to replace groups whose rewards are all equal (dynamic sampling,
    # DAPO).
    refills: int = 0
    # 1: the devices sample for a step while the samples of the one before are scored, with weights
    # that are an update old; `importance_cap` corrects for it.
    off_policy_steps: int = 0
    importance_cap: float = (
        0.0  # truncated importance sampling for the sampler/trainer gap; 0: off
    )
    # Samples are drawn with the language model's matrices in 8 bits (`models.int8`): a token reads
    # half the bytes of its weights. `importance_cap` corrects for it.
    rollout_int8: bool = False
    # Micro-batches that the samples of a step are cut into. A micro-batch has room for prompts x
    # group_size / accumulate samples of full length; shorter ones are packed, and micro-batches
    # that stay empty are not run.
    accumulate: int = 1
    # Parts in which an update reads its prompts and their tiles. With 1 all that their backward
    # pass needs is kept while the samples are learnt from; with more it is computed again, part by
    # part, at the price of one more forward pass over the prompts.
    prompt_parts: int = 1
    trainable: str = "all"
    optimizer: Optimizer = Optimizer()
    evaluate_every: int = 0  # steps; also the candidates for the choice of a checkpoint
    checkpoint_every: int = 20
    rollouts_every: int = 10  # steps between rollouts written to disk

    def __post_init__(self):
        require(
            self,
            "steps prompts max_prompt_tokens max_completion_tokens updates_per_rollout accumulate "
            "prompt_parts checkpoint_every",
            positive,
            "at least 1",
        )
        require(
            self,
            "group_size",
            lambda n: n >= 2,
            "at least 2: an advantage compares samples of one prompt",
        )
        require(
            self,
            "slots tiles refills kl_coef importance_cap evaluate_every rollouts_every",
            lambda n: n >= 0,
            ">= 0",
        )
        require(
            self,
            "temperature",
            lambda x: x > 0,
            "positive: greedy samples do not explore",
        )
        require(
            self, "accuracy_weight clip_low", lambda x: 0 <= x <= 1, "between 0 and 1"
        )
        require(self, "clip_high", lambda x: x >= 0, "at least 0")
        one_of(self, "aggregation", ("token", "sequence", "constant"))
        one_of(self, "kl_estimator", ("k1", "k2", "k3"))
        if self.off_policy_steps not in (0, 1):
            raise ValueError(
                f"GRPO.off_policy_steps is {self.off_policy_steps}; it must be 0 or 1"
            )
        if self.off_policy_steps and (self.refills or not self.importance_cap):
            raise ValueError(
                f"GRPO.off_policy_steps = 1 wants refills = 0, not {self.refills}, and an "
                f"importance_cap, not {self.importance_cap}; 2.0 would do"
            )
        if self.rollout_int8 and not self.importance_cap:
            raise ValueError(
                "GRPO.rollout_int8 samples from a slightly other policy than the one that learns, "
                "and wants an importance_cap, not 0; 2.0 would do"
            )
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
        for bucket in (
            self.buckets if isinstance(self.buckets, tuple) else (self.buckets,)
        ):
            if not (
                isinstance(bucket, tuple) and [type(n) for n in bucket] == [int, int]
            ):
                raise ValueError(
                    f"GRPO.buckets: {bucket!r} is not (prompt tokens, tiles); give pairs of whole "
                    "numbers, as ((1024, 128),)"
                )
        sizes = (*self.buckets, (self.max_prompt_tokens, self.tiles))
        for small, large in itertools.pairwise(sizes):
            if not (0 < small[0] < large[0] and 0 <= small[1] <= large[1]):
                raise ValueError(
                    f"GRPO.buckets: (prompt tokens, tiles) must rise, the tokens strictly, up to "
                    f"max_prompt_tokens and tiles = {sizes[-1]}; {tuple(small)} stands before "
                    f"{tuple(large)}"
                )
        for start, tokens in self.length_limits:
            if not 0 < tokens <= self.max_completion_tokens:
                raise ValueError(
                    f"GRPO.length_limits: {tokens} tokens from step {start} must lie between 1 and "
                    f"max_completion_tokens = {self.max_completion_tokens}"
                )

    def length_limit(self, step: int) -> int:
        """Completion tokens allowed at `step`."""
        limits = [tokens for start, tokens in self.length_limits if start <= step]
        return limits[-1] if limits else self.max_completion_tokens


# Fields of a stage that may change between the parts of a run: where and how often, not what.
FREE = {
    SFT: {"checkpoint_every"},
    GRPO: {
        "checkpoint_every",
        "rollouts_every",
        "accumulate",
        "prompt_parts",
        "slots",
        "buckets",
    },
}
