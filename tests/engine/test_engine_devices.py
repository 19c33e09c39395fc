"""Several devices, and two processes that work in step, answer as one device does."""

import json
import socket
import subprocess
import sys

import commands
import engine_cases
import jax
import numpy as np
import pytest
from engine_process import answers
from random_models import random_model

from r1v3_jax.engine.checkpoints import open_checkpoint
from r1v3_jax.engine.engine import Engine
from r1v3_jax.engine.sizes import EngineSettings, sizes_of
from r1v3_jax.run import weights
from r1v3_jax.sharding import make_mesh

SETTINGS = EngineSettings(slots=4, max_prompt_tokens=160, max_tokens=32)


@pytest.fixture(scope="module")
def checkpoint(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    tokenizer = source.tokenizer.hf.name_or_path
    model = random_model(engine_cases.CONFIG, source.compute)
    weights.save_weights(directory / "done", model, tokenizer=tokenizer)
    return str(directory / "done")


def answers_on(mesh, checkpoint) -> list:
    engine = None
    with jax.set_mesh(make_mesh(mesh)):
        engine = Engine(open_checkpoint(checkpoint), SETTINGS)
    engine.start()
    engine.wait_until_ready()
    said = answers(engine)
    engine.stop()
    assert engine.failed is None
    return said


@pytest.fixture(scope="module")
def alone(checkpoint):
    """The answers of one device."""
    return answers_on((1, 1, 1), checkpoint)


@pytest.mark.parametrize("mesh", [(2, 1, 2), (1, 2, 2)])
def test_a_mesh_answers_as_one_device(checkpoint, alone, mesh):
    """Token for token; sums over devices are rounded in another order."""
    check_same(answers_on(mesh, checkpoint), alone)


def check_same(ours: list, expected: list) -> None:
    for [(ids, logprobs, text)], [wanted] in zip(ours, expected, strict=True):
        assert (ids, text) == (wanted[0], wanted[2])
        np.testing.assert_allclose(logprobs, wanted[1], rtol=0, atol=1e-4)


def test_two_processes_answer_as_one(checkpoint, alone):
    """Two processes of two devices each, on a mesh that splits slots and heads over both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = commands.HELPERS / "engine_process.py"
    environment = commands.environment(2)
    path = f"{environment['PYTHONPATH']}:{commands.HELPERS}"
    processes = [
        subprocess.Popen(
            [sys.executable, program, checkpoint, "2,1,2", address, "2", str(number)],
            env=environment | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    check_same(json.loads(outputs[0][0].splitlines()[-1]), alone)


def test_slots_that_do_not_divide_are_refused(source):
    mesh = make_mesh((4, 1, 1))
    settings = EngineSettings(slots=6, max_prompt_tokens=128, max_tokens=32)
    with pytest.raises(ValueError, match="6 slots .* 4 groups of devices; 8 can"):
        sizes_of(source.config, source.compute, settings, mesh)
