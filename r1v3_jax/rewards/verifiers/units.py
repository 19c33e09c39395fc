"""Units by rule: the unit behind a number, its one spelling, and its size in other units."""

import re
from fractions import Fraction

# A unit in others, as base unit, power, factor: 1 L = 1/1000 m^3. A unit that is not in this table
# converts into no other one.
_CONVERSIONS = {
    "mm": ("m", 1, "1/1000"),
    "cm": ("m", 1, "1/100"),
    "dm": ("m", 1, "1/10"),
    "km": ("m", 1, "1000"),
    "inch": ("m", 1, "0.0254"),
    "ft": ("m", 1, "0.3048"),
    "mile": ("m", 1, "1609.344"),
    "L": ("m", 3, "1/1000"),
    "mL": ("m", 3, "1/1000000"),
    "g": ("kg", 1, "1/1000"),
    "t": ("kg", 1, "1000"),
    "min": ("s", 1, "60"),
    "h": ("s", 1, "3600"),
    "day": ("s", 1, "86400"),
}

# One unit between semicolons. Its first spelling is its name; a plural s is allowed for all.
_SPELLINGS = r"""
    mm millimeter millimetre 毫米; cm centimeter centimetre 厘米; dm decimeter decimetre 分米;
    m meter metre 米; km kilometer kilometre 千米 公里; inch inches; ft foot feet; mile;
    L l liter litre 升; mL ml milliliter millilitre 毫升; g gram 克; kg kilogram 千克 公斤;
    t ton tonne 吨; s sec second 秒; min minute 分钟; h hr hour 小时; day 天; year 年 岁;
    degree deg 度 ^\circ; ℃ ^\circ~C; rad radian; dollar; yuan 元; N newton 牛; J joule;
    W watt; V volt; A ampere; Pa pascal; Hz hertz; mol; unit; 个; 人"""
_UNIT_NAMES = {
    spelling: unit.split()[0]
    for unit in _SPELLINGS.split(";")
    for spelling in unit.split()
}
_UNIT_NAMES[r"^\circ C"] = "℃"  # its space would end a spelling in the table
# Longest first, or the "m" of "mm" would match alone.
_LONGEST_FIRST = sorted(_UNIT_NAMES, key=len, reverse=True)
_SPELLED = "|".join(map(re.escape, _LONGEST_FIRST))
_UNIT = rf"(?:(square|sq|平方)|(cubic|cu|立方))? ?({_SPELLED})s?(?:\^\{{([23])\}})?"
_WITH_UNIT = re.compile(rf"(.*(?:[0-9)}}%]|\\pi))([ ~]?){_UNIT}(?:(?:/| per ){_UNIT})?")


def split(text: str) -> tuple[str, str]:
    r"""Returns the text without its unit, and the unit in one spelling, or "".

    9.8\text{ m/s^2} -> 9.8, m/s2
    """
    match = _WITH_UNIT.fullmatch(text)
    if not match:
        return text, ""
    number, space, *groups = match.groups()
    # 5m is a product; 5 m is a length.
    if not space and re.fullmatch("[A-Za-z]", groups[2]):
        return text, ""
    parts = []
    # Two units of four groups each: the numerator and the denominator of m/s^{2}.
    for square, cubic, name, power in (groups[:4], groups[4:]):
        if name:
            words_power = (square and "2") or (cubic and "3") or ""
            parts.append(_UNIT_NAMES[name] + (power or words_power))
    return number, "/".join(parts)


# A plural behind a number counts something, unless it scales the number or takes it back.
_NOUN = re.compile(r"(.*[0-9])[ ~]([a-z]{2,20}s|people|children)")
_NO_NOUNS = re.compile(
    r".*ths|(?:hundred|thousand|million|billion|trillion|dozen|half|halve|third|quarter|percent)s?|"
    r"time[s]?|perhaps|minus|plus|less|guess|unless|versus|as|is|was|this|thus|its|yes|always|others?"
)


def without_noun(text: str) -> str:
    """Takes off the noun that a number counts: 24~apples -> 24;    24~thousands stays."""
    match = _NOUN.fullmatch(text)
    return match[1] if match and not _NO_NOUNS.fullmatch(match[2]) else text


def factor(unit: str, target: str) -> Fraction | None:
    """Returns how many `target` one `unit` is; None if they measure different things.

    Both are spelled as `split` returns them.    mm, cm -> 1/10    km/h, m/s -> 5/18
    """
    powers, scale = _base(unit)
    target_powers, target_scale = _base(target)
    return scale / target_scale if powers == target_powers else None


def _base(unit: str) -> tuple[dict[str, int], Fraction]:
    """Returns a unit's powers of base units, and its size in them.

    m/s2 -> {m: 1, s: -2}, 1;    km/h -> {m: 1, s: -1}, 1000/3600;    mL -> {m: 3}, 1/10^6
    """
    powers: dict[str, int] = {}
    scale = Fraction(1)
    # The part behind the slash divides. A unit without one has one part.
    for sign, part in zip((1, -1), unit.split("/"), strict=False):
        name, digit = re.fullmatch(r"(.*?)([23]?)", part).groups()
        base, base_power, base_scale = _CONVERSIONS.get(name, (name, 1, "1"))
        power = sign * int(digit or 1)
        powers[base] = powers.get(base, 0) + base_power * power
        scale *= Fraction(base_scale) ** power
    return powers, scale
