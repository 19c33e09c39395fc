r"""Units: the unit behind a number, its one spelling, and its size in another one, from pint.

9.8\text{ m/s^2} -> 9.8 and "meter second^-2"      20 \Omega,  6 people,  5cm,  72^\circ F

5 m is a length and 5m a product: a symbol that may be letters needs a space or a tie before it.
"""

import functools
import re
from fractions import Fraction

from r1v3_jax.rewards.verifiers.unit_names import OTHERS, PINT

# 1. Reading

# As spelling.py leaves them: \mu for µ, \Omega for Ω. "um" is written for µm.
_NAMES = {}
for _spelling, _name in (PINT | OTHERS).items():
    _spelling = _spelling.replace("~", " ").replace("Ω", r"\Omega")
    _NAMES[_spelling.replace("µ", r"\mu ")] = _name
    _NAMES.setdefault(_spelling.replace("µ", "u"), _name)
# light year, degrees Celsius; the plural s may be at either word.
_SEVERAL_WORDS = "|".join(
    spelling.replace(" ", "s?[ ~]") + "s?"
    for spelling in sorted(_NAMES, key=len, reverse=True)
    if " " in spelling and spelling.replace(" ", "").isalpha()
)
_WORD = re.compile(
    r"\\mu[ ~]?(?:[A-Za-z]+|\\Omega)|[kMGm]?\\Omega(?![A-Za-z])|\^\\circ(?:[ ~]?[CF](?![A-Za-z]))?"
    rf"|(?i:{_SEVERAL_WORDS})(?![A-Za-z])|[A-Za-zÅ]+|[\u3400-\u9fff℃]+"
)
_POWER_WORD = re.compile(r"(?:(square|sq)|(cubic|cu))(?:\.[ ~]?|[ ~])|(平方)|(立方)")
_POWER = re.compile(r"\^\{([+-]?[1-9])\}|([23])(?![0-9])|[ ~](squared)|[ ~](cubed)")
_DIVIDED = re.compile(r"[ ~]?(?:/|\bper\b|每)[ ~]?(\()?")
_TIMES = re.compile(
    r"[ ~]?(?:\\cdot(?![A-Za-z])|\\times(?![A-Za-z])|[*-]|(?<=[^ ~])[ ~])[ ~]?"
)
_FRACTION = re.compile(
    r"\\frac\{[ ~]?([^{}]+(?:\{[+-]?[1-9]\})?)[ ~]?\}\{[ ~]?([^{}]+(?:\{[+-]?[1-9]\})?)[ ~]?\}"
)
_START = re.compile(
    r"(?<=[0-9)}%\]])[ ~]?(?=[A-Za-zÅ\\^\u3400-\u9fff℃])|(?<=\\pi)[ ~](?=[A-Za-z\\])"
)
# No products of letters: 5cm.
_NEEDS_NO_SPACE = "mm cm dm km kg mL ml ft Hz Pa hr".split()


@functools.lru_cache(maxsize=4096)
def split(text: str) -> tuple[str, str]:
    r"""Returns a normalised text without its unit, and the unit in one spelling, or "".

    9.8~m/s^{2} -> 9.8, "meter second^-2";    24~apples -> 24, "#apple"
    """
    # The longest unit, whose number is the shortest: 5 kg m is no number "5 kg" of metres.
    for start in _START.finditer(text):
        is_close = (
            start[0] == "" or text[: start.start()].endswith(r"\pi") and start[0] == " "
        )
        if is_close and not _may_be_close(text, start.end()):
            continue
        factors = _read(text[start.end() :])
        if factors:
            return text[: start.start()], _spelled(factors)
    return _split_noun(text)


def _may_be_close(text: str, start: int) -> bool:
    """Returns whether what follows a number without a space may be its unit: 5cm, but not 5m."""
    if re.match(r"m/s(?:\^\{2\}|2)?$", text[start:]):
        return True
    word = _WORD.match(text, start)
    if word is None:
        return text.startswith((r"\frac", "square", "平方", "立方"), start)
    # 2\mu g may be friction times a weight.
    if word[0] == r"\mu g":
        return False
    return len(word[0]) >= 3 or word[0] in _NEEDS_NO_SPACE or not word[0].isascii()


def read(text: str) -> str:
    """Returns the one spelling of a unit that stands alone; "" for anything else: km/h, cm3."""
    factors = _read(text)
    return _spelled(factors) if factors else ""


def _spelled(factors: dict[str, int]) -> str:
    """Returns {meter: 1, second: -2} as "meter second^-2"."""
    powers = sorted((name, power) for name, power in factors.items() if power)
    return " ".join(name if power == 1 else f"{name}^{power}" for name, power in powers)


