"""Thinking modes: how a model is asked to think over questions, of a run's sets or a benchmark.

slow        as the template has it
no_think    the template without <think>, the report's NoThink (section 6.2)
prefilled   <think>, and its end already written: the thoughts are there, and empty
no_wait     critical words are never sampled, the report's NoWait
"""

import dataclasses
from typing import Literal

from r1v3_jax.evaluate.critical_tokens import critical_sequences
from r1v3_jax.processing.tokenizer import Tokenizer

Thinking = Literal["slow", "no_think", "prefilled", "no_wait"]

# An answer that begins with this has no thoughts.
NO_THINKING = "\n</think>\n\n"


@dataclasses.dataclass(frozen=True)
class Asking:
    """What a mode makes of a tokenizer, of the prompt and of sampling."""

    tokenizer: Tokenizer
    prefill: str  # what the answer begins with
    thinks_first: bool  # whether an answer counts only behind </think>
    banned: tuple[int, ...]  # tokens, for `SamplingParams`
    banned_sequences: tuple[tuple[int, ...], ...]


def asking(tokenizer: Tokenizer, thinking: Thinking, words: tuple[str, ...]) -> Asking:
    """Returns how to ask in a mode. words: those that no_wait bans.

    A word of several tokens is kept from being completed in the tokens into which the tokenizer
    cuts it.
    """
    if thinking == "no_think":
        chat = dataclasses.replace(tokenizer.chat, opening="")
        tokenizer = dataclasses.replace(tokenizer, chat=chat)
    sequences = critical_sequences(tokenizer, words) if thinking == "no_wait" else []
    single = tuple(ids[0] for ids in sequences if len(ids) == 1)
    return Asking(
        tokenizer=tokenizer,
        prefill=NO_THINKING if thinking == "prefilled" else "",
        thinks_first="<think>" in tokenizer.chat.opening and thinking != "prefilled",
        banned=tokenizer.banned_token_ids + single,
        banned_sequences=tuple(ids for ids in sequences if len(ids) > 1),
    )
