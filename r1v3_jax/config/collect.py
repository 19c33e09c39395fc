"""The stage that asks a model questions and keeps some of its answers (`Collect`)."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from r1v3_jax.config.fit import check_positions, check_splits, check_tiles
from r1v3_jax.config.grpo import verifying
from r1v3_jax.fields import NonNegativeInt, PositiveInt, check
from r1v3_jax.rewards import helpers
from r1v3_jax.rewards.reward import Reward, name_of


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One of several temperatures: that with the highest Reward-Pass@K on a probe.

    K and the scorer are those of `Collect.keep`, a Best (M-STAR, arXiv 2412.17451, section 3.3). Of
    equal ones the first is taken.
    """

    choices: tuple[float, ...]
    probe: Callable  # questions: source(index) -> types.Example
    questions: PositiveInt = 250

    def __post_init__(self):
        check(self)
        if not self.choices or not all(0 < choice for choice in self.choices):
            raise ValueError(
                f"Chosen.choices is {self.choices}; wanted temperatures above 0, as (0.6, 1.0)"
            )


@dataclasses.dataclass(frozen=True)
class Collect:
    """One stage that samples answers and makes rows of some, for stages behind it.

    They read the rows as `data.made.Made(NAME, SOURCE)`. Nothing is learnt: the stage hands on the
    weights that it began with.
    """

    source: Callable  # of the questions: source(index) -> types.Example
    # What is kept of the answers to a question, as Shortest() or Pairs(): `distill.keeps`.
    keep: Callable
    # Whose weights answer: those of the stage before (empty), "init" (the run's initial weights),
    # or those of the earlier stage of that name.
    start: str = ""
    # A checkpoint that answers in their place, of any size and with its own tokenizer: a directory
    # of Hugging Face's or of ours.
    model: str = ""
    questions: PositiveInt = 1000  # the first so many good rows of the source
    samples: PositiveInt = 4  # of a question
    prompts: PositiveInt = 32  # questions at a time
    slots: NonNegativeInt = 0  # samples decoded at a time; 0: all of them
    max_prompt_tokens: PositiveInt = 4096
    max_completion_tokens: PositiveInt = 8192
    # Tile slots of the questions at a time; each has the same share of them.
    tiles: NonNegativeInt = 32
    # 0: the likeliest tokens.
    temperature: float | Chosen = 1.0
    reward: Reward = (
        Reward()
    )  # whether an answer is well formed, and what scorers say of it
    checkpoint_every: PositiveInt = 10  # batches of questions

    # Whether it learns from rewards. Its answers are scored, but only to choose among them.
    IS_REWARDED: ClassVar[bool] = False
    # Whether it hands on weights of its own.
    HAS_WEIGHTS: ClassVar[bool] = False
    # What rows of other stages its questions may bring.
    READS: ClassVar[frozenset[str]] = frozenset({"chains", "said", "rates"})
    # See `GRPO.ALGORITHM`: chosen in a config file, no flag can change it.
    ALGORITHM: ClassVar[tuple[str, ...]] = ("keep", "temperature")
    # What may change when a stage is resumed: where and how often, not what is computed.
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset({"checkpoint_every", "slots"})

    def __post_init__(self):
        check(self)
        if not callable(self.keep) or not hasattr(self.keep, "MAKES"):
            raise ValueError(
                f"Collect.keep is {self.keep!r}; it must be an object of distill.keeps, as "
                "Shortest() or Pairs()"
            )
        if self.slots > self.prompts * self.samples:
            raise ValueError(
                f"Collect.slots is {self.slots}; it must be at most prompts x samples = "
                f"{self.prompts * self.samples}"
            )
        if not isinstance(self.temperature, Chosen) and not self.temperature >= 0:
            raise ValueError(
                f"Collect.temperature is {self.temperature!r}; it must be at least 0, as 1.0"
            )
        for _, term in helpers.likelihood_terms(self.reward):
            raise ValueError(
                f"Collect.reward has {name_of(term)!r}, which reads the reference of a stage that "
                "learns, and this one has none; leave it out"
            )
        # What the scorer says of a sample is a part of its reward.
        scorer = getattr(self.keep, "by", None)
        if scorer is not None and name_of(scorer) not in self.reward.names:
            raise ValueError(
                f"Collect.keep ranks by {name_of(scorer)!r}, which is no term of Collect.reward "
                f"({', '.join(self.reward.names)}); add it with the weight 0.0"
            )
        if isinstance(self.temperature, Chosen) and scorer is None:
            raise ValueError(
                f"Collect.temperature chooses among {self.temperature.choices} by what a scorer "
                "likes best; set keep = Best(TERM), or give one temperature, as 1.0"
            )

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures there are to choose from."""
        if isinstance(self.temperature, Chosen):
            return self.temperature.choices
        return (self.temperature,)

    @property
    def steps(self) -> int:
        """How many batches of questions are asked."""
        return -(-self.questions // self.prompts)

    def check_fit(self, name: str, run) -> None:
        """Raises ValueError if the stage does not fit the model or the mesh of `run`."""
        check_splits(run.mesh, f"{name}.prompts", self.prompts, "data")
        if self.slots:
            check_splits(run.mesh, f"{name}.slots", self.slots, "data")
        if run.model.vision is not None:
            check_splits(run.mesh, f"{name}.tiles", self.tiles, "data fsdp tensor")
        # Another model has other positions and tiles: `stages.collect.check` looks at it.
        if self.model:
            return
        check_positions(
            run,
            f"{name}.max_prompt_tokens + {name}.max_completion_tokens",
            self.max_prompt_tokens + self.max_completion_tokens,
            room_for="completion tokens",
            taken=self.max_prompt_tokens,
        )
        if run.model.vision is not None:
            check_tiles(run, f"{name}.tiles", self.tiles)

    def may_change(self) -> frozenset[str]:
        """The fields that a resumed stage may have with other values."""
        return self.MAY_CHANGE

    def depends_on(self, name: str, run) -> dict:
        """Other parts of `run` that decide what the stage computes, by name."""
        return verifying(name, run) | helpers.identity(name, self.reward)
