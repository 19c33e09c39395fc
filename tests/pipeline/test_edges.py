"""Stages that read what others make: what is refused before a device is touched."""

import dataclasses

import pytest

from r1v3_jax.config import (
    GRPO,
    SFT,
    TINY,
    After,
    Chosen,
    Collect,
    Evaluate,
    Optimizer,
    Preference,
    Run,
    load_config,
)
from r1v3_jax.data import Curriculum, Made, Phase, Rows
from r1v3_jax.distill.keeps import Best, Pairs, Shortest
from r1v3_jax.fields import algorithm_fields
from r1v3_jax.pipeline.edges import check_edges
from r1v3_jax.pipeline.preflight import check_answering, check_rows
from r1v3_jax.rewards.helpers import Likely
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import correct, equations_hold
from r1v3_jax.stages.kinds import kind_of

replace = dataclasses.replace
LENGTHS = {"max_prompt_tokens": 16, "max_completion_tokens": 8}


def source(index):
    return None


SMALL = SFT(source, row_tokens=16)
ASKED = Collect(source, Shortest(), **LENGTHS)
PAIRS = replace(ASKED, keep=Pairs())
LEARNT = Preference(Made("pairs", source), max_prompt_tokens=16, max_answer_tokens=8)


def run(evaluate=None, **stages) -> Run:
    return Run(
        "x", TINY, stages, init_from="x", evaluate=evaluate or Evaluate(after=())
    )


def test_a_row_of_stages():
    """Rounds are a loop; a stage behind a collection has the weights that it asked."""
    stages = {"warm": SMALL}
    for k in (1, 2):
        stages[f"asked{k}"] = ASKED
        chains = Made(f"asked{k}", source)
        stages[f"sft{k}"] = replace(SMALL, train=chains, start="init")
        stages[f"grpo{k}"] = GRPO(source, **LENGTHS)
    config = run(**stages, pairs=PAIRS, last=LEARNT)
    check_edges(config)
    starts = {name: config.start_of(name) for name in config.stages}
    assert starts == {
        "warm": "",
        "asked1": "warm",
        "sft1": "",
        "grpo1": "sft1",
        "asked2": "grpo1",
        "sft2": "",
        "grpo2": "sft2",
        "pairs": "grpo2",
        "last": "grpo2",
    }
    assert config.weights_of("pairs") == "grpo2"
    assert config.weights_of("last") == "last"
    first = run(pairs=PAIRS, last=LEARNT)
    assert first.weights_of("pairs") == first.start_of("last") == ""


@pytest.mark.parametrize(
    "stages, message",
    [
        (
            {"last": LEARNT, "pairs": PAIRS},
            r"last reads Made\('pairs'\), which does not come before it; choose from none: "
            r"add a stage Collect\(...\)",
        ),
        (
            {"asked": ASKED, "last": LEARNT},
            r"last reads Made\('pairs'\), which is no stage; choose from asked",
        ),
        (
            {"pairs": SMALL, "last": LEARNT},
            r"last reads Made\('pairs'\), which collects nothing",
        ),
        (
            {"pairs": ASKED, "last": LEARNT},
            r"whose keep, Shortest, makes chains; it can use pairs: .* takes Pairs\(\)",
        ),
        (
            {"pairs": PAIRS, "sft": replace(SMALL, train=Made("pairs", source))},
            r"whose keep, Pairs, makes pairs; it can use chains, rates, said",
        ),
    ],
)
def test_rows_that_are_not_made_in_time_or_are_others(stages, message):
    with pytest.raises(ValueError, match=message):
        check_edges(run(**stages))


def test_a_set_is_asked_once_its_rows_are_made():
    sets = (("both", Made("asked", source)),)
    stages = {"sft": SMALL, "asked": ASKED}
    check_edges(run(Evaluate(after=(After("asked", sets, of="sft"),)), **stages))
    with pytest.raises(ValueError, match="set 'both', asked after sft, reads Made"):
        check_edges(run(Evaluate(after=(After("sft", sets),)), **stages))


def test_a_probe_is_asked_once_its_rows_are_made():
    grpo = GRPO(source, evaluate_every=1, **LENGTHS)
    evaluate = Evaluate(after=(), probe=Made("asked", source))
    check_edges(run(evaluate, asked=ASKED, grpo=grpo))
    with pytest.raises(
        ValueError,
        match="evaluate.probe, asked by grpo, reads Made.'asked'.* come before",
    ):
        check_edges(run(evaluate, grpo=grpo, asked=ASKED))


def test_what_a_stage_alone_is_measured_with_is_there_before_it_begins(tmp_path):
    """Its sets, and the weights that are asked: not found out when the stage is done."""
    sets = (("both", Made("asked", source)),)
    evaluate = Evaluate(after=(After("last", sets, of="sft"),))
    config = run(evaluate, sft=SMALL, asked=ASKED, last=SMALL)
    alone = replace(config, stage="last")
    with pytest.raises(FileNotFoundError, match="rows of stage 'asked', which are not"):
        check_rows(alone, "last", tmp_path)
    with pytest.raises(
        FileNotFoundError, match="asks 'sft' when last is done, and there"
    ):
        check_answering(alone, tmp_path)
    check_rows(config, "last", tmp_path)
    check_answering(config, tmp_path)
    (tmp_path / "sft" / "done").mkdir(parents=True)
    check_answering(alone, tmp_path)


