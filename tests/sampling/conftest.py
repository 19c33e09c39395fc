"""A random checkpoint of transformers, our model of it, and its completions."""

from types import SimpleNamespace

import pytest
import sampling_cases
import torch_reference as reference

from r1v3_jax import hf


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    theirs = reference.internvl(reference.text_config(), reference.rms_vision(), seed=2)
    directory = tmp_path_factory.mktemp("checkpoint")
    reference.save_hf(theirs, directory)
    ours = hf.load(directory)
    images = sampling_cases.encode_images(ours)
    return SimpleNamespace(theirs=theirs, model=ours, images=images)


@pytest.fixture(scope="session")
def sample(checkpoint):
    """Completions of prompts by number: sample(0, 1, key=3, max_tokens=12)."""

    def run(*numbers, model=None, **settings):
        model = model or checkpoint.model
        return sampling_cases.on_one_device(
            model, checkpoint.images, *numbers, **settings
        )

    return run
