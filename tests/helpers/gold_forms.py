"""Golds in the forms of real data sets, with a second writing and a near miss, by a seeded draw."""

from typing import NamedTuple


class Form(NamedTuple):
    """An answer as a data set has it, and two boxes."""

    answer: str
    second: str  # another writing of it, which is right
    near: str  # a near miss
    verifier: str = ""


PROSE_FORM = "prose"  # as `second`: the answer is refused


def swapped(number: int) -> int:
    """Returns another number of the same digits, or the next number: 72 -> 27, 77 -> 78."""
    turned = int(str(number)[::-1])
    return turned if turned != number else number + 1


# GSM8K: the working, then #### and a number.


def gsm8k(draw) -> Form:
    price, count = draw.randint(2, 90), draw.randint(2, 90)
    total = price * count
    working = f"She pays {price} * {count} = <<{price}*{count}={total}>>{total} dollars"
    answer = f"{working} in all.\n#### {total:,}"
    second = draw.choice([f"{total}", f"\\${total:,}", f"{total:,}.00", f"x = {total}"])
    near = draw.choice([total + 1, total * 10, swapped(total), -total])
    return Form(answer, second, str(near))


def gsm8k_decimals(draw) -> Form:
    cents = draw.randint(101, 99_999)
    value = f"{cents / 100:.2f}"
    answer = f"That costs ${value} a day.\n#### {value}"
    return Form(answer, f"\\${value}0", f"{(cents + 1) / 100:.2f}")


def gsm8k_sentences(draw) -> Form:
    total = draw.randint(10, 999)
    answer = draw.choice(
        [
            f"The answer is {total}.",
            f"So she earns more.\nThe final answer is: ${total}$",
        ]
    )
    return Form(answer, f"{total} dollars", str(total + draw.choice([-1, 1, 10])))


def gsm8k_prose(draw) -> Form:
    total = draw.randint(10, 999)
    answer = draw.choice(
        [
            f"Natalia sold {total} clips in April and May.",
            f"There are {total} apples left.",
            f"He needs {total} more dollars because the bike costs {total + 9}.",
        ]
    )
    return Form(answer, PROSE_FORM, "")


# MATH: the LaTeX in the last box of a solution.


def math_solution(draw) -> Form:
    top, bottom = draw.choice([(3, 7), (22, 9), (5, 13), (17, 6), (8, 3), (11, 15)])
    factor = draw.randint(2, 9)
    value = f"\\frac{{{top}}}{{{bottom}}}"
    answer = f"We have $2x = 2\\cdot{value}$, so $x = \\boxed{{{value}}}$."
    second = f"\\dfrac{{{top * factor}}}{{{bottom * factor}}}"
    return Form(answer, second, f"\\frac{{{bottom}}}{{{top}}}")


def math_decimal_fraction(draw) -> Form:
    top = draw.choice([1, 3, 7, 9, 11, 13, 17, 19, 21, 23])
    bottom = draw.choice([4, 8, 20, 25, 40, 50])
    answer = f"-\\frac{{{top}}}{{{bottom}}}"
    near = draw.choice(
        [f"\\frac{{{top}}}{{{bottom}}}", f"-\\frac{{{top}}}{{{bottom + 1}}}"]
    )
    return Form(answer, f"{-top / bottom:.6f}".rstrip("0"), near)


def math_root(draw) -> Form:
    outside, inside = draw.randint(2, 12), draw.choice([2, 3, 5, 6, 7, 10, 11, 13])
    answer = f"{outside}\\sqrt{{{inside}}}"
    second = f"\\sqrt{{{outside * outside * inside}}}"
    near = draw.choice(
        [f"{outside + 1}\\sqrt{{{inside}}}", f"\\sqrt{{{outside * inside}}}"]
    )
    return Form(answer, second, near)


def math_polynomial(draw) -> Form:
    a, b, c = draw.randint(2, 9), draw.randint(1, 9), draw.randint(1, 9)
    answer = f"{a}x^2+{b}x-{c}"
    near = draw.choice([f"{a}x^2-{b}x-{c}", f"{a}x^2+{b}x+{c}", f"{a}x^3+{b}x-{c}"])
    return Form(answer, f"-{c}+{b}x+{a}x^{{2}}", near)


