r"""The table of units: which spellings behind a number are a unit, and what pint calls it.

pint knows far more: it reads "ab" as attobits. Only what stands here is a unit of an answer.
"""

# 1. Written out: pint's name, then the spellings. A plural s is allowed behind each but the signs.
_WORDS = r"""
    inch: inch inches in; foot: foot feet ft; yard: yard yd; mile: mile mi; nautical_mile: nmi;
    meter: metre 米; centimeter: 厘米; millimeter: 毫米; decimeter: 分米; kilometer: 千米 公里;
    micrometer: micron 微米; nanometer: 纳米; angstrom: Å; light_year: lightyear ly;
    astronomical_unit: AU; acre: acre; hectare: hectare ha 公顷;
    liter: litre 升; milliliter: 毫升 cc; gallon: gallon gal; quart: quart qt; fluid_ounce: floz;
    gram: 克; kilogram: kilo kgs 千克 公斤; milligram: 毫克; metric_ton: tonne t 吨;
    pound: lb lbs 磅; ounce: oz; ton: ton; dalton: Da amu;
    second: sec 秒; minute: min mins 分钟; hour: hr hrs h 小时; day: 天; week: wk 周;
    month: 月 个月; year: yr 年 岁; century: century centuries;
    newton: 牛 牛顿; joule: 焦 焦耳; watt: 瓦 瓦特; kilowatt: 千瓦; kilowatt_hour: kWh 千瓦时 度电;
    watt_hour: Wh; volt: 伏 伏特; ampere: amp 安 安培; ohm: \Omega 欧 欧姆;
    kiloohm: kilohm; megaohm: megohm; coulomb: 库仑; hertz: 赫兹;
    pascal: 帕 帕斯卡; kilopascal: 千帕; tesla: 特斯拉; kelvin: 开尔文; mole: 摩尔; calorie: 卡;
    kilocalorie: 千卡 大卡; horsepower: hp; atmosphere: atm; millimeter_Hg: mmHg; force_pound: lbf;
    pound_force_per_square_inch: psi; mile_per_hour: mph; kilometer_per_hour: kph kmh;
    knot: knot kn; revolutions_per_minute: rpm; molar: molar; candela: cd; lumen: lm; lux: lx;
    becquerel: Bq; gray: Gy; sievert: Sv; katal: kat; byte: bytes; bit: bit bits"""

# 2. With prefixes: pint's name of the unit, its symbol, and the prefixes that are usual.
_PREFIXED = """
    meter m pnµmcdk; gram g nµmk; liter L µmcd; liter l µmcd; second s pnµm; newton N µmkM;
    joule J µmkMG; watt W nµmkMGT; volt V nµmkM; ampere A pnµmk; ohm Ω mkM; hertz Hz mkMGT;
    pascal Pa mkMGh; coulomb C pnµm; farad F pnµm; henry H µm; tesla T nµmk; weber Wb m;
    kelvin K nµmk; mole mol nµmk; calorie cal k; electron_volt eV mkMGT;
    byte B kMGTP; bit bit kMG; bit bps kMGT; bar bar mµ;
    becquerel Bq kMG; curie Ci mµ; gray Gy m; sievert Sv mµ; parsec pc kM; katal kat"""
_PREFIXES = {
    "p": "pico", "n": "nano", "µ": "micro", "m": "milli", "c": "centi", "d": "deci", "h": "hecto",
    "k": "kilo", "M": "mega", "G": "giga", "T": "tera", "P": "peta",
}  # fmt: skip
_LONG_NAMES = """meter metre liter litre gram second newton joule watt volt ampere ohm hertz pascal
    coulomb farad henry tesla kelvin mole calorie electronvolt byte bit""".split()

# 3. What pint does not know, or should not convert: money, things that are counted, angles and
# scales of temperature. Each converts only into itself.
_OTHERS = r"""
    degree: degree deg 度 ^\circ; ℃: ^\circ~C degC celsius 摄氏度 degrees~Celsius degree~Celsius;
    ℉: ^\circ~F degF fahrenheit 华氏度 degrees~Fahrenheit degree~Fahrenheit;
    radian: radian rad 弧度;
    dollar: dollar USD; cent: cent; sterling: GBP; yuan: yuan 元 块 RMB CNY 人民币; euro: euro EUR;
    rupee: rupee; yen: yen 日元; 角: 角; 万元: 万元; unit: unit;
    decibel: dB decibel; decade: decade; pixel: px pixel;
    person: person people persons 人 位 名; child: child children; 个: 个; 只: 只; 种: 种;
    条: 条; 张: 张;
    本: 本; 件: 件; 次: 次; 棵: 棵; 支: 支; 辆: 辆; 台: 台; 组: 组; 份: 份; 倍: 倍;
    页: 页; 盒: 盒; 箱: 箱"""


def _table() -> tuple[dict[str, str], dict[str, str]]:
    """Returns the name of each spelling, once for pint's units and once for the others."""
    known = {}
    for prefixed in _PREFIXED.split(";"):
        name, symbol, *prefixes = prefixed.split()
        # 5 B is more often a billion than bytes.
        if symbol != "B":
            known[symbol] = name
        for prefix in "".join(prefixes):
            known[prefix + symbol] = _PREFIXES[prefix] + name
    for name in _LONG_NAMES:
        known[name] = name.replace("metre", "meter").replace("litre", "liter")
        for prefix in _PREFIXES.values():
            known[prefix + name] = prefix + known[name]
    for line in _WORDS.split(";"):
        name, _, spellings = line.strip().partition(":")
        for spelling in (name.replace("_", " "), *spellings.split()):
            known[spelling] = name
    others = {}
    for line in _OTHERS.split(";"):
        name, _, spellings = line.strip().partition(":")
        others |= dict.fromkeys([name, *spellings.split()], name)
    return known, others


PINT, OTHERS = _table()
