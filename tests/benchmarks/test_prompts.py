"""Prompts hold everything of a row, and images stand where they belong."""

import pytest

from r1v3_jax.benchmarks import kit_prompts, prompts, table
from r1v3_jax.benchmarks.question import Question


def test_a_choice_has_hint_question_and_options():
    question = Question(
        "0", "Which?", "B", options={"A": "cat", "B": "dog"}, fields={"hint": "Pets."}
    )
    assert prompts.choice(question) == (
        "Pets.\nWhich?\nA. cat\nB. dog\n"
        "Answer with the letter of the correct option inside \\boxed{}."
    )


def test_a_plain_prompt_is_the_question_and_its_options():
    question = Question("0", "Which?", "B", options={"A": "cat", "B": "dog"})
    assert prompts.plain(question) == "Which?\nA. cat\nB. dog"
    assert prompts.plain(Question("0", "How many?", "3")) == "How many?"


def test_seephys_may_have_no_text_and_says_how_exact():
    question = Question("0", "", "3.0", fields={"sig_figs": "2.0"})
    text = prompts.physics(question)
    assert "in the image" in text and "Give 2 significant figures." in text


def test_no_prompt_loses_the_question_or_an_option():
    question = Question("0", "Wherefore 7?", "B", options={"A": "cat", "B": "dog"})
    for row in table.TABLE:
        text = row.prompt(question)
        assert "Wherefore 7?" in text, row.name
        assert r"\boxed{}" in text, row.name


@pytest.mark.parametrize(
    ("text", "count", "front", "interleaved"),
    [
        ("Look.", 0, ("Look.",), ("Look.",)),
        ("Look.", 2, (0, 1, "Look."), (0, 1, "Look.")),
        ("Is <image 2> <image_1>?", 2, (1, 0, "Is \n \n?"), ("Is ", 1, " ", 0, "?")),
        ("<image 2> it?", 2, (0, 1, " it?"), (0, 1, " it?")),
        ("<image 1> or <image 1>", 1, (0, 0, " or "), (0, " or ", 0)),
    ],
)
def test_images_go_in_front_or_where_their_markers_stand(
    text, count, front, interleaved
):
    assert prompts.place(text, count, "front").parts == front
    assert prompts.place(text, count, "interleaved").parts == interleaved


def test_a_marker_of_an_image_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="<image 3> in a question with 2 images"):
        prompts.place("<image 3>", 2, "front")


def test_the_kits_messages_keep_their_order_or_have_images_in_front():
    """As the kit splits "Is <image 2> or <image 1>?" into messages with files."""
    messages = [
        {"type": "text", "value": "Is "},
        {"type": "image", "value": "b.png"},
        {"type": "text", "value": " or "},
        {"type": "image", "value": "a.png"},
        {"type": "text", "value": "?"},
    ]
    files = ["a.png", "b.png"]
    interleaved = kit_prompts.arrange(messages, files, "interleaved")
    assert interleaved.parts == ("Is ", 1, " or ", 0, "?")
    front = kit_prompts.arrange(messages, files, "front")
    assert front.parts == (1, 0, "Is \n or \n?")
