"""A random model that answers the questions of `rollout_cases`."""

import contextlib
import dataclasses

import numpy as np
import pytest
from rollout_cases import CONFIG, info, source
from tokenizers_for_tests import write_tiny_tokenizer

from r1v3_jax.config import TINY, Compute, Data
from r1v3_jax.models import build
from r1v3_jax.processing import chat
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rollout.sampler import GroupSampler
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.stages import grpo


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(directory)
    tokenizer = load(directory, chat=chat.ChatFormat(system=None, opening="<think>\n"))
    config = dataclasses.replace(
        TINY,
        text=dataclasses.replace(TINY.text, vocab_size=tokenizer.vocab_size),
        image_token_id=tokenizer.image_token_id,
        end_token_id=tokenizer.end_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    processor = Processor(config, tokenizer)
    sampler = GroupSampler(
        processor=processor,
        sampling=SamplingParams(max_tokens=8, banned=tokenizer.banned_token_ids),
        max_prompt_tokens=100,
        tiles=4,
        group_size=3,
    )
    return sampler, build.init(config, Compute())


@pytest.fixture
def reader(setup):
    """Makes readers of the source, from an index on."""
    with contextlib.ExitStack() as stack:

        def make(start=0):
            one = grpo.reader(CONFIG, setup[0].processor, Data(), start=start)
            return stack.enter_context(contextlib.closing(one))

        yield make


@pytest.fixture(scope="module")
def groups(setup):
    """Sampled groups with rewards as if some were right, one of them undecided."""
    sampler, model = setup
    made = sampler.groups(model, [source(i) for i in range(4)], info())
    rng, out = np.random.default_rng(0), []
    for p, group in enumerate(made):
        right = [float(x) for x in rng.integers(0, 2, 3)] if p else [1.0, 0.0, None]
        scores = [
            dataclasses.replace(s, total=r)
            for s, r in zip(group.scores, right, strict=True)
        ]
        out.append(dataclasses.replace(group, scores=scores))
    return out


@pytest.fixture(scope="module")
def spread(setup):
    """A sampler with five tokens, one of them the end, and so with samples of all lengths."""
    sampler, _ = setup
    tokenizer = sampler.processor.tokenizer
    allowed = {tokenizer.end_token_id, *tokenizer.encode_text("what")}
    banned = tuple(i for i in range(tokenizer.vocab_size) if i not in allowed)
    return dataclasses.replace(
        sampler, sampling=SamplingParams(max_tokens=8, banned=banned)
    )
