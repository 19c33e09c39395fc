"""A temperature that moves with the run: one program, and the same on both sides."""

import dataclasses

import jax
import numpy as np
import pytest
from rollout_cases import CONFIG, info, source

from r1v3_jax.data import placement
from r1v3_jax.losses.schedules import Line
from r1v3_jax.models.build import for_decoding
from r1v3_jax.sampling.loop import decode
from r1v3_jax.sharding import TRAIN
from r1v3_jax.train.policy_batch import policy_batch
from r1v3_jax.train.policy_gradient import score

EXAMPLES = [source(i) for i in range(4)]


def at(sampler, model, temperature):
    """Groups sampled with the temperature as an array of the compiled program."""
    step = dataclasses.replace(info(3), temperature=temperature)
    return sampler.groups(for_decoding(model), EXAMPLES, step)


def test_a_temperature_given_as_an_array_samples_as_one_compiled_in(setup):
    """Four steps compile once; each is what a program of that temperature samples."""
    sampler, model = setup
    temperatures = (1.0, 0.7, 0.25, 3.0)
    before = decode._cache_size()
    moving = [at(sampler, model, temperature) for temperature in temperatures]
    assert decode._cache_size() == before + 1
    for temperature, groups in zip(temperatures, moving, strict=True):
        sampling = dataclasses.replace(sampler.sampling, temperature=temperature)
        still = dataclasses.replace(sampler, sampling=sampling)
        expected = still.groups(for_decoding(model), EXAMPLES, info(3))
        for ours, theirs in zip(groups, expected, strict=True):
            mine, wanted = ours.completions, theirs.completions
            np.testing.assert_array_equal(mine.tokens, wanted.tokens)
            # A division by a constant, and by an array: float32 rounding.
            np.testing.assert_allclose(mine.logprobs, wanted.logprobs, atol=1e-5)
            np.testing.assert_allclose(mine.entropies, wanted.entropies, atol=1e-5)
    # Hotter samples are less sure: each temperature reached the device.
    entropies = [
        np.mean([group.completions.entropies[:, 0].mean() for group in groups])
        for groups in moving
    ]
    assert entropies[2] < entropies[1] < entropies[0] < entropies[3]


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_the_trainer_scores_at_the_temperature_of_the_step(setup, progress):
    """Each sampled log-probability, recomputed on its row: the same; at the start's, another."""
    sampler, model = setup
    config = dataclasses.replace(CONFIG, temperature=Line(2.0, 0.4))
    groups = at(sampler, model, config.temperature(progress))
    batch = policy_batch(groups, config, sampler.processor, progress=progress)
    assert batch.numbers == {"temperature": np.float32(2.0 - 1.6 * progress)}
    batch = placement.place(batch, TRAIN, jax.sharding.get_mesh())
    sampled = np.asarray(batch.rows.sampler_logprobs)
    scored = np.asarray(score(model, batch, config.temperature))
    is_sampled = sampled != 0
    np.testing.assert_allclose(
        scored[is_sampled], sampled[is_sampled], atol=1e-4
    )  # float32
    other = dataclasses.replace(batch, numbers={"temperature": np.float32(0.9)})
    off = np.asarray(score(model, other, config.temperature))
    assert np.abs(off[is_sampled] - sampled[is_sampled]).max() > 0.01
