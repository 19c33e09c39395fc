"""One engine for each file: compiling it takes longer than all its answers."""

import engine_cases
import pytest

from r1v3_jax.engine.engine import Engine
from r1v3_jax.engine.sizes import EngineSettings


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return engine_cases.source(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def engine(source):
    """An engine with two buckets of prompts: 128 and 200 tokens."""
    settings = EngineSettings(
        slots=8, max_prompt_tokens=200, max_tokens=300, queue=2000
    )
    engine = Engine(source, settings)
    engine.start()
    engine.wait_until_ready()
    yield engine
    engine.stop()
    assert engine.failed is None
