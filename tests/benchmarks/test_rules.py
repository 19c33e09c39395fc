r"""What each rule says of answers that are written out here.

They are those of VLMEvalKit, stated anew.
"""

import time

import pytest

from r1v3_jax.benchmarks import emma, letters, phyx, rules, table
from r1v3_jax.benchmarks.question import Question

PETS = {"A": "cat", "B": "dog", "C": "parrot"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (r"So it is \boxed{B}", "B"),
        ("(C).", "C"),
        ("**A**", "A"),
        ("A dog is it", "A"),  # the article is taken for a letter, as the kit does
        ("A pet is it I think", ""),  # the letter is too far in front
        ("B or C", ""),
        ("It is the parrot.", "C"),
        ("the dog and the cat", ""),
        ("I looked for a long time and in the end it can only be the parrot", ""),
        ("Z", "Z"),
        ("", ""),
    ],
)
def test_the_letter_that_an_answer_chooses(text, letter):
    assert letters.find_letter(text, PETS) == letter


def test_the_older_reading_takes_a_letter_anywhere_and_an_option_in_a_long_answer():
    far = "A pet is it I think"
    long = "I looked for a long time and in the end it can only be the parrot"
    assert letters.find_letter_anywhere(far, PETS) == "A"
    assert letters.find_letter_anywhere(long, PETS) == "C"
    assert letters.find_letter_anywhere("B or C", PETS) == ""


def test_an_open_question_of_mmmu_is_its_answer_or_another():
    question = Question("0", "How much?", "24/7")
    assert rules.option(question, "24/7").right is True
    assert rules.option(question, "Other answers").right is False
    assert rules.option(question, "23").right is None


def test_mmmus_box_adds_and_never_takes_away():
    question = Question("0", "Which?", "B", options=PETS)
    assert rules.option_or_box(question, r"A, so \boxed{\text{B}}").right is True
    assert rules.option_or_box(question, r"\boxed{C} no, B").right is None
    assert rules.option_or_box(question, r"It is B").right is True


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Yes.", True),
        ("No, it is not", False),
        ("yes and no", None),
        ("Not at all", None),
        (r"\boxed{yes}", True),
        ("yesterday", None),
    ],
)
def test_yes_and_no_are_words(text, right):
    assert rules.yes_no(Question("0", "Is it?", "Yes"), text).right is right


def test_mathvista_reads_numbers_and_choices_and_runs_neither():
    number = Question("0", "", "14", fields={"answer_type": "integer"})
    assert rules.mathvista(number, " 14 ").right is True
    assert rules.mathvista(number, "7+7").right is None
    fields = {"question_type": "multi_choice", "choices": "['3/11', '8/11']"}
    choice = Question("0", "", "8/11", fields={**fields, "answer_option": "B"})
    assert rules.mathvista(choice, "B").right is True
    assert rules.mathvista(choice, "it is 3/11").right is False


def test_mathvision_compares_to_1e_6():
    question = Question("0", "", "0.5", fields={"choices": "[]"})
    assert rules.mathvision(question, "0.5000001").right is True
    assert rules.mathvision(question, "0.51").right is None
    assert rules.mathvision(question, "1/2").right is True
    assert rules.mathvision(question, "half").right is None


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("b", "B", True),
        ("C. parrot", "C", True),
        (r"so \boxed{\text{Dog}}", "B", True),  # the text of the option
        (r"\boxed{A} and \boxed{B}", "B", True),
        ("The correct answer is B.", "B", True),
        (r"\boxed{A}", "B", None),
        (r"\boxed{\frac{1}{3}}", "0.333", True),  # to two decimals
        ("0.34", "0.333", None),
        ("no idea", "B", None),
    ],
)
def test_emma_reads_a_letter_a_number_a_box_or_a_phrase(text, answer, right):
    options = PETS if answer in PETS else {}
    question = Question("0", "", answer, options=options)
    assert emma.emma(question, text).right is right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>5?</think><answer> 12 </answer>", True),
        ("So the final answer is: 12. Or 13.", True),
        (" 12.0 ", True),
        (r"\frac{24}{2}", True),
        ("<answer>13</answer>", None),
        ("about twelve", None),
    ],
)
def test_seephys_reads_a_tag_a_phrase_or_a_number(text, right):
    assert rules.seephys(Question("0", "", "12"), text).right is right


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{C}", "C"),
        (r"\boxed{\text{A}}", "A"),
        (r"\boxed{A} then \boxed{D}", "D"),
        (r"x}, so \boxed{B}", "B"),  # a brace that closes nothing
        ("The answer is B. It is", "B"),
        ("I choose (B).", "B"),
        (r"\boxed{A or B}", "Z"),
        ("no idea", "Z"),
    ],
)
def test_visulogic_leaves_nothing_open(text, letter):
    ruling = rules.visual_logic(Question("0", "", "C"), text)
    assert (ruling.extracted, ruling.right) == (letter, letter == "C")


def test_phyx_in_two_versions():
    question = Question("0", "", "B")
    older = letters.BY_VERSION["skywork-r1v3"]
    assert phyx.phyx(question, r"\boxed{B} or \boxed{C}", older).right is True
    assert phyx.phyx(question, r"\boxed{\text{B}}", older).right is None
    assert phyx.phyx(question, "The answer is B.", older).right is None
    for text in ("The answer is B, not C.", "**B** it is", "B: 3 m/s", "Option: (B)"):
        assert phyx.phyx(question, text).right is True, text
    # The first letter behind the saying counts, also where it is denied; a word is no letter.
    for text in ("The correct one is not C but B.", "Answers: B", "B", ""):
        assert phyx.phyx(question, text).right is None, text


def test_no_rule_takes_a_second_for_a_loop_of_300000_characters():
    """As models write when they repeat themselves, and as nobody writes."""
    question = Question("0", "", "B", options=PETS, fields={"choices": "['a', 'b']"})
    pieces = (
        r"\boxed{",
        "the final answer is: ",
        "The answer is: ",
        "<answer> ",
        "B, ",
        "} ",
    )
    every = {row.rule for row in table.TABLE}
    for piece in pieces:
        text = piece * (300_000 // len(piece))
        for rule in every:
            start = time.process_time()
            rule(question, text, letters.find_letter)
            assert time.process_time() - start < 1, (rule.__name__, piece)