def _read(text: str) -> dict[str, int] | None:
    r"""Returns the powers of the units in a text: m/s^{2} -> {meter: 1, second: -2}."""
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        text = f"{fraction[1]}/({fraction[2]})"
    factors: dict[str, int] = {}
    sign = 1
    is_bracketed = False
    position = 0
    while True:
        word_power = _POWER_WORD.match(text, position)
        position = word_power.end() if word_power else position
        word = _WORD.match(text, position)
        name = _name(word[0]) if word else None
        if name is None:
            return None
        position = word.end()
        power = _POWER.match(text, position)
        position = power.end() if power else position
        factors[name] = factors.get(name, 0) + sign * _exponent(word_power, power)
        if is_bracketed and text[position : position + 1] == ")":
            is_bracketed = False
            sign = 1
            position += 1
        if position == len(text):
            return None if is_bracketed else factors
        # A slash divides by one unit, or by what its bracket holds: J/(kg K).
        divided = _DIVIDED.match(text, position)
        times = divided or _TIMES.match(text, position)
        if times is None or (divided and is_bracketed):
            return None
        position = times.end()
        is_bracketed = is_bracketed or bool(divided and divided[1])
        sign = -1 if divided or is_bracketed else 1


def _name(word: str) -> str | None:
    """Returns the name of a unit: km, Kilometers -> kilometer; degrees Celsius -> ℃."""
    word = word.replace("~", " ")
    if word.startswith(("\\mu", "^")):
        word = re.sub(r"^(\\mu|\^\\circ) ?(?=.)", r"\1 ", word)
    spellings = (
        [word, word.lower(), word.replace("s ", " ")] if len(word) >= 4 else [word]
    )
    for spelling in spellings:
        if spelling in _NAMES:
            return _NAMES[spelling]
        if len(spelling) >= 3 and spelling[-1] == "s" and spelling[:-1] in _NAMES:
            return _NAMES[spelling[:-1]]
    return None


def _exponent(word: re.Match | None, power: re.Match | None) -> int:
    """Returns the power of one unit: square cm -> 2, cm^{-3} -> -3."""
    if power:
        digits = power[1] or power[2]
        return int(digits) if digits else 2 if power[3] else 3
    if word:
        return 2 if word[1] or word[3] else 3
    return 1


# A plural behind a number counts something, unless it scales the number or takes it back. So does
# a singular behind 1, and a noun behind a Chinese measure word.
_NOUN = re.compile(
    r"(.*[0-9])[ ~](?:(?:different|distinct|possible|total)[ ~])?([a-z]{2,20}s)"
    r"|((?:.*[^0-9.,])?1)[ ~]([a-z]{3,20})"
    r"|(.*[0-9])[个只条张本件棵支辆台][ ~]?([\u4e00-\u9fff]{1,6})"
)
_NO_NOUNS = re.compile(
    r".*ths|(?:hundred|thousand|million|billion|trillion|dozen|half|halve|third|quarter|percent)s?|"
    r"time[s]?|perhaps|minus|plus|less|guess|unless|versus|as|is|was|this|thus|its|yes|always|others?|"
    r"does|has|units?|ness|cos|radians?|tens|ones|pairs?|couples?|scores?|only|each|left|maybe|"
    r"and|not|but|too|extra"
)


def _split_noun(text: str) -> tuple[str, str]:
    """Splits off what a number counts: 24~apples -> 24, "#apple"; 24~thousands stays."""
    match = _NOUN.fullmatch(text)
    if match is None:
        return text, ""
    number, noun = (group for group in match.groups() if group)
    if _NO_NOUNS.fullmatch(noun):
        return text, ""
    return number, f"#{noun.removesuffix('s')}"


# 2. Converting


@functools.cache
def _registry():
    """Returns pint's units, made when two different units first meet."""
    import pint

    return pint.UnitRegistry(non_int_type=Fraction)


@functools.lru_cache(maxsize=4096)
def factor(unit: str, target: str) -> Fraction | None:
    """Returns how many `target` one `unit` is; None if they measure different things.

    Both are spelled as `split` returns them.    millimeter, centimeter -> 1/10
    """
    powers, others = _powers(unit)
    target_powers, target_others = _powers(target)
    if others != target_others:
        return None
    # One quotient, so that pint compares what they measure: km/h divided by m/s is a number.
    quantity = _registry().Quantity(Fraction(1))
    for name, power in powers.items():
        quantity *= _registry().Unit(name) ** power
    for name, power in target_powers.items():
        quantity /= _registry().Unit(name) ** power
    if not quantity.dimensionless:
        return None
    return Fraction(quantity.to_base_units().magnitude)


_PINTS_NAMES = frozenset(PINT.values())


def _powers(unit: str) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the powers of pint's units, and those of the others: #apple, dollar, degree."""
    known: dict[str, int] = {}
    others: dict[str, int] = {}
    for part in unit.split():
        name, _, power = part.partition("^")
        (known if name in _PINTS_NAMES else others)[name] = int(power or 1)
    return known, others
