"""Checkpoints of transformers and the models that are loaded from them."""

import functools

import model_cases
import pytest
import torch_reference as reference

from r1v3_jax import hf


@pytest.fixture(scope="session")
def load_case(tmp_path_factory):
    """A checkpoint by name, see `model_cases.load_case`."""

    @functools.cache
    def load(name):
        return model_cases.load_case(name, tmp_path_factory.mktemp("checkpoint"))

    return load


@pytest.fixture(scope="session", params=model_cases.MAIN_CASES)
def case(request, load_case):
    return load_case(request.param)


@pytest.fixture(scope="session")
def model(load_case):
    return load_case("rms qwen2").ours


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text")
    reference.save_hf(reference.language_model(seed=1), directory)
    return hf.load(directory)
