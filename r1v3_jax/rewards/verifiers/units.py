"""Units by rule: what stands behind a number, its one spelling, and what it is in other units."""

import re
from fractions import Fraction

# What a unit is in others, as 1 L = (1/1000) m^3. Units that are not here convert into no other.
_CONVERSIONS = {
    "mm": ("m", 1, "1/1000"), "cm": ("m", 1, "1/100"), "dm": ("m", 1, "1/10"),
    "km": ("m", 1, "1000"), "inch": ("m", 1, "0.0254"), "ft": ("m", 1, "0.3048"),
    "mile": ("m", 1, "1609.344"), "L": ("m", 3, "1/1000"), "mL": ("m", 3, "1/1000000"),
    "g": ("kg", 1, "1/1000"), "t": ("kg", 1, "1000"),
    "min": ("s", 1, "60"), "h": ("s", 1, "3600"), "day": ("s", 1, "86400"),
}  # fmt: skip

# The first spelling of a unit is its name. An s at the end goes without saying.
_UNIT_NAMES = {
    spelling: unit.split()[0]
    for unit in r"""
        mm millimeter millimetre 毫米; cm centimeter centimetre 厘米; dm decimeter decimetre 分米;
        m meter metre 米; km kilometer kilometre 千米 公里; inch inches; ft foot feet; mile;
        L l liter litre 升; mL ml milliliter millilitre 毫升; g gram 克; kg kilogram 千克 公斤;
        t ton tonne 吨; s sec second 秒; min minute 分钟; h hr hour 小时; day 天; year 年 岁;
        degree deg 度 ^\circ; ℃ ^\circ~C; rad radian; dollar; yuan 元; N newton 牛; J joule;
        W watt; V volt; A ampere; Pa pascal; Hz hertz; mol; unit; 个; 人""".split(";")
    for spelling in unit.split()
}
_UNIT_NAMES[r"^\circ C"] = "℃"
_SPELLED = "|".join(map(re.escape, sorted(_UNIT_NAMES, key=len, reverse=True)))
_UNIT = rf"(?:(square|sq|平方)|(cubic|cu|立方))? ?({_SPELLED})s?(?:\^\{{([23])\}})?"
_WITH_UNIT = re.compile(rf"(.*(?:[0-9)}}%]|\\pi))([ ~]?){_UNIT}(?:(?:/| per ){_UNIT})?")


def split(text: str) -> tuple[str, str]:
    r"""The text without its unit, and the unit in one spelling: 9.8\text{ m/s^2} -> 9.8, m/s2."""
    match = _WITH_UNIT.fullmatch(text)
    if not match or (not match[2] and re.fullmatch("[A-Za-z]", match[5])):
        return text, ""
    parts = [
        _UNIT_NAMES[name] + (power or (square and "2") or (cubic and "3") or "")
        for square, cubic, name, power in (match.groups()[2:6], match.groups()[6:])
        if name
    ]
    return match[1], "/".join(parts)


# A plural behind a number counts something, unless it scales the number or takes it back.
_NOUN = re.compile(r"(.*[0-9])[ ~]([a-z]{2,20}s|people|children)")
_NO_NOUNS = re.compile(
    r".*ths|(?:hundred|thousand|million|billion|trillion|dozen|half|halve|third|quarter|percent)s?|"
    r"time[s]?|perhaps|minus|plus|less|guess|unless|versus|as|is|was|this|thus|its|yes|always|others?"
)


def without_noun(text: str) -> str:
    """24~apples -> 24;    24~thousands stays."""
    match = _NOUN.fullmatch(text)
    return match[1] if match and not _NO_NOUNS.fullmatch(match[2]) else text


def factor(unit: str, other: str) -> Fraction | None:
    """How many of `other` a `unit` is, both as `split` spells them; None if they measure different
    things.    mm, cm -> 1/10    km/h, m/s -> 5/18
    """
    (powers, scale), (other_powers, other_scale) = _base(unit), _base(other)
    return scale / other_scale if powers == other_powers else None


def _base(unit: str) -> tuple[dict[str, int], Fraction]:
    """m/s2 -> {m: 1, s: -2}, 1;    km/h -> {m: 1, s: -1}, 1000/3600;    mL -> {m: 3}, 1/10^6."""
    powers: dict[str, int] = {}
    scale = Fraction(1)
    for sign, part in zip((1, -1), unit.split("/"), strict=False):
        name, power = re.fullmatch(r"(.*?)([23]?)", part).groups()
        base, base_power, factor = _CONVERSIONS.get(name, (name, 1, "1"))
        power = sign * int(power or 1)
        powers[base] = powers.get(base, 0) + base_power * power
        scale *= Fraction(factor) ** power
    return powers, scale
