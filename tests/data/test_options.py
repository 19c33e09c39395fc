"""Options beside a question are written below it once, in one form."""

import pytest

from r1v3_jax.data import fields, records

ASK = {"question": "Which is it?", "answer": "B"}


def row_of(record: dict) -> dict:
    row = records.canonical(record)
    records.check(row)
    return row


@pytest.mark.parametrize(
    "question",
    [
        "Which is it?\n(A) a cat\n(B) $x^2$",
        "Which is it? A. a  cat\nB. x^2",
        "Which?\n**A.** a cat **B.** x^2",
        "A：a cat B：x^2",
        "[A] a cat, [B] x^2. Which?",
    ],
)
def test_options_that_the_question_shows_are_not_shown_twice(question):
    record = {"question": question, "answer": "B", "options": ["a cat", "x^2"]}
    assert row_of(record)["question"] == question
    assert row_of(record | {"answer": "x^2"})["answer"] == "B"


@pytest.mark.parametrize(
    "question",
    [
        "Is a cat on 3 or 30?",  # the texts are there, the options are not
        "Is this A cat or B 3?",
        "(A) cat (B) 30",  # another option
        "(B) 3 (A) cat",  # in another order
        "(A) catalogue (B) 3",
    ],
)
def test_options_that_the_question_only_seems_to_show_are_written(question):
    record = {"question": question, "answer": "B", "options": ["cat", "3"]}
    assert row_of(record)["question"] == f"{question}\n(A) cat\n(B) 3"


def test_a_question_that_lists_the_texts_asks_for_a_text():
    for question in ("cat or dog?", "Answer one of: cat, dog", "Choose.\ncat\ndog"):
        row = row_of({"question": question, "answer": "dog", "options": ["cat", "dog"]})
        assert (row["question"], row["answer"]) == (question, "dog")


def test_a_letter_that_is_no_option_is_refused():
    """Proves: a gold that nobody who sees the options would choose is not kept."""
    with pytest.raises(fields.InvalidRecord, match="E is no option: they are A to B"):
        row_of(ASK | {"options": ["cat", "dog"], "answer": "E"})
    row = row_of(ASK | {"options": ["cat", "E"], "answer": "E"})
    assert row["answer"] == "B"


def test_a_number_of_options_is_a_fact():
    row = row_of(ASK | {"options": ["cat", "dog"], "choices": 2})
    assert row["question"] == "Which is it?\n(A) cat\n(B) dog"


def test_an_answer_that_is_an_option_becomes_its_letter():
    options = {"choices": ["12", "14", "16"]}
    assert row_of(ASK | options | {"answer": "14"})["answer"] == "B"
    assert row_of(ASK | options | {"answer": 14})["answer"] == "B"
    assert row_of(ASK | options | {"answer": "\\boxed{16}"})["answer"] == "C"
    assert row_of(ASK | options | {"answer": "C"})["answer"] == "C"
    row = row_of(ASK | options | {"answer": "14", "verifier": "number"})
    assert row["answer"] == "14"
    chain = {"chain": "why\n</think>\n\n\\boxed{14}"}
    assert row_of(ASK | options | chain | {"answer": "14"})["answer"] == "14"
    letters = {"options": ["B", "A"]}  # what is asked for is not known: left alone
    assert row_of(ASK | letters)["answer"] == "B"


def test_an_index_is_refused():
    """Of 0 and 1 nobody knows which is the first."""
    with pytest.raises(fields.InvalidRecord, match="1 is neither the letter") as error:
        records.canonical(ASK | {"choices": ["cat", "dog"], "answer": 1})
    assert error.value.args[0] == "answer"


def test_letters_that_are_explained_in_the_picture():
    row = row_of(ASK | {"options": ["A", "B", "C"]})
    assert row["question"] == "Which is it?\n(A)\n(B)\n(C)"


def test_options_in_two_fields_are_the_same_or_refused():
    columns = {"A": "cat", "B": "dog"}
    row = row_of(ASK | columns | {"options": ["cat", "dog"]})
    assert row["question"] == "Which is it?\n(A) cat\n(B) dog"
    with pytest.raises(fields.InvalidRecord, match="options than in options A, B"):
        records.canonical(ASK | columns | {"options": ["cat", "mouse"]})


def test_one_letter_is_one_option():
    columns = {"A": "cat", "B": "dog", "option_a": "cat"}
    row = row_of(ASK | columns)
    assert row["question"] == "Which is it?\n(A) cat\n(B) dog"
    with pytest.raises(fields.InvalidRecord, match="option_a"):
        records.canonical(ASK | columns | {"option_a": "mouse"})
    scores = {"A": 0.5, "B": 0.25}
    row = row_of(ASK | {"metadata": scores})
    assert (row["question"], row["metadata"]) == ("Which is it?", scores)


def test_no_options_are_no_options():
    for empty in (None, [], "", "[]", {"A": None, "B": None}):
        row = row_of(ASK | {"options": empty})
        assert (row["question"], row["metadata"]) == ("Which is it?", {})


@pytest.mark.parametrize(
    "options",
    [
        ["B. cat", "A. dog"],  # letters in another order than the list
        {"A": "cat", "C": "dog"},
        [{"label": "A"}, {"label": "B"}],
        [["cat"], ["dog"]],
        ["cat"],
        ["x"] * 27,
        "['cat', 'dog'",
        "__import__('os').remove('a')",
        "[" * 5000,
        True,
    ],
)
def test_other_forms_are_refused_by_name(options):
    with pytest.raises(fields.InvalidRecord, match="options") as error:
        records.canonical(ASK | {"options": options})
    assert error.value.args[0] == "fields"


def test_options_follow_the_last_turn_of_the_user():
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": "I do."},
        {"role": "user", "content": "Which?"},
    ]
    row = row_of(
        {"messages": turns, "answer": "B", "choices": {"1": "cat", "2": "dog"}}
    )
    assert row["question"] == "Which?\n(A) cat\n(B) dog"
    assert row["before"] == turns[:2]
