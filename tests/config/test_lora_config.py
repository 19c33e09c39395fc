"""What is refused about low-rank adapters, in one sentence that says what would do."""

import dataclasses

import pytest

from r1v3_jax.config import GRPO, SFT, LoRA, Optimizer, Run, load_config
from r1v3_jax.config.lora import adapted_parts
from r1v3_jax.launch import freeze, thaw


@pytest.fixture(scope="module")
def config() -> Run:
    return load_config("digits_smoke")


def with_grpo(config: Run, **changes) -> Run:
    return config.with_stages(
        grpo=dataclasses.replace(config.stages["grpo"], **changes)
    )


def test_no_rank_is_no_adapter():
    with pytest.raises(
        ValueError,
        match="LoRA.rank is 0; it must be at least 1: lora = None trains whole matrices",
    ):
        LoRA(rank=0)
    with pytest.raises(ValueError, match="LoRA.alpha is 0; it must be positive"):
        LoRA(alpha=0)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"lora": LoRA(rank=4096)},
            r"grpo.lora.rank = 4096 is larger than the smallest matrix of llm, one side of "
            r"which is \d+; 16 would do",
        ),
        (
            {"lora": LoRA(rank=4), "trainable": "connector"},
            "grpo.trainable is 'connector', which learns whole; lora = None would do",
        ),
        (
            {"lora": LoRA(rank=4), "reference_decay": 0.9, "kl_coef": 0.1},
            "the mean of two products A B is not the product of the means",
        ),
    ],
)
def test_adapters_that_cannot_be(config, changes, message):
    with pytest.raises(ValueError, match=message):
        with_grpo(config, **changes)


def test_a_typo_in_a_part_is_refused_with_the_config(config):
    for name in ("cold_start", "grpo"):
        stage = dataclasses.replace(config.stages[name], trainable="lmm+connector")
        with pytest.raises(
            ValueError,
            match=f"{name}.trainable 'lmm.connector': no part 'lmm'; name all",
        ):
            config.with_stages(**{name: stage})


def test_a_connector_does_not_learn_in_bfloat16(config):
    adapted = with_grpo(config, lora=LoRA(rank=4), trainable="llm+connector")
    half = dataclasses.replace(config.compute, param_dtype="bfloat16")
    with pytest.raises(
        ValueError,
        match="'bfloat16' rounds away; trainable = 'llm' would do, or 'float32",
    ):
        dataclasses.replace(adapted, compute=half)


def test_a_model_without_a_tower_has_none_to_adapt(config):
    text = dataclasses.replace(config.model, vision=None, image_token_id=None)
    stages = {"grpo": config.stages["grpo"]}
    alone = dataclasses.replace(config, model=text, stages=stages)
    for lora in (LoRA(rank=4), None):
        with pytest.raises(
            ValueError, match="grpo.trainable is 'vision', and the model is a language"
        ):
            with_grpo(alone, lora=lora, trainable="vision")


def test_moments_cannot_be_carried_into_adapters(config):
    first = dataclasses.replace(config.stages["cold_start"], lora=LoRA(rank=4))
    second = dataclasses.replace(first, carry="first")
    with pytest.raises(
        ValueError, match="second.carry goes on with the moments of first, and adapters"
    ):
        dataclasses.replace(config, stages={"first": first, "second": second})


def test_which_parts_are_adapted():
    assert adapted_parts("all") == ("llm", "vision")
    assert adapted_parts("llm+connector") == ("llm",)
    assert adapted_parts("connector") == ()


def test_a_run_of_before_has_the_same_identity(config):
    """The field came later: at its default it is in no identity."""
    assert not any("lora" in key for key in config.identity("grpo"))
    with_lora = with_grpo(config, lora=LoRA(rank=4), trainable="llm")
    assert with_lora.identity("grpo")["grpo.lora.rank"] == "4"


def test_the_rank_is_a_flag(config):
    adapted = with_grpo(config, lora=LoRA(rank=4), trainable="llm")
    values = thaw(adapted)
    values.grpo.lora.rank = 8
    assert freeze(adapted, values).stages["grpo"].lora == LoRA(rank=8)


def test_every_kind_that_learns_takes_them():
    for kind in (SFT, GRPO):
        stage = kind(train=str, lora=LoRA(rank=8), optimizer=Optimizer())
        assert stage.lora.rank == 8