def math_interval(draw) -> Form:
    low = draw.randint(-9, 5)
    high = low + draw.randint(1, 9)
    form = draw.choice(["(]", "[)", "[]", "()"])
    left, right = form
    less, most = ("<" if s in "()" else "\\le " for s in form)
    other = "[" if left == "(" else "("
    answer = f"\\left{left}{low},{high}\\right{right}"
    return Form(answer, f"{low}{less}x{most}{high}", f"{other}{low}, {high}{right}")


def math_tuple(draw) -> Form:
    x, y = draw.sample(range(-20, 20), 2)
    answer = f"\\left( {x}, \\frac{{{y}}}{{2}} \\right)"
    return Form(
        answer,
        f"({x},{y / 2})",
        f"(\\frac{{{y}}}{{2}}, {x})" if x * 2 != y * 2 else "()",
    )


def math_list(draw) -> Form:
    a, b, c = draw.sample(range(-30, 30), 3)
    return Form(f"{a}, {b}, {c}", f"{b}, {c} and {a}", f"{a}, {b}, {c + 31}")


def math_pi(draw) -> Form:
    top, bottom = draw.choice([1, 5, 7, 11]), draw.choice([2, 3, 4, 6, 12])
    answer = f"\\frac{{{top}\\pi}}{{{bottom}}}"
    return Form(answer, f"{top}\\pi/{bottom}", f"\\frac{{{top}}}{{{bottom}\\pi}}")


def math_text(draw) -> Form:
    return draw.choice(
        [
            Form("\\text{Yes}", "yes", "No"),
            Form("\\text{even}", "Even", "odd"),
            Form("\\text{Thursday}", "Thursday.", "Tuesday"),
            Form("\\text{(C)}", "(C)", "(D)"),
            Form("\\text{isosceles triangle}", "Isosceles triangle", "right triangle"),
            Form("\\text{no solution}", "No solution.", "solution"),
        ]
    )


def math_percent(draw) -> Form:
    value = draw.randint(1, 99)
    return Form(
        f"{value}\\%", f"{value}%", draw.choice([f"{value}", f"{value + 1}\\%"])
    )


def math_degrees(draw) -> Form:
    value = draw.randint(2, 179)
    return Form(
        f"{value}^\\circ", f"{value}°", f"{180 - value + (value == 90)}^{{\\circ}}"
    )


def math_money(draw) -> Form:
    value = draw.randint(1000, 90_000)
    return Form(f"\\${value:,}", f"{value} \\text{{ dollars}}", f"\\${value + 100:,}")


def math_base(draw) -> Form:
    digits = "".join(draw.choice("123") for _ in range(4))
    return Form(f"{digits}_{{5}}", f"{digits}_5", f"{digits}_{{6}}")


def math_matrix(draw) -> Form:
    a, b, c, d = draw.sample(range(-9, 10), 4)
    rows = f"{a} & {b} \\\\ {c} & {d}"
    answer = f"\\begin{{pmatrix}} {rows} \\end{{pmatrix}}"
    second = f"\\begin{{bmatrix}}{a}&{b}\\\\{c}&{d}\\end{{bmatrix}}"
    near = f"\\begin{{pmatrix}} {a} & {c} \\\\ {b} & {d} \\end{{pmatrix}}"
    return Form(answer, second, near)


def math_mixed(draw) -> Form:
    whole, top = draw.randint(1, 9), draw.choice([1, 2, 3, 4])
    answer = f"{whole}\\frac{{{top}}}{{5}}"
    return Form(
        answer, f"\\frac{{{whole * 5 + top}}}{{5}}", f"\\frac{{{whole * top}}}{{5}}"
    )


# MMK12: school mathematics, translated from Chinese.


def mmk12_union(draw) -> Form:
    low = draw.randint(-9, 3)
    high = low + draw.randint(1, 9)
    answer = f"$(-\\infty,{low})\\cup({high},+\\infty)$"
    second = f"x<{low} \\text{{ or }} x>{high}"
    return Form(answer, second, f"({low},{high})")


