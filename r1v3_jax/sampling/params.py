"""How tokens are chosen: temperature, cuts, bans and thinking budget.

`SamplingParams` are those of a whole rollout, checked before sampling, and a part of its program.
`RowParams` has them for each sample, as arrays that change without a compilation.
"""

import dataclasses

import jax

from r1v3_jax.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How a token is chosen. A compiled program is made for each value of these."""

    max_tokens: int  # of a completion, the end token counted
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # only the k most probable tokens; 0 keeps every token
    top_p: float = (
        1.0  # only the fewest tokens that reach this probability; 1 keeps every token
    )
    # Over the completion's own tokens, as transformers sees them (not the prompt's). 1 is off.
    repetition_penalty: float = 1.0
    # Never sampled. Images: `Tokenizer.banned_token_ids`. NoWait: with the first tokens of critical
    # words.
    banned: tuple[int, ...] = ()
    # Sequences of two or more tokens of which the last is not sampled behind the others.
    banned_sequences: tuple[tuple[int, ...], ...] = ()
    # A thinking budget: a sample that has not produced `think_end` within this many tokens is made
    # to. 0: no limit.
    thinking_tokens: int = 0
    # For each token of "</think>" the ids it may have, `Tokenizer.closing`; the first are forced.
    # ((7, 17), (8,)): 7 8 and 17 8 close the thinking, and 7 8 is written where it is forced.
    think_end: tuple[tuple[int, ...], ...] = ()

    @property
    def measured_at(self) -> float:
        """The temperature at which log-probabilities and entropies are measured."""
        return self.temperature or 1.0

    def __post_init__(self):
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens {self.max_tokens} must be at least 1")
        if self.temperature < 0:
            raise ValueError(
                f"temperature {self.temperature} must not be negative; 0 is greedy"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(
                f"top_p {self.top_p} must lie in (0, 1]; 1 keeps every token"
            )
        if self.top_k < 0:
            raise ValueError(
                f"top_k {self.top_k} must not be negative; 0 keeps every token"
            )
        if self.repetition_penalty <= 0:
            raise ValueError(
                f"repetition_penalty {self.repetition_penalty} must be positive; 1 is off"
            )
        if any(len(sequence) < 2 for sequence in self.banned_sequences):
            raise ValueError(
                f"banned_sequences {self.banned_sequences} must have two or more tokens each; "
                "single tokens belong into banned"
            )
        if self.thinking_tokens and not self.think_end:
            raise ValueError(
                "thinking_tokens needs think_end, the ids that close the thinking"
            )

    def check(self, config: ModelConfig, prompt_tokens: int) -> None:
        """Raises ValueError if a model cannot continue prompts of `prompt_tokens` with these."""
        room = config.text.max_positions
        if prompt_tokens + self.max_tokens > room:
            raise ValueError(
                f"prompts of {prompt_tokens} tokens and completions of {self.max_tokens} exceed "
                f"the model's {room} positions; lower one of them"
            )
        self._check_ids("banned", self.banned, config)
        self._check_ids("banned_sequences", sum(self.banned_sequences, ()), config)
        self._check_ids("think_end", sum(self.think_end, ()), config)

    def _check_ids(
        self,
        name: str,
        ids: tuple[int, ...],
        config: ModelConfig,
    ) -> None:
        vocab = config.text.vocab_size
        outside = [i for i in ids if not 0 <= i < vocab]
        if outside:
            raise ValueError(
                f"{name}: token {outside[0]} is outside the vocabulary of {vocab}; "
                "this tokenizer is not this model's"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowParams:
    """How a token is chosen in each of B samples. What its compiled program has: `static` fields.

    The meaning of a field is that of `SamplingParams`. Sequences of up to L tokens stand at the end
    of a row, behind -1: with L 4, the sequence 5 6 is [-1 -1 5 6], the token 9 [-1 -1 -1 9], and no
    sequence [-1 -1 -1 -1].
    """

    temperature: jax.Array  # float32[B]
    top_k: jax.Array  # int32[B]
    top_p: jax.Array  # float32[B]
    repetition_penalty: jax.Array  # float32[B]
    thinking_tokens: jax.Array  # int32[B]; without a limit the largest number there is
    banned_sequences: jax.Array  # int32[B, W, L]
    banned: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    think_end: tuple[tuple[int, ...], ...] = dataclasses.field(
        metadata={"static": True}
    )

    @property
    def measured_at(self) -> float:
        """1: rows of several temperatures are measured as the model itself has them."""
        return 1.0