def test_what_does_not_wait_for_rows_is_looked_at_at_once():
    """Not behind the stage that makes them: a reference, a model, other questions."""
    # Without rows it has no end yet, which a curriculum asks for.
    waiting = Curriculum(Made("asked", source), (Phase(),))
    grpo = GRPO(waiting, reference="nowhere", kl_coef=0.001, **LENGTHS)
    config = run(asked=ASKED, grpo=grpo)
    with pytest.raises(FileNotFoundError, match="GRPO.reference: nowhere: no such dir"):
        kind_of(grpo).check(config, grpo)
    asks = replace(ASKED, source=waiting, model="nowhere")
    with pytest.raises(FileNotFoundError, match="Collect.model: nowhere: no such dir"):
        kind_of(asks).check(config, asks)
    kind_of(ASKED).check(config, replace(ASKED, source=waiting))
    learns = replace(SMALL, train=waiting, validation=Rows("nowhere.jsonl"))
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl"):
        kind_of(learns).check(config, learns)


def test_sets_of_a_single_measurement_count_as_the_others():
    """They are looked at with the data of the stages, and must fit the mesh."""
    evaluate = Evaluate(
        sets=(("one", source),), after=(After("sft", (("two", len),)), "asked")
    )
    assert evaluate.sources == (source, len)
    with pytest.raises(ValueError, match="evaluate.batch = 7 does not split over data"):
        measured = Evaluate(after=(After("sft", (("two", source),)),), batch=7)
        replace(run(sft=replace(SMALL, rows=2)), evaluate=measured, mesh=(2, 1, 1))


@pytest.mark.parametrize(
    "after, message",
    [
        (
            (After("sft", of="asked"),),
            "`of` is 'asked', which has no weights when sft is",
        ),
        ((After("asked", of="later"),), "of` is 'later', .* choose from sft"),
        (("sft", After("sft")), "Evaluate.after names 'sft' twice"),
        ((After("sft", (("x", "y"),)),), r"Evaluate.after 'sft' 'x': 'y' is no source"),
    ],
)
def test_measurements_that_cannot_be(after, message):
    with pytest.raises(ValueError, match=message):
        run(Evaluate(after=after), sft=SMALL, asked=ASKED, later=SMALL)


COSINE = Optimizer(schedule="cosine")


@pytest.mark.parametrize(
    "first, second, message",
    [
        (SMALL, {"carry": "none"}, "carry is 'none', which is no SFT stage before it"),
        (
            SMALL,
            {"trainable": "llm"},
            "their `trainable` or `optimizer` differ .'all', .* give both stages the same",
        ),
        (SMALL, {"optimizer": Optimizer(lr=1.0)}, "their `trainable` or `optimizer`"),
        (
            replace(SMALL, optimizer=COSINE),
            {"optimizer": COSINE},
            "goes on in the cosine of first, which ends with that stage; set optimizer.sched",
        ),
        (
            GRPO(source, **LENGTHS),
            {},
            "carry is 'first', which is no SFT stage before it",
        ),
    ],
)
def test_an_optimizer_that_cannot_go_on(first, second, message):
    second = replace(SMALL, **{"carry": "first", **second})
    with pytest.raises(ValueError, match=message):
        run(first=first, second=second)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"keep": "shortest"},
            r"Collect.keep is 'shortest'; .* as Shortest\(\) or Pairs",
        ),
        ({"keep": len}, "must be an object of distill.keeps"),
        ({"slots": 1000}, "slots is 1000; it must be at most prompts x samples = 128"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be at least 0"),
        (
            {"keep": Best(equations_hold)},
            "ranks by 'equations_hold', which is no term of Collect.reward .correct, well",
        ),
        (
            {"reward": Reward(((1.0, correct), (0.5, Likely())))},
            "Collect.reward has 'likely', which reads the reference of a stage that learns",
        ),
        (
            {"temperature": Chosen((0.5, 1.0), source)},
            r"by what a scorer likes best; set keep = Best\(TERM\)",
        ),
    ],
)
def test_a_collection_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(ASKED, **changes)


def test_choices_of_a_temperature():
    with pytest.raises(ValueError, match="wanted temperatures above 0, as"):
        Chosen((0.0, 1.0), source)
    scored = Reward(((1.0, correct), (0.0, equations_hold)))
    choice = Chosen((0.5, 1.0), source)
    best = replace(ASKED, keep=Best(equations_hold), reward=scored, temperature=choice)
    assert best.temperatures == (0.5, 1.0)
    # A number is a flag; which numbers there are to choose from is said in a file.
    assert algorithm_fields(ASKED) == ("keep",)
    assert algorithm_fields(best) == ("keep", "temperature")


def test_fields_that_came_later_change_no_identity_of_before():
    """A state that was saved without them is of the same run."""
    fields = run(sft=SMALL).identity("sft")
    assert not [name for name in fields if "carry" in name or "schedule_steps" in name]
    carried = run(warm=SMALL, sft=replace(SMALL, carry="warm"))
    assert carried.identity("sft")["sft.carry"] == "'warm'"


def test_two_stages_of_one_name(tmp_path):
    """Python would keep the second one, without a word."""
    path = tmp_path / "twice.py"
    path.write_text(
        "from r1v3_jax.config import load_config\n"
        "stages = load_config('digits').stages\n"
        "table = {\n    'grpo': stages['grpo'],\n    'grpo': stages['base'],\n}\n"
    )
    with pytest.raises(ValueError) as error:
        load_config(str(path))
    assert str(error.value) == (
        f"{path}, line 5: 'grpo' stands twice in one table; give the second one another name, as "
        "'grpo_2'"
    )
