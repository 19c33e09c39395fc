"""A run is a table of stages: their order, their names, and what is refused."""

import dataclasses

import pytest

from r1v3_jax.config import GRPO, SFT, TINY, Data, Run, Video, load_config
from r1v3_jax.launch import freeze, thaw
from r1v3_jax.losses import Clipped, GroupCentred


def source(index):
    return None


def run(**changes) -> Run:
    stages = {
        "warm": SFT(source, row_tokens=16),
        "grpo": GRPO(
            source, max_prompt_tokens=16, max_completion_tokens=8, group_size=2
        ),
        "again": GRPO(source, max_prompt_tokens=16, max_completion_tokens=8, steps=7),
    }
    return Run(
        **{"name": "x", "model": TINY, "init_from": "x", "stages": stages, **changes}
    )


def test_stages_run_in_the_order_of_their_table():
    assert list(run().selected_stages()) == ["warm", "grpo", "again"]
    assert list(run(stage="grpo").selected_stages()) == ["grpo"]
    before = [run().start_of(name) for name in run().stages]
    assert before == ["", "warm", "grpo"]


def started(**starts: str) -> Run:
    """The run with other starts of its stages."""
    stages = {
        name: dataclasses.replace(stage, start=starts.get(name, ""))
        for name, stage in run().stages.items()
    }
    return run(stages=stages)


def test_a_stage_may_start_with_the_initial_weights_or_those_of_an_earlier_one():
    config = started(grpo="init", again="warm")
    assert [config.start_of(name) for name in config.stages] == ["", "", "warm"]
    # The same in words is not the same run: "" and "warm" may come to mean different stages.
    assert config.identity("again")["again.start"] == "'warm'"
    assert run().identity("again")["again.start"] == "''"


@pytest.mark.parametrize(
    "starts, message",
    [
        (
            {"again": "base"},
            "again.start is 'base', which is no stage; choose from init, warm, grpo",
        ),
        (
            {"grpo": "again"},
            "grpo.start is 'again', which does not come before it; .* init, warm,",
        ),
        ({"grpo": "grpo"}, "grpo.start is 'grpo', which does not come before it"),
        ({"warm": "grpo"}, "warm.start is 'grpo', .* choose from init, or ''"),
    ],
)
def test_a_start_that_is_not_there_yet_is_refused(starts, message):
    with pytest.raises(ValueError, match=message):
        started(**starts)


def test_a_start_is_a_flag():
    config = run()
    values = thaw(config)
    values.again.start = "warm"
    assert freeze(config, values).start_of("again") == "warm"


def test_the_order_outlives_the_flags_that_sort_their_names():
    config = run()
    values = thaw(config)
    values.again.steps = 3
    values.grpo.loss.high = 0.28
    frozen = freeze(config, values)
    assert list(frozen.stages) == ["warm", "grpo", "again"]
    assert frozen.stages["again"].steps == 3
    assert frozen.stages["grpo"].loss == Clipped(high=0.28)
    assert frozen.stages["warm"] == config.stages["warm"]


def test_a_second_stage_of_a_kind_has_an_identity_of_its_own():
    config = run()
    first, second = (config.identity(name) for name in ("grpo", "again"))
    assert first["grpo.group_size"] == "2" and second["again.group_size"] == "32"
    assert not any(key.startswith("again.") for key in first)


def test_another_algorithm_is_another_run():
    """A choice without fields is part of the identity by its name."""
    config = run()
    centred = dataclasses.replace(config.stages["grpo"], advantage=GroupCentred())
    other = config.with_stages(grpo=centred)
    assert config.identity("grpo")["grpo.advantage"] == "GroupRelative"
    assert other.identity("grpo")["grpo.advantage"] == "GroupCentred"


def test_images_that_are_converted_in_another_way_are_another_run():
    identities = []
    for conversion in ("served", "reference"):
        config = run(data=Data(image_conversion=conversion, threads=len(identities)))
        identities.append(config.identity("grpo"))
    served, reference = identities
    differing = {key for key in served if served[key] != reference[key]}
    assert differing == {"data.image_conversion"}  # how many threads read says nothing
    # Films came later: at their defaults they are in no identity, so that older states go on.
    assert not [key for key in served if "video" in key]
    other = run(data=Data(video=Video(frames=4))).identity("grpo")
    assert other["data.video.frames"] == "4"


def test_more_frames_than_a_film_may_have_are_refused():
    with pytest.raises(ValueError, match="frames is 100, and max_frames 64; wanted at"):
        Video(frames=100)
    assert Video(frames=100, max_frames=100).frames == 100
    assert Video(fps=1.0, max_frames=4).frames == 8  # not in use


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stages": {}}, "Run.stages is empty"),
        (
            {"stages": {"seed": SFT(source)}},
            "cannot be named 'seed'.*'seed_stage' would do",
        ),
        ({"stages": {"a b": SFT(source)}}, "cannot be named 'a b'.*'grpo' would do"),
        (
            {"stages": {"export": SFT(source)}},
            "cannot be named 'export'.*'export_stage' would do",
        ),
        (
            {"stages": {"init": SFT(source)}},
            "cannot be named 'init'.*value of start; 'init_stage' would do",
        ),
        ({"stages": {"grpo": 3}}, r"Run.stages\['grpo'\] is 3; it must be SFT"),
        ({"stage": "rl"}, "no stage 'rl'; choose from warm, grpo, again"),
    ],
)
def test_a_table_that_cannot_run_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_a_held_out_measurement_after_a_stage_that_is_not_there_is_refused():
    smoke = load_config("digits_smoke")
    evaluate = dataclasses.replace(smoke.evaluate, after=("gpro",))
    with pytest.raises(
        ValueError, match="Evaluate.after: no stage 'gpro'; choose from base"
    ):
        dataclasses.replace(smoke, evaluate=evaluate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregation": "token"}, r"GRPO.aggregation is 'token'.*as TokenMean\(\)"),
        ({"kl_estimator": "k1"}, r"GRPO.kl_estimator is 'k1'.*as K1\(\)"),
        ({"aggregation": "mean"}, r"GRPO.aggregation is 'mean'.*as SequenceMean\(\)"),
        ({"loss": Clipped}, r"GRPO.loss is <class.*as Clipped\(\)"),
        ({"off_policy_steps": -1}, "GRPO.off_policy_steps is -1; it must be 0 or 1"),
    ],
)
def test_an_algorithm_by_name_is_refused_with_the_object_to_write(changes, message):
    with pytest.raises(ValueError, match=message):
        GRPO(source, **changes)


OLD = """
from r1v3_jax.config import GRPO, TINY, Run
config = Run(name="x", model=TINY, init_from="x", pipeline=("grpo",), grpo=GRPO(print))
"""


def test_a_config_file_of_before_is_refused_with_what_to_write(tmp_path):
    path = tmp_path / "old.py"
    path.write_text(OLD)
    with pytest.raises(
        ValueError, match="old.py: .*'pipeline'; it is now written the order of"
    ):
        load_config(str(path))
    path.write_text(OLD.replace('pipeline=("grpo",), ', ""))
    with pytest.raises(
        ValueError, match=r"'grpo'; it is now written Run.stages=\{\"grpo\": GRPO"
    ):
        load_config(str(path))
