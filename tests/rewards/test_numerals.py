"""Whole numbers in words and in Roman numerals: what is read, what is not, and both ways round."""

import pytest

from r1v3_jax.rewards.verifiers import mathematics
from r1v3_jax.rewards.verifiers.numerals import in_digits
from r1v3_jax.rewards.verify import check_gold

READ = {
    "fourteen": "14",
    "Twenty-one": "21",
    "twenty~one": "21",
    "a hundred and five": "105",
    "one thousand": "1000",
    "three million two hundred thousand and six": "3200006",
    "minus forty": "-40",
    "XIV": "14",
    "MCMXCIX": "1999",
    "CV": "105",
}
LEFT = [
    "",
    "14",
    "x",
    # Variables, choices, points, a word.
    *["I", "V", "C", "CD", "MD", "xiv", "mix", "MIX"],
    # Not well formed.
    *["IIII", "IC", "VX", "XXXX", "IXI", "MMMM"],
    *["twenty-eleven", "seven eight", "hundred", "one hundred and", "zero one"],
    *["one thousand two million", "one thousand thousand", "minus", "fourteenth"],
    *["fourteen apples", "seven or eight", "one-two"],
]


def test_numbers_are_read():
    """Proves: each of the three spellings has the value written here."""
    assert {text: in_digits(text) for text in READ} == READ


@pytest.mark.parametrize("text", LEFT)
def test_other_texts_stay(text):
    """Proves: letters, words and malformed numerals are no numbers."""
    assert in_digits(text) == text


def written_in_roman(number: int) -> str:
    """Writes a Roman numeral from the largest sign to the smallest."""
    signs = "M CM D CD C XC L XL X IX V IV I".split()
    values = [1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1]
    text = ""
    for sign, value in zip(signs, values, strict=True):
        text += sign * (number // value)
        number %= value
    return text


def test_every_roman_numeral_has_its_value():
    """Proves: 1 to 3,999 are read as they are written, except letters, a word and points."""
    numerals = {written_in_roman(number): str(number) for number in range(1, 4000)}
    left = {text for text, number in numerals.items() if in_digits(text) != number}
    # Of L, C, D and M alone: 4 thousands x 10 hundreds x with or without L, and not "".
    points = {text for text in left if set(text) <= set("LCDM")}
    assert left - points == {"I", "V", "X", "MIX"}
    assert len(points) == 4 * 10 * 2 - 1


ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen""".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def written_in_words(number: int) -> str:
    """Writes a number below 10**12 in British English, from its smallest part."""
    if number < 20:
        return ONES[number]
    if number < 100:
        ones = number % 10
        return TENS[number // 10 - 2] + (f"-{ONES[ones]}" if ones else "")
    for name, size in (
        ("hundred", 100),
        ("thousand", 1000),
        ("million", 10**6),
        ("billion", 10**9),
    ):
        if number < size * (10 if size == 100 else 1000):
            head = f"{written_in_words(number // size)} {name}"
            rest = number % size
            joint = " and " if rest and rest < 100 else " "
            return head + (joint + written_in_words(rest) if rest else "")
    raise AssertionError(number)


def test_words_have_the_value_they_were_written_for():
    """Proves: numbers of every size are read, by a writer that knows nothing of the reader."""
    numbers = [
        *range(3000),
        *range(3000, 10**6, 997),
        *range(10**6, 10**12, 10**9 + 7919),
    ]
    for number in numbers:
        assert in_digits(written_in_words(number)) == str(number)
    assert written_in_words(12_345) == "twelve thousand three hundred and forty-five"


def test_numerals_need_no_parser_and_are_kept_as_golds():
    """Proves: they are judged in the process of the run, and verify against themselves."""
    for gold in ("fourteen", "XIV", "14"):
        assert check_gold(gold) is None
        for box in ("fourteen", "XIV", "14", "xiv", "x"):
            assert mathematics.is_quick(gold, box)
    assert not mathematics.is_quick("fourteen", r"14\approx 13.9")
