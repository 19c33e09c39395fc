"""A frozen model looks at films, and a stage of GRPO reads its words in their place."""

import dataclasses
import json

import pytest

from r1v3_jax.config import Collect, load_config
from r1v3_jax.data import Made
from r1v3_jax.data.reworded import Reworded, described, words_alone
from r1v3_jax.distill.keeps import Said
from r1v3_jax.pipeline import pipeline, preflight
from r1v3_jax.tasks import films
from r1v3_jax.types import DroppedRow, Example

FILMS = films.Films(seed=2).mix()


def test_words_in_place_of_frames_written_out():
    question = "Frame1: <image>\nFrame2: <image>\n<image>\nWhich way, Frame1: or 2?"
    example = Example(
        id="7",
        images=(1, 2, 3),
        question=question,
        answer="A",
        before=(("user", "<video>\nLook."),),
        metadata={"said": "it turns</think>\nA lamp, then a door.\n"},
    )
    words = described("Seen:")(example)
    assert words.question == "Seen:\nA lamp, then a door.\n\nWhich way, Frame1: or 2?"
    assert words.images == () and words.before == (("user", "Look."),)
    assert words.id == "7" and words.answer == "A"
    with pytest.raises(DroppedRow, match="nothing was said of its images: 'hm</think>"):
        described()(dataclasses.replace(example, metadata={"said": "hm</think> \n"}))
    with pytest.raises(ValueError, match=r"no metadata\['said'\] .*wanted the rows of"):
        described()(dataclasses.replace(example, metadata={}))


def test_nothing_of_a_drawn_film_is_left_but_its_question():
    example = films.Films().example(0, "next")
    assert "Now: <image>" in example.question
    assert words_alone(example).question.startswith("Which digit comes next?\n(A) ")


@pytest.fixture(scope="module")
def config():
    full = load_config("films")
    perceived = Collect(
        FILMS,
        Said(),
        questions=6,
        samples=1,
        prompts=3,
        tiles=27,
        max_prompt_tokens=96,
        max_completion_tokens=6,
        temperature=1.0,  # the likeliest word of random weights is none
    )
    grpo = dataclasses.replace(
        full.stages["grpo"],
        train=Reworded(Made("perceived", FILMS), described("")),
        steps=2,
        prompts=3,
        group_size=2,
        tiles=1,
        max_completion_tokens=6,
        rollouts_every=1,
    )
    evaluate = dataclasses.replace(full.evaluate, sets=(), pooled=(), after=())
    return dataclasses.replace(
        full, stages={"perceived": perceived, "grpo": grpo}, evaluate=evaluate
    )


def test_each_film_is_seen_once_and_its_words_are_part_of_the_run(config, tmp_path):
    preflight.check(config, tmp_path)
    pipeline.run(config, tmp_path, quiet=True)
    lines = (tmp_path / "perceived/rows/rows.jsonl").read_text().splitlines()
    said = {row["id"]: row["said"] for row in map(json.loads, lines)}
    assert len(said) == 6
    rows = [
        json.loads(line)
        for path in sorted((tmp_path / "rollouts").glob("grpo_*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert {row["id"] for row in rows} == {*said}  # each of the six, once a pass
    questions = {FILMS(i).id: words_alone(FILMS(i)).question for i in range(6)}
    for row in rows:
        seen = said[row["id"]].rpartition("</think>")[2].strip()
        assert seen and row["prompt"] == f"{seen}\n\n{questions[row['id']]}"
        assert row["images"] == [] and "<image>" not in row["prompt"]

    # Other words are another run: what was sealed is not changed by hand.
    path = tmp_path / "perceived/rows/rows.jsonl"
    path.write_text(path.read_text().replace('"right": false', '"right": true'))
    with pytest.raises(ValueError, match=r"rows.jsonl"):
        preflight.check(config, tmp_path)
