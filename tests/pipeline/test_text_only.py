"""A language model alone goes through a whole run: stages, held-out questions, export."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx

from r1v3_jax import hf
from r1v3_jax.config import load
from r1v3_jax.hf.load import flatten_state
from r1v3_jax.pipeline import pipeline, preflight
from r1v3_jax.run.weights import load_weights


def in_words(source):
    """The questions of a source without their images: no answer can be known, but all else runs."""

    def example(index: int):
        shown = source(index)
        question = shown.question.replace("<image>", "").strip()
        return dataclasses.replace(shown, images=(), image_labels=(), question=question)

    return example


@pytest.fixture(scope="module")
def config():
    smoke = load.load_config("digits_smoke")
    replace = dataclasses.replace
    cold_start = smoke.stages["cold_start"]
    grpo = smoke.stages["grpo"]
    return replace(
        smoke,
        model=replace(smoke.model, vision=None, image_token_id=None),
        stages={
            "cold_start": replace(
                cold_start,
                train=in_words(cold_start.train),
                validation=in_words(cold_start.validation),
                tiles=1,
            ),
            "grpo": replace(grpo, train=in_words(grpo.train), steps=1),
        },
        evaluate=replace(
            smoke.evaluate,
            sets=(("hard", in_words(dict(smoke.evaluate.sets)["hard"])),),
            pooled=(),
            answer_prior=(),
            probe=in_words(smoke.evaluate.probe),
        ),
    )


def test_a_run_on_text_alone_ends_with_its_export(config, tmp_path):
    preflight.check(config, tmp_path)
    summary = pipeline.run(config, tmp_path, quiet=True)
    assert set(summary["accuracy"]["grpo"]) == {"hard"}
    # There are no images to take away.
    assert "blind" not in summary
    assert "blind" not in json.loads((tmp_path / "summary.json").read_text())
    trained = flatten_state(nnx.state(load_weights(tmp_path / "grpo" / "done")))
    exported = flatten_state(nnx.state(hf.load(tmp_path / "export", vocab_multiple=1)))
    assert exported.keys() == trained.keys()
    for name, array in trained.items():
        # The vocabulary's pad rows, 123 filled up to 128, are not exported.
        kept = array[: len(exported[name])]
        np.testing.assert_array_equal(exported[name], kept, err_msg=name)
