"""Tokenizers of the tests of this folder, written once a session."""

import pytest
from tokenizers_for_tests import write_qwen_tokenizer, write_tiny_tokenizer

from r1v3_jax.processing.tokenizer import load


@pytest.fixture(scope="session")
def qwen_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("qwen")
    assert write_qwen_tokenizer(directory) == 151674
    return directory


@pytest.fixture(scope="session")
def qwen(qwen_directory):
    return load(qwen_directory)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    assert write_tiny_tokenizer(directory) == 277
    return directory