def mmk12_line(draw) -> Form:
    slope, shift = draw.randint(2, 9), draw.randint(1, 9)
    second = f"{slope}x-y+{shift}=0"
    return Form(f"y={slope}x+{shift}", second, f"y={slope}x-{shift}")


def mmk12_named(draw) -> Form:
    value = draw.randint(2, 99)
    name = draw.choice(["x", "a", "m", "k", "S"])
    other = {"x": "y", "a": "b", "m": "n", "k": "t", "S": "V"}[name]
    return Form(f"${name}={value}$", str(value), f"{other}={value}")


def mmk12_roots(draw) -> Form:
    a, b = draw.sample(range(-20, 20), 2)
    answer = f"$x_{{1}}={a}$, $x_{{2}}={b}$"
    return Form(answer, f"x={a} \\text{{ or }} x={b}", f"x={a}, x={b + 41}")


def mmk12_pair(draw) -> Form:
    a, b = draw.sample(range(-20, 20), 2)
    return Form(f"$a={a},b={b}$", f"b={b}, a={a}", f"{b}, {a}")


def mmk12_root_over(draw) -> Form:
    a = draw.choice([2, 3, 5, 7])
    answer = f"$\\frac{{\\sqrt{{{a}}}}}{{{a}}}$"
    return Form(
        answer, f"\\frac{{1}}{{\\sqrt{{{a}}}}}", f"\\frac{{\\sqrt{{{a}}}}}{{2{a}}}"
    )


def mmk12_inequality(draw) -> Form:
    value = draw.randint(-20, 20)
    answer = f"$m \\geqslant {value}$"
    return Form(answer, f"[{value},+\\infty)", f"m>{value}")


def mmk12_set(draw) -> Form:
    a, b, c = draw.sample(range(20), 3)
    return Form(f"$\\{{{a},{b},{c}\\}}$", f"{{{b}, {c}, {a}}}", f"\\{{{a},{b}\\}}")


def mmk12_scientific(draw) -> Form:
    digits, power = draw.randint(11, 99) / 10, draw.randint(4, 9)
    answer = f"${digits}\\times {{10}}^{{{power}}}$"
    return Form(answer, f"{digits} × 10^{power}", f"{digits}\\times10^{{{power + 1}}}")


# Geometry3K: lengths and angles of figures.


def geometry3k_length(draw) -> Form:
    value = draw.randint(11, 999) / 10
    return Form(str(value), f"AB = {value}", f"{value * 10:.0f}")


def geometry3k_root(draw) -> Form:
    outside, inside = draw.randint(2, 20), draw.choice([2, 3, 5])
    answer = f"{outside} \\sqrt {{ {inside} }}"
    return Form(
        answer, f"{outside}\\sqrt{inside}", f"{inside} \\sqrt{{{outside + 21}}}"
    )


def geometry3k_angle(draw) -> Form:
    value = draw.randint(5, 175)
    second = draw.choice(
        [f"{value}^\\circ", f"\\angle A = {value}", f"{value} degrees"]
    )
    return Form(str(value), second, f"{180 - value + (value == 90)}")


def geometry3k_fraction(draw) -> Form:
    top, inside = draw.choice([14, 16, 20, 22, 26, 28]), draw.choice([2, 5, 7])
    answer = f"\\frac {{ {top} }} {{ 3 }} \\sqrt {{ {inside} }}"
    second = f"\\frac{{{top}\\sqrt{{{inside}}}}}{{3}}"
    return Form(answer, second, f"\\frac{{{top}}}{{3\\sqrt{{{inside}}}}}")


def geometry3k_letter(draw) -> Form:
    letter, other = draw.sample("ABCD", 2)
    second = draw.choice([f"({letter})", f"{letter}. 12.5", f"the answer is {letter}"])
    return Form(letter, second, draw.choice([other, f"{letter} or {other}"]), "choice")


# ViRL39K: letters, numbers with units, Chinese.


