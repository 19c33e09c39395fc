"""Answers of several parts, by kind: a reference answer, boxes that are right, boxes that are not.

Labelled by hand. The wrong ones are near misses of their kind: names swapped, another base, a
transposed matrix, a point too many.
"""

# fmt: off
KINDS = {
    "named values": {
        "x=1, y=2": (
            [
                "y=2, x=1", "1, 2", "x=1 and y=2", r"x=1,\ y=2", "x = 1; y = 2",
                r"\begin{cases}x=1\\y=2\end{cases}", "x=1, 2", r"\{x=1, y=2\}",
                r"x=1\text{ and }y=2", r"y=2 \land x=1",
            ],
            [
                "2, 1", "x=2, y=1", "y=1, x=2", "2 and 1", "1", "y=2", "x=1, y=3", "a=1, b=2",
                r"\{2, 1\}", r"x=1 \text{ or } y=3",
            ],
        ),
        "A=3, B=4": (["3, 4", "B=4, A=3"], ["4, 3", "3, 5"]),
        "a=5, b=-1, c=2": (
            ["5, -1, 2", "c=2, a=5, b=-1"],
            ["5, 2, -1", "-1, 5, 2", "a=5, b=2, c=-1"],
        ),
        "x=2, x=9": (["9, 2", "2, 9", "x=9 or x=2"], ["2", "2, 8"]),
        "x_1=3, x_2=7": (["7, 3", "x_1=3, x_2=7", "3, 7"], ["3, 8"]),
        "1, 2": (["x=1, y=2", "2, 1"], ["y=1, x=3", "x=2, y=1"]),
        r"\alpha=30^\circ, \beta=60^\circ": (
            [r"30^\circ, 60^\circ", r"\beta=60^\circ, \alpha=30^\circ"],
            [r"60^\circ, 30^\circ"],
        ),
        "A(1,2), B(3,4)": (["(1,2),(3,4)", "B(3,4), A(1,2)"], ["(3,4),(1,2)", "A(3,4), B(1,2)"]),
        "m=2, n=-3": (
            ["n=-3, m=2", "2, -3", r"m=2 \text{ and } n=-3", r"m = 2, \; n = -3"],
            ["-3, 2", "m=-3, n=2", "2, 3"],
        ),
        r"a=\frac12, b=\frac13": (
            ["1/2, 1/3", "b=1/3,a=1/2", "a=0.5, b=1/3"],
            ["1/3, 1/2", "a=1/3, b=1/2"],
        ),
        r"p = 3 \text{ and } q = 5": (["3, 5", "q=5, p=3", "3 and 5"], ["5, 3", "5 and 3"]),
        "x=1,y=2,z=3": (["z=3,y=2,x=1", "1,2,3"], ["3,1,2", "x=1,y=3,z=2", "1,2"]),
        "k=4, k=-4": ([r"\pm4", "-4, 4", r"k=\pm 4"], ["4", "k=4"]),
        "甲=3, 乙=5": (["3, 5", "乙=5, 甲=3"], ["5, 3"]),
        "AB=3, BC=4": (["BC=4, AB=3", "3,4"], ["4,3", "AB=4, BC=3"]),
        r"\text{mean}=5, \text{median}=6": (["5, 6", r"\text{median}=6, \text{mean}=5"], ["6, 5"]),
        "x=3, y=4": (["x = 3 , y = 4"], ["y=3, x=4", "x=3", "(4,3)"]),
        "5, 3": (["a=5, b=3", "3, 5"], ["a=3, b=5"]),
        "a=2, b=3": (
            ["a = 2, b = 3", r"a=2\text{ and }b=3", "2 and 3", "b=3;a=2", r"a=2,\quad b=3"],
            ["3 and 2", "a=3,b=2", "b=2, a=3"],
        ),
        "(a,b)=(2,3)": (["(2,3)"], ["(3,2)", "a=3, b=2"]),
        "m=-1, n=0, p=4": (["-1,0,4", "p=4,n=0,m=-1"], ["0,-1,4", "4,0,-1", "m=0,n=-1,p=4"]),
        r"\text{length}=8, \text{width}=5": (
            ["8, 5", r"\text{width}=5, \text{length}=8"],
            ["5, 8", r"\text{length}=5, \text{width}=8"],
        ),
        "x=1, x=-3": (["-3, 1", "x=-3 or x=1", "x_1=1, x_2=-3", "{1,-3}"], ["x=1", "3, -1"]),
        "x=2,y=2": (["2, 2", "y=2,x=2"], ["2", "x=2"]),
        "X=10, Y=20": (["10, 20", "Y=20, X=10"], ["20, 10"]),
        "r=3, h=10": (["h=10, r=3", "3, 10"], ["10, 3", "r=10, h=3"]),
        r"\mu=4, \sigma=2": (["4, 2", r"\sigma=2, \mu=4"], ["2, 4", r"\mu=2, \sigma=4"]),
    },
    "bases": {
        "52_8": (
            ["52_{8}", "52", "(52)_8", r"52_{\text{eight}}", "052_8", "52 _8"],
            ["52_{10}", "52_9", "42", "25_8", "520_8"],
        ),
        "101_2": (["101", "101_{2}"], ["101_{10}", "5", "110_2", "101_3"]),
        "1A_{16}": (["1A_{16}", "1a_{16}", "1A"], ["1A_{12}", "26", "1B_{16}"]),
        "26": (["26"], ["1A_{16}", "26x"]),
        "12_5": ([r"12_{\text{five}}"], ["7", "12_6"]),
        "777_8": (
            ["777_{8}", "777", r"777_{\text{base }8}", "777_{(8)}"],
            ["777_{9}", "511", "77_8"],
        ),
        r"1011_{\text{two}}": (["1011_2", "1011"], ["1011_{3}", "1101_2", "11"]),
        "FF_{16}": (["ff_{16}", "FF"], ["FE_{16}", "255"]),
        "-12_7": (["-12_{7}"], ["12_7", "-12_{6}"]),
        "0.11_2": (["0.11"], ["0.11_3", "0.75"]),
        "23_5": (["23_{5}"], ["2 3_5", "32_5", "23_{6}", "2.3_5"]),
        "1010_2": ([r"1010_{\text{two}}", "(1010)_2", "1010"], ["1010_8", "10", "1010_{16}"]),
        "3C_{16}": (["3c_{16}", "3C"], ["3C_{15}", "60", "C3_{16}"]),
    },
    "lists with and": {
        "1, 2, and 3": (
            ["1, 2, 3", "3, 2, 1", "1, 2 and 3", "1, 2, or 3", r"1, 2,\text{ and }3"],
            ["1, 2", "1, 2, and 4", "1, 2, 3, 4", "(1, 2, 3)"],
        ),
        "1, 2, 3": (["1, 2, and 3", "1，2，和3", "1、2和3", r"1, 2, \text{ or } 3"], ["1 or 2"]),
        "x=1, x=2, or x=3": (["1, 2, 3", "x=1, 2, 3"], ["1, 2"]),
        r"\sqrt2, -\sqrt2, \text{ and } 0": (
            [r"0, \sqrt{2}, -\sqrt{2}", r"\pm\sqrt2, 0"],
            [r"\sqrt2, 0"],
        ),
        "7": (["7"], ["7 or 8", "7, or 8", "7, and 8"]),
        "2, 4, and 6": (
            ["2,4,6", "2, 4 and 6", "6, 4, 2", "2; 4; 6", r"\{2,4,6\}"],
            ["2,4", "2, 4, and 8", "246"],
        ),
        "red, green, and blue": (["red, green, blue"], ["red, green"]),
        r"\frac12 \text{ or } -3": (
            [r"-3, \frac12", "0.5 or -3", "x=-3, x=1/2"],
            ["-3", r"\frac12"],
        ),
        r"x = -2, x = 0, \text{ and } x = 5": (
            ["-2, 0, 5", "x=-2, 0, 5", r"x \in \{-2,0,5\}"],
            ["-2, 5"],
        ),
        "A, B, and C": (["A, B, C", "ABC"], ["A, B"]),
        "3, 5, 7": (
            [r"3, 5, \text{ or } 7", "3、5、7", "3，5，以及7", "3, 5, and 7."],
            ["3, 5, 9"],
        ),
        "8": (["8"], ["8, or 9", "4 and 8", "8 and 8"]),
        "5, 7, and 11": (
            ["5, 7, 11", "11, 7, 5", "5, 7 and 11", r"5,\ 7,\text{ and }11"],
            ["5, 7", "5, 7, or 12"],
        ),
        r"x = 2 \text{ or } x = -3": (
            ["2, -3", "x=-3, 2", r"-3 \text{ or } 2"],
            ["2", "x=2, x=3"],
        ),
    },
    "matrices and cases": {
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}": (
            [
                r"\begin{bmatrix}1&2\\3&4\end{bmatrix}",
                r"\left[\begin{array}{cc}1&2\\3&4\\\end{array}\right]",
                r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \\ \end{pmatrix}",
                r"A=\begin{pmatrix}1&2\\3&4\end{pmatrix}",
                r"\left(\begin{matrix}1&2\\3&4.0\end{matrix}\right)",
                r"\begin{Bmatrix}1&2\\3&4\end{Bmatrix}",
            ],
            [
                r"\begin{pmatrix}1&3\\2&4\end{pmatrix}",
                r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "1,2,3,4", "(1,2,3,4)", "-2",
                r"\begin{pmatrix}1&2&3&4\end{pmatrix}",
            ],
        ),
        r"\begin{pmatrix}\frac12&0\\0&1\end{pmatrix}": (
            [
                r"\begin{pmatrix}0.5&0\\0&1\end{pmatrix}",
                r"\begin{bmatrix}1/2&0\\0&1.0\end{bmatrix}",
            ],
            [
                r"\begin{pmatrix}2&0\\0&1\end{pmatrix}",
                r"\begin{pmatrix}0&\frac12\\1&0\end{pmatrix}",
            ],
        ),
        r"\begin{pmatrix}1\\2\end{pmatrix}": (
            [
                r"\begin{bmatrix}1\\2\end{bmatrix}",
                r"\left[\begin{array}{r}1\\2\end{array}\right]",
            ],
            [r"\begin{pmatrix}2\\1\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", "(1,2)"],
        ),
        r"f(x)=\begin{cases}x^2, & x>0 \\ 0, & x\le 0\end{cases}": (
            [
                r"\begin{cases}x^2 & \text{if } x>0 \\ 0 & \text{if } x\le 0\end{cases}",
                r"\begin{cases}0, & x\le 0\\x^2, & 0<x\end{cases}",
                r"f(x)=\begin{cases}x\cdot x, & x>0 \\ 0, & x\leq 0 \\ \end{cases}",
            ],
            [
                r"\begin{cases}x^2, & x\le 0 \\ 0, & x>0\end{cases}",
                r"\begin{cases}x^2, & x\ge0 \\ 0, & x< 0\end{cases}", "x^2",
                r"\begin{cases}x, & x>0 \\ 0, & x\le 0\end{cases}",
            ],
        ),
        r"\begin{cases}x=1\\y=2\end{cases}": (
            [
                "x=1, y=2", r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.",
                r"\begin{cases}y=2\\x=1\end{cases}", r"\begin{cases}x&=1\\y&=2\end{cases}",
                "1, 2",
            ],
            ["x=2, y=1", "2, 1"],
        ),
        r"\begin{cases}1 & n \text{ even}\\ 0 & \text{otherwise}\end{cases}": (
            [r"\begin{cases}1, & n \text{ even}\\ 0, & \text{otherwise}\end{cases}"],
            [r"\begin{cases}0, & n \text{ even}\\ 1, & \text{otherwise}\end{cases}"],
        ),
        r"\begin{bmatrix}x+1\\2\end{bmatrix}": (
            [
                r"\begin{pmatrix}1+x\\2\end{pmatrix}",
                r"\left(\begin{array}{c}x+1\\2\end{array}\right)",
            ],
            [r"\begin{pmatrix}2\\1+x\end{pmatrix}", r"\begin{pmatrix}x+1&2\end{pmatrix}"],
        ),
        r"\begin{vmatrix}1&2\\3&4\end{vmatrix}": (
            [
                r"\left|\begin{array}{cc}1&2\\3&4\end{array}\right|",
                r"\begin{vmatrix}1 & 2 \\ 3 & 4\end{vmatrix}",
            ],
            [r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"],
        ),
        r"\begin{pmatrix}-1&\sqrt{2}\\0&\pi\end{pmatrix}": (
            [
                r"\begin{bmatrix}-1&2^{1/2}\\0&\pi\end{bmatrix}",
                r"\begin{bmatrix} -1 & \sqrt2 \\[2pt] 0 & \pi \end{bmatrix}",
            ],
            [
                r"\begin{bmatrix}1&\sqrt2\\0&\pi\end{bmatrix}",
                r"\begin{bmatrix}-1&\sqrt2\\0&3.14\end{bmatrix}",
            ],
        ),
        r"\begin{cases} 2x+1, & x<0 \\ x^2, & x\ge 0 \end{cases}": (
            [
                r"\begin{cases} 1+2x, & \text{if } x<0 \\ x^2, & \text{if } x\geq 0 \end{cases}",
                r"\begin{cases} x^2, & x\ge 0 \\ 2x+1, & 0>x \end{cases}",
                r"\left\{\begin{array}{ll} 2x+1, & x<0 \\ x^2, & x\ge 0 \end{array}\right.",
                r"y=\begin{cases} 2x+1 & (x<0) \\ x^2 & (x\ge 0) \end{cases}",
            ],
            [
                r"\begin{cases} 2x+1, & x\ge 0 \\ x^2, & x< 0 \end{cases}",
                r"\begin{cases} 2x+1, & x\le 0 \\ x^2, & x> 0 \end{cases}", "2x+1, x^2",
            ],
        ),
        r"\begin{cases}x=2\\y=-1\end{cases}": (
            [
                "x=2, y=-1", "y=-1, x=2", r"\begin{aligned}x&=2\\y&=-1\end{aligned}",
                r"\left\{\begin{array}{c}x=2\\y=-1\end{array}\right.",
            ],
            ["x=-1, y=2", r"\begin{cases}x=-1\\y=2\end{cases}", "-1, 2"],
        ),
        r"2\begin{pmatrix}1\\2\end{pmatrix}": (
            [r"2\begin{bmatrix}1\\2\end{bmatrix}"],
            [r"3\begin{pmatrix}1\\2\end{pmatrix}"],
        ),
        r"\begin{pmatrix}1 & 0 & 0\\0 & 1 & 0\end{pmatrix}": (
            [r"\begin{bmatrix}1&0&0\\0&1&0\end{bmatrix}"],
            [
                r"\begin{bmatrix}1&0\\0&1\\0&0\end{bmatrix}",
                r"\begin{bmatrix}1&0&0&0&1&0\end{bmatrix}",
            ],
        ),
        r"\begin{bmatrix} 2 & 0 \\ 0 & 3 \end{bmatrix}": (
            [
                r"\begin{pmatrix}2&0\\0&3\end{pmatrix}",
                r"\left(\begin{array}{rr}2&0\\0&3\end{array}\right)",
                r"\left[\begin{matrix}2&0\\0&3\end{matrix}\right]",
                r"\begin{bmatrix}2&0\\0&3\\\end{bmatrix}",
                r"\begin{bmatrix}2.0 & 0 \\[4pt] 0 & 3\end{bmatrix}",
                r"A = \begin{bmatrix}2&0\\0&3\end{bmatrix}",
                r"\bigl(\begin{smallmatrix}2&0\\0&3\end{smallmatrix}\bigr)",
            ],
            [
                r"\begin{bmatrix}0&2\\3&0\end{bmatrix}",
                r"\begin{bmatrix}2&0\\0&-3\end{bmatrix}", "6",
                r"\begin{vmatrix}2&0\\0&3\end{vmatrix}",
            ],
        ),
        r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}": (
            [r"\begin{bmatrix}a&b\\c&d\end{bmatrix}"],
            [r"\begin{bmatrix}a&c\\b&d\end{bmatrix}"],
        ),
        r"\begin{pmatrix} 1 \\ -2 \\ 3 \end{pmatrix}": (
            [
                r"\begin{bmatrix}1\\-2\\3\end{bmatrix}",
                r"\vec{v}=\begin{pmatrix}1\\-2\\3\end{pmatrix}",
            ],
            [
                r"\begin{bmatrix}1&-2&3\end{bmatrix}", r"\begin{bmatrix}1\\2\\3\end{bmatrix}",
                "(1,-2,3)",
            ],
        ),
        r"f(x) = \begin{cases} x+1 & \text{if } x \ge 0 \\ -x & \text{if } x < 0 \end{cases}": (
            [
                r"\begin{cases} x+1, & x\geq 0, \\ -x, & x<0. \end{cases}",
                r"f(x)=\begin{cases} -x & x<0 \\ x+1 & x\ge 0\end{cases}",
                r"\begin{cases} x+1, & \text{when } x\ge0 \\ -x, & \text{when } x<0\end{cases}",
            ],
            [
                r"\begin{cases} -x & x \ge 0 \\ x+1 & x < 0 \end{cases}",
                r"\begin{cases} x+1 & x > 0 \\ -x & x \le 0 \end{cases}",
                r"\begin{cases} x-1 & x \ge 0 \\ -x & x < 0 \end{cases}",
            ],
        ),
        r"\begin{cases}x = 3\\y = 4\end{cases}": (
            [
                "x=3,y=4", r"\begin{cases}x=3,\\y=4.\end{cases}", r"x=3 \text{ and } y=4",
                r"\left\{\begin{aligned}x&=3\\y&=4\end{aligned}\right.",
            ],
            ["x=4,y=3", "(4,3)"],
        ),
        r"\begin{cases} 1, & 0<x<1 \\ 0, & \text{otherwise} \end{cases}": (
            [
                r"\begin{cases} 1 & \text{for } 0<x<1 \\ 0 & \text{otherwise.} \end{cases}",
                r"f(x)=\begin{cases} 0, & \text{otherwise}\\1, & 1>x>0 \end{cases}",
            ],
            [
                r"\begin{cases} 0, & 0<x<1 \\ 1, & \text{otherwise} \end{cases}",
                r"\begin{cases} 1, & 0\le x<1 \\ 0, & \text{otherwise} \end{cases}",
            ],
        ),
        r"\begin{pmatrix}1&2\end{pmatrix}": (
            [r"\begin{bmatrix}1&2\end{bmatrix}"],
            ["(1,2)", r"\begin{pmatrix}2&1\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"],
        ),
        r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]": (
            [r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"],
            [r"\left(\begin{array}{cc}1&2\\3&4\end{array}\right]"],
        ),
    },
    "named tuples": {
        "(x, y) = (1, 2)": (
            ["(1, 2)", "(x,y)=(1,2)", r"\left(1, 2\right)", "(x;y)=(1;2)"],
            ["(2, 1)", "(y, x) = (1, 2)", "1, 2"],
        ),
        "(1,2)": (["(x, y) = (1, 2)", "(a, b) = (1, 2)", "P(1, 2)"], ["(x, y) = (2, 1)"]),
        "(a, b, c) = (1, 2, 3)": (["(1,2,3)"], ["(3,2,1)"]),
        "f(2, 3)": (["f(2,3)"], ["f(3,2)", "(2,3)", "g(2,3)"]),
        "(a, b) = (3, -2)": (["(3,-2)", "(a,b)=(3,-2)"], ["(-2,3)", "(b,a)=(3,-2)", "(3,2)"]),
        "(x, y, z) = (1, 2, 3)": (["(1, 2, 3)"], ["(1, 3, 2)"]),
        "(m, n) = (2, 5)": (["(2, 5)"], ["[2, 5]", "2, 5"]),
        "(x_0, y_0) = (1, 2)": (["(1,2)"], ["(2,1)"]),
        "g(1, 4)": (["g(1,4)"], ["g(4,1)"]),
    },
    "sets of real numbers": {
        r"\mathbb{R}": (
            [
                r"\text{all real numbers}", r"(-\infty,\infty)", "all reals",
                r"x\in\mathbb{R}", "全体实数", r"\text{All real numbers}", r"-\infty<x<\infty",
                r"(-\infty, +\infty)", r"x \text{ is any real number}",
            ],
            [r"(0,\infty)", r"\emptyset", r"\text{all integers}", r"(-\infty,0)"],
        ),
        r"(-\infty,0)\cup(0,\infty)": (
            [
                r"x \neq 0", r"\mathbb{R}\setminus\{0\}", r"\text{all real numbers except }0",
                r"\{x \mid x\ne0\}", r"\{x : x\ne0\}", r"x<0 \text{ or } x>0",
            ],
            [r"x\ne1", r"\mathbb{R}", r"(-\infty,0]\cup[0,\infty)"],
        ),
        "(0,2)": (
            [
                r"x>0 \text{ and } x<2", "0<x<2", r"(0,1)\cup[1,2)", r"\{x : 0<x<2\}",
                r"\{x\in\mathbb{R}: 0<x<2\}", r"x\in(0,2)",
            ],
            [r"(0,1)\cup(1,2)", r"x>0 \text{ or } x<2", r"0<x\le 2", "(2,0)"],
        ),
        r"\mathbb{R}\setminus\{1,2\}": (
            [
                r"x\ne1,2", r"x\neq 1 \text{ and } x\neq 2",
                r"(-\infty,1)\cup(1,2)\cup(2,\infty)", r"\mathbb{R}-\{1,2\}",
            ],
            [r"x\ne1", r"\{1,2\}"],
        ),
        r"x>0, x\ne1": (
            [r"(0,1)\cup(1,\infty)", r"x>0 \text{ and } x\neq1"],
            [r"(0,\infty)", r"x\ne1"],
        ),
        r"[0,\sqrt2)": (
            [r"0\le x<\sqrt{2}", r"[0,1]\cup(1,\sqrt2)"],
            [r"[0,\sqrt3)", r"[0,\sqrt2]"],
        ),
        r"x\ge 1 \text{ or } x=0": ([r"\{0\}\cup[1,\infty)"], [r"[1,\infty)", r"(0,\infty)"]),
        "x<1 or x>7": ([r"(-\infty,1)\cup(7,\infty)", "x>7 or x<1"], ["x<1 and x>7", "1<x<7"]),
        r"x \ne \pm 1": (
            [
                r"(-\infty,-1)\cup(-1,1)\cup(1,\infty)", r"x\ne1, x\ne-1",
                r"\mathbb{R}\setminus\{-1,1\}",
            ],
            [r"x\ne1", r"x=\pm1"],
        ),
        r"\{x \mid x > 3\}": (["x>3", r"(3,\infty)", r"\{x: x>3\}"], [r"x\ge3", "x<3"]),
        r"\{x \in \mathbb{R} : x \le 4\}": ([r"(-\infty,4]", r"x\le4"], ["x<4"]),
        "-1 < x < 1": (
            ["(-1,1)", r"x>-1 \text{ and } x<1", r"x > -1 \land x < 1"],
            ["[-1,1]", r"x<-1 \text{ or } x>1"],
        ),
        r"x \le -2 \text{ or } x \ge 2": (
            [
                r"(-\infty,-2]\cup[2,\infty)", r"x\le-2 \lor x\ge2",
                r"\mathbb{R}\setminus(-2,2)",
            ],
            ["(-2,2)", r"(-\infty,-2)\cup(2,\infty)"],
        ),
        r"(-\infty, 5)\cap(2,\infty)": (["(2,5)", "2<x<5"], ["(2,5]"]),
        r"\text{all real numbers except } 2": (
            [r"x\ne2", r"\mathbb{R}\setminus\{2\}", r"(-\infty,2)\cup(2,\infty)"],
            ["2", r"\mathbb{R}", r"\text{all real numbers except } 3"],
        ),
        r"[1,3]\cup[2,5]": (["[1,5]"], ["[1,3]", "[2,3]"]),
        r"(-1,1)\setminus\{0\}": ([r"(-1,0)\cup(0,1)"], ["(-1,1)"]),
        r"x\in(-\infty,0)\cup(1,+\infty)": (["x<0 or x>1", "x<0或x>1"], ["0<x<1"]),
        r"k\ge 1 \text{ and } k\ne 2": ([r"[1,2)\cup(2,\infty)", "k≥1且k≠2"], ["k≥1"]),
        r"\emptyset": ([r"\{\}", "∅", r"\varnothing"], [r"\{\emptyset\}", "0"]),
        r"0<x<\frac{\pi}{2}": ([r"(0,\pi/2)"], [r"(0,\pi)", r"[0,\frac{\pi}{2}]"]),
        "a<x<b": (["(a,b)", "b>x>a"], ["(b,a)", r"a\le x<b"]),
        "(0,1)": (["0<x<1"], ["(1,0)", "[0,1]", "0,1"]),
        "x>2": (
            [
                r"\text{all real numbers greater than 2}", r"\{x|x>2\}", r"x\in(2,\infty)",
                r"(2,+\infty)",
            ],
            ["x>-2", r"[2,\infty)"],
        ),
        r"x \geq 0 \text{ and } x \neq 4": (
            [r"[0,4)\cup(4,\infty)", r"x\ge0, x\ne4"],
            [r"[0,\infty)", r"(0,4)\cup(4,\infty)"],
        ),
        r"\mathbb{R} \setminus \{-2, 2\}": (
            [
                r"x \neq \pm 2", r"x\ne2,-2", r"(-\infty,-2)\cup(-2,2)\cup(2,\infty)",
                r"\text{all real numbers except } 2 \text{ and } -2", r"\{x\mid x\ne\pm2\}",
                r"\{x \in \mathbb{R} \mid x \neq 2, x\ne -2\}",
            ],
            [r"x\ne2", "(-2,2)"],
        ),
        r"(-\infty, 1] \cup [3, \infty)": (
            [
                r"x\le1 \text{ or } x\ge3", r"\{x : x\le 1 \text{ or } x\ge 3\}",
                r"\mathbb{R}\setminus(1,3)", r"x \in (-\infty,1]\cup[3,+\infty)",
            ],
            [r"1\le x\le3", r"x<1 \text{ or } x>3", "[1,3]"],
        ),
        "[-1, 1]": (
            [
                r"-1\le x\le1", r"x \ge -1 \text{ and } x \le 1", r"\{x : -1 \le x \le 1\}",
                r"[-1,0]\cup[0,1]",
            ],
            ["(-1,1)", "-1, 1"],
        ),
        r"\{x \mid -2 < x \leq 5\}": (
            ["(-2,5]", r"-2<x\le5", r"x>-2 \text{ and } x\le 5"],
            ["[-2,5)", "(-2,5)"],
        ),
        r"(0,\infty)": (
            [
                "x>0", r"\mathbb{R}^+", r"\text{all positive real numbers}", r"\mathbb{R}_{+}",
                r"\{x : x>0\}",
            ],
            [r"[0,\infty)", r"x\ge0"],
        ),
        r"(1,2)\cup(2,3)": (
            [r"(1,3)\setminus\{2\}", r"1<x<3, x\ne2", r"1<x<3 \text{ and } x\neq 2"],
            ["(1,3)", r"(1,2)\cap(2,3)"],
        ),
        r"\{0\}\cup[1,\infty)": (
            [r"x=0 \text{ or } x\ge1", r"[1,\infty)\cup\{0\}"],
            [r"[1,\infty)"],
        ),
        r"t \ge 0": ([r"[0,\infty)", r"0\le t"], ["t>0", r"x\ge0"]),
        r"-3\le a<2": (["[-3,2)", r"a\in[-3,2)"], ["(-3,2]", r"-3\le b<2"]),
        r"x<-1 \lor x>1": (
            [r"(-\infty,-1)\cup(1,\infty)", "x<-1 or x>1", "x>1或x<-1"],
            ["-1<x<1"],
        ),
        r"x \in \mathbb{R} \setminus \{0\}": (
            [r"x\ne0", r"\mathbb{R}\backslash\{0\}", r"(-\infty,0)\cup(0,\infty)"],
            ["x=0", r"\mathbb{R}"],
        ),
        r"\{x \in \mathbb{Z} : 0<x<3\}": (
            [r"\{x \in \mathbb{Z} \mid 0<x<3\}"],
            ["(0,3)", r"\{x \in \mathbb{R} : 0<x<3\}"],
        ),
        r"\{y \mid y \ge -1\}": (
            [r"y\ge-1", r"[-1,\infty)", r"\{y : y\geq -1\}"],
            ["y>-1", r"(-\infty,-1]", r"\{x \mid x\ge 1\}"],
        ),
        r"x\ne0": ([r"\{x\mid x\ne0\}"], [r"\{y\mid x\ne0\}", r"x\ne1, y\ne0"]),
    },
}
