"""Which programs a dry run compiles; nothing is compiled here."""

from dataclasses import replace

import jax

from r1v3_jax.config import After, load_config
from r1v3_jax.sharding import make_mesh
from r1v3_jax.tpu.dry_run import programs_by_name


def test_sets_of_one_stage_alone_need_the_programs_of_the_evaluation():
    smoke = load_config("digits_smoke")
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    asked = programs_by_name(smoke, mesh, ())
    assert "evaluate/decode" in asked

    after = (After("grpo", sets=smoke.evaluate.sets),)
    alone = replace(smoke.evaluate, sets=(), pooled=(), answer_prior=(), after=after)
    assert list(programs_by_name(replace(smoke, evaluate=alone), mesh, ())) == list(
        asked
    )

    nothing = replace(alone, after=())
    without = programs_by_name(replace(smoke, evaluate=nothing), mesh, ())
    assert "evaluate/decode" not in without