def virl_letter(draw) -> Form:
    letter, other = draw.sample("ABCDEF", 2)
    answer = f"\\boxed{{{letter}}}"
    second = draw.choice(
        [f"选{letter}", f"option {letter} is correct", f"{letter}选项"]
    )
    near = draw.choice(
        [other, f"{letter}. no, so {other}", f"option {letter} is wrong"]
    )
    return Form(answer, second, near, "choice")


def virl_letters(draw) -> Form:
    first, second, other = sorted(draw.sample("ABCDEF", 3))
    near = draw.choice([first, f"{first}, {other}", f"{first} or {second}"])
    return Form(first + second, f"{second} and {first}", near, "choice")


def virl_unit(draw) -> Form:
    value = draw.randint(2, 900)
    unit, other = draw.choice(
        [("cm", "m"), ("m/s", "m"), ("kg", "g"), ("N", "J"), ("°C", "cm"), ("h", "min")]
    )
    second = draw.choice([str(value), f"{value}\\text{{ {unit}}}"])
    return Form(f"{value} {unit}", second, f"{value} {other}")


def virl_chinese_unit(draw) -> Form:
    value = draw.randint(2, 900)
    unit, second, other = draw.choice(
        [("厘米", "cm", "米"), ("平方厘米", "cm^2", "厘米"), ("千克", "kg", "克")]
    )
    return Form(f"{value}{unit}", f"{value} {second}", f"{value}{other}")


def virl_chinese_text(draw) -> Form:
    return draw.choice(
        [
            Form("等腰三角形", "\\text{等腰三角形}", "等边三角形"),
            Form("平行四边形", "平行四边形。", "梯形"),
            Form("正确", "正确。", "不正确"),
            Form("答案：相等", "相等", "不相等"),
            Form("第二象限", " 第二象限 ", "第三象限"),
        ]
    )


def virl_chinese_prose(draw) -> Form:
    value = draw.randint(2, 900)
    answer = draw.choice(
        [
            f"因为两边相等，所以周长为{value}",
            f"小明一共有{value}个苹果",
            f"长方形的面积是{value}",
        ]
    )
    return Form(answer, PROSE_FORM, "")


def virl_yes(draw) -> Form:
    return draw.choice([Form("Yes", "yes.", "No"), Form("No", "\\text{no}", "Yes")])


def virl_tolerance(draw) -> Form:
    value = draw.randint(1000, 9999) / 100
    verifier = "number relative=0.01"
    return Form(
        f"{value} m", f"{value * 100.4:.2f} cm", f"{value * 1.02:.2f} m", verifier
    )


def virl_ratio(draw) -> Form:
    a, b = draw.choice([(3, 2), (1, 4), (5, 7), (9, 16), (2, 5)])
    return Form(f"{a}:{b}", f"{a} : {b}", f"{b}:{a}")


# Those that need the parser are few: it takes most of the time.
PLAIN = {
    gsm8k: 300, gsm8k_decimals: 60, gsm8k_sentences: 100, gsm8k_prose: 40,
    math_solution: 40, math_decimal_fraction: 60, math_interval: 60, math_list: 60, math_text: 40,
    math_percent: 60, math_degrees: 60, math_money: 40, math_base: 30, math_mixed: 40,
    mmk12_union: 50, mmk12_named: 80, mmk12_roots: 60, mmk12_pair: 50, mmk12_inequality: 50,
    mmk12_set: 50, mmk12_scientific: 40, math_tuple: 50,
    geometry3k_length: 100, geometry3k_angle: 100, geometry3k_letter: 80,
    virl_letter: 120, virl_letters: 60, virl_unit: 80, virl_chinese_unit: 60,
    virl_chinese_text: 20, virl_chinese_prose: 30, virl_yes: 10, virl_tolerance: 50, virl_ratio: 20,
}  # fmt: skip
SYMBOLIC = {
    math_root: 30, math_polynomial: 30, math_pi: 20, math_matrix: 20, mmk12_line: 20,
    mmk12_root_over: 4, geometry3k_root: 30, geometry3k_fraction: 12,
}  # fmt: skip
FORMS = PLAIN | SYMBOLIC
