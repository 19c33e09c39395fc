"""Prompts with a tile each and samples of uneven lengths, as a rollout hands them to an update."""

import functools

import numpy as np

from r1v3_jax.config import GRPO, TINY
from r1v3_jax.processing.processor import Encoded, Tiles
from r1v3_jax.rewards import score
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group
from r1v3_jax.sampling.state import Completions
from r1v3_jax.types import Example

P, G, S, C = 4, 6, 16, 8
CONFIG = GRPO(
    train=lambda index: None,
    prompts=P,
    group_size=G,
    max_prompt_tokens=S,
    max_completion_tokens=C,
    tiles=8,
    temperature=0.8,
)


class Processor:  # what `policy_batch` asks of one
    config = TINY

    class tokenizer:
        pad_token_id = TINY.pad_token_id


def make_groups() -> list[Group]:
    """Prompts of 8 to 16 tokens with one tile each, samples of 1 to 8 tokens, one undecided."""
    rng, out = np.random.default_rng(0), []
    for p in range(P):
        ids = rng.integers(10, 331, rng.integers(8, S + 1)).astype(np.int32)
        ids[2:6] = TINY.image_token_id
        pixels = rng.normal(size=(1, 28, 28, 3)).astype(np.float32)
        tiles = Tiles([1], 28, functools.partial(np.copyto, src=pixels))
        prompt = Encoded(ids, ids, np.zeros(len(ids), bool), tiles)
        completions = Completions(
            tokens=rng.integers(10, 331, (G, C)).astype(np.int32),
            logprobs=rng.normal(-2, 0.1, (G, C)).astype(np.float32),
            entropies=np.zeros((G, C), np.float32),
            chosen=rng.random((G, C)) < 0.9,
            lengths=rng.integers(1, C + 1, G).astype(np.int32),
            ended=np.ones(G, bool),
        )
        totals = [None if (p, g) == (1, 2) else float(rng.normal()) for g in range(G)]
        verdict = Verdict.WRONG
        scores = [score.Score(total, total, 0.0, verdict, None, "") for total in totals]
        out.append(
            Group(Example(str(p), (), "", ""), prompt, completions, [""] * G, scores)
        )
    return out
