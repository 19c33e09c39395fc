"""Answers of a policy that is wrong or bad: malformed, hostile, code. Fixed seeds.

The full counts (10,000 malformed answers) run with --slow.
"""

import dataclasses
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from labelled_answers import boxed
from scored_texts import score_texts

from r1v3_jax import rewards
from r1v3_jax.config import Verify
from r1v3_jax.rewards.verifiers.routing import NAMES
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import processes, verify, verify_all

RIGHT, WRONG, ERROR = Verdict.RIGHT, Verdict.WRONG, Verdict.ERROR
SETTINGS = Verify(processes=2, deadline_s=10.0, memory_gib=2.0)
PACKAGE = Path(rewards.__file__).parent


# Golds with the verifier that a row would name; the answer is nothing that random pieces make.
GOLDS = [
    ("", "7391"), ("", r"5\sqrt{3}+2"), ("", "x^2-7x+3"), ("", "(3,-8)"), ("", "K"),
    ("", "hexagon"), ("", r"\frac{17}{23}"), ("", "y=4x-9"), ("", r"[2,9)\cup(11,\infty)"),
    ("", "68%"), ("", "13, 29"), ("", "47 cm"), ("choice", "K"),
    ("number relative=0.001", "7391 kg"),
    ("string", "hexagon 12"), ("set", r"13, \sqrt{29}, cube"), ("grid", "13 29\n31 37"),
    ("detection iou=1", "[13, 29, 313, 329]"),
]  # fmt: skip
PIECES = r"""\boxed{ { } \{ \} ( ) [ ] \ \\ ^ _ ^{ , ; = < \le > ! | / + - . % $ ~ ' & x y 9 99
    7 13 e i \frac \frac{1}{2} \sqrt \sqrt[9]{2} \pi \sin \log \exp( \infty \pm \cup \text{ or
    and not 或 \int \sum \begin{pmatrix} \end{pmatrix} \circ cm kg 2\sqrt{3} ° \overline{3} \in
    \mid " : null NaN [[ ]] {"bbox_2d": \mathbb{R} \left \right 1e9 0x10 \u202e \x00 √
    ² １ ∞""".split()
PIECES += [" ", "\n", "\t", "\x00", "\ud800", "\u202e", "😀", "</think>", "9" * 50]


def malformed(count, seed=0):
    """(verifier, gold, box): random pieces, other golds, golds with something done to them."""
    generator = random.Random(seed)
    for _ in range(count):
        verifier, gold = generator.choice(GOLDS)
        kind = generator.random()
        if kind < 0.5:
            box = "".join(generator.choices(PIECES, k=generator.randint(1, 20)))
        else:
            start = generator.choice(GOLDS)[1] if kind < 0.75 else gold
            i, j = sorted(generator.choices(range(len(start) + 1), k=2))
            middle = "".join(generator.choices(PIECES, k=generator.randint(0, 4)))
            box = start[:i] + middle + start[j if generator.random() < 0.5 else i :]
        yield verifier, gold, box


def bare(text):
    """What a text says, without what is no part of it: units, brackets, a name in front."""
    text = re.sub(r"^[ ~$(]*[A-Za-z]'?\s?(=|\\in(?![a-z]))|[ ~]g$", "", text)
    text = re.sub(
        r"\\(?:text|left|right|circ|overline|begin\{pmatrix\})|°|cm|kg|percent",
        "",
        text,
    )
    text = text.casefold().translate(str.maketrans("１;", "1,"))
    return re.sub(r"或|\bor\b|\band\b", ",", text)


def sorted_parts(text):
    parts = re.split(r",|\\cup", bare(text))
    return sorted(filter(None, (re.sub(r"[^\w/-]", "", part) for part in parts)))


def is_the_answer(verifier, gold, box):
    """Whether an accepted box spells gold; the order counts but in sets, and for a choice what
    stands behind the letter does not.
    """
    if verifier == "choice":
        return re.sub(r"\W", "", bare(box)).startswith("k")
    if "," in gold and gold[0] not in "([" or verifier == "set" or r"\cup" in gold:
        return sorted_parts(gold) == sorted_parts(box)
    return len({re.sub(r"[^\w/<>%-]|_", "", bare(text)) for text in (gold, box)}) == 1


def peak_kib(process):
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def fuzz(count):
    seconds, verdicts, accepted = [], {RIGHT: 0, WRONG: 0, ERROR: 0}, []
    # The processes start.
    verify_all([boxed(r"\sqrt{2}+1")] * 2, [r"1+\sqrt{2}"] * 2, verify=SETTINGS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for verifier, gold, box in malformed(count):
        start = time.perf_counter()
        [check] = verify_all(
            [boxed(box)], [gold], verifiers=[verifier], verify=SETTINGS
        )
        seconds.append(time.perf_counter() - start)
        verdicts[check.verdict] += 1
        if check.verdict is RIGHT and not is_the_answer(
            verifier, gold, check.extracted
        ):
            accepted.append((verifier, gold, check.extracted))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    seconds.sort()
    high = max(peak_kib(w.process.pid) for w in processes(SETTINGS).workers)
    p99 = seconds[int(0.99 * count)]
    numbers = ", ".join(f"{n} {verdict.value}" for verdict, n in verdicts.items())
    print(
        f"\nfuzz: {count:,} answers: {numbers}; false accepts {accepted}; p99 {1e3 * p99:.1f} "
        f"ms, slowest {1e3 * seconds[-1]:.0f} ms; this process grew {grown:.0f} MiB, a verifier's "
        f"process has had {high / 1024:.0f} MiB"
    )
    assert len(accepted) < 0.001 * count
    assert p99 < SETTINGS.deadline_s / 10 and seconds[-1] < SETTINGS.deadline_s
    assert verdicts[ERROR] < 0.001 * count
    assert grown < 100 and high < 500 * 1024


def test_malformed_answers(capsys):
    with capsys.disabled():
        fuzz(800)


@pytest.mark.slow
def test_ten_thousand_malformed_answers(capsys):
    with capsys.disabled():
        fuzz(10_000)


HOSTILE = [
    "9^{9^{9^{9}}}", "9^9^9^9^9", "((99^{99})^{99})^{99}", "9^{(9999999999)}", "10^{10^{10}}",
    r"\sqrt[(((9^{999})^{99})^{99})^{9}]{2}", r"\log_{9^{9999}} 2", r"\tan(9^{9999}\pi)", "3!!!!!",
    r"\exp(\exp(\exp(\exp(\exp(9)))))", r"2\sqrt{3}+9^{9999}", "99999999!",
    "9" * 400, "9" * 100_000,
    r"\sqrt[9^{999999999}]{2}", r"\sin(\exp(\exp(18)))", "(" * 200 + "3" + ")" * 200,
    r"\sqrt{" * 60 + "3" + "}" * 60, "{" * 150 + "}" * 150, r"\frac{1}{" * 40 + "3" + "}" * 40,
    r"\log_{" * 8 + "x" + "}x" * 8, "1/" * 150 + "1", "|" * 300, "-" * 300 + "3", "x" * 399,
    r"\pm" * 100, "=" * 300, "<" * 300, "\\" * 399, r"\sum_{n=1}^{99999999}\frac{1}{n}",
    r"\int_0^1 e^{x^2}dx", r"\binom{99999999}{4444444}", "(a+b+c+d+e+f)^{99}", "," * 300, "~" * 399,
    r"\sin(\cos(\tan(\sin(\cos(\tan x)))))", r"\text{" * 70 + "}" * 70, r"\begin{pmatrix}" * 20,
    "1," * 199 + "1", "或" * 300, "1 or " * 70, " " * 399, " ~" * 199, "a " * 199, "[" * 399,
    "[" * 19_000, "[[" + "1," * 9000 + "1]]", "[" + "[1,1,2,2]," * 1900 + "[1,1,2,2]]",
    '{"bbox_2d":' * 1500, "[0,0,1," + "9" * 5000 + "]", "[0,0,1,1e99999]", "1 " * 9999,
    "\n" * 19_000,
    "1;" * 9000, "&" * 9000, "| " * 9000, '"' * 19_000, "1" * 19_999, "A," * 200, "(A)" * 130,
    "\u202e" * 399, "\x00" * 399, "\ud800" * 399, "é̂" * 199, "①" * 399, "0." + "3" * 390,
    "1e999", "1e-999", "1" + "0" * 398, "0x" + "f" * 390, r"0.\overline{" + "9" * 380 + "}",
    r"x\in" * 100, r"\{x|" * 99, r"\mid" * 99, "]1,2[" * 79, r"\cup" * 99, "P(" * 99 + ")" * 99,
]  # fmt: skip


def test_hostile_answers_are_wrong_at_once_and_hurt_nobody(capsys):
    neighbour = (r"1+\sqrt{2}", r"\sqrt{2}+1")
    slowest = 0.0
    # The processes start.
    verify_all([boxed(neighbour[1])] * 2, [neighbour[0]] * 2, verify=SETTINGS)
    rows = [  # verifier, gold
        ("", r"2\sqrt{3}"),
        ("", "x^2+y^2=1"),
        ("", r"1,\sqrt{2}"),
        ("", "7"),
        ("", "Yes"),
        ("choice", "B"),
        ("number", "3.5 m"),
        ("string", "Yes"),
        ("set", r"1, \sqrt{2}"),
        ("detection", "[0, 0, 1, 1]"),
        ("grid", "1 2\n3 4"),
    ]
    for inside in HOSTILE:
        start = time.perf_counter()
        checks = verify_all(
            [boxed(inside)] * len(rows) + [boxed(neighbour[1])],
            [gold for _, gold in rows] + [neighbour[0]],
            verifiers=[verifier for verifier, _ in rows] + [""],
            verify=SETTINGS,
        )
        slowest = max(slowest, time.perf_counter() - start)
        assert checks.pop().verdict is RIGHT
        assert {check.verdict for check in checks} == {WRONG}, (inside[:50], checks)
        for (verifier, gold), check in zip(rows, checks, strict=True):
            if len(inside) < 1000:  # the plain loop says the same
                assert check == verify(boxed(inside), gold, verifier=verifier)
    with capsys.disabled():
        print(
            f"\nhostile: {len(HOSTILE)} answers x 11 golds, slowest eleven {slowest:.2f} s"
        )
    assert len(HOSTILE) >= 60 and slowest < SETTINGS.deadline_s


def test_hostile_answers_as_golds_raise_nothing():
    for gold in HOSTILE:
        for verifier in NAMES:
            [check] = verify_all(
                [boxed("7")], [gold], verifiers=[verifier], verify=SETTINGS
            )
            is_refused = check.verdict in (WRONG, ERROR)
            assert is_refused or gold.strip("0.") == "7", gold[:50]


@pytest.mark.parametrize("verifier", ["", *NAMES])
def test_hostile_completions_take_linear_time(verifier):
    for piece in (
        r"\boxed{",
        r"\boxed{}",
        r"\boxed{7}",
        "{",
        "}",
        "\\",
        "</think>",
        " ",
        "\ud800",
    ):
        completion = "</think>" + piece * (200_000 // len(piece)) + r"\boxed{7}"
        start = time.process_time()
        score_texts([completion], ["7"], [True], verifiers=[verifier], verify=SETTINGS)
        assert time.process_time() - start < 5  # quadratic time would be an hour


# Code

CANARY = "r1v3canary"
CODE = [
    f"__import__('os').system('touch {CANARY}')",
    f"__import__('subprocess').run(['touch','{CANARY}'])",
    f"open('{CANARY}','w').write('x')", f"eval(\"open('{CANARY}','w')\")", f"exec('{CANARY}=1')",
    f"(lambda:open('{CANARY}'))()", f"().__class__.__base__.__subclasses__() #{CANARY}",
    f"[x for x in ().__class__.__mro__ if '{CANARY}']",
    f"getattr(__import__('os'),'popen')('{CANARY}')",
    f"os.popen('{CANARY}').read()", f"import os;os.remove('{CANARY}')",
    f"compile('{CANARY}','','exec')",
    f"breakpoint() #{CANARY}", f"exit('{CANARY}')", f"input('{CANARY}')", f"globals()['{CANARY}']",
    f"type('{CANARY}',(),{{}})", f"f'{{open(\"{CANARY}\")}}'", f"%({CANARY})s",
    f"{{{CANARY}.__class__}}",
    f"Symbol('{CANARY}').__class__", f"lambdify(x,'{CANARY}')(1)", f"sympify('{CANARY}')",
    f"parse_expr('{CANARY}')", f"preview(x,filename='{CANARY}')", f"S('{CANARY}')",
    f"Function('{CANARY}')(x)", f"x.subs(x,'{CANARY}')", f"cos.__globals__['{CANARY}']",
    f"{{{{''.__class__.__mro__[1]}}}}{CANARY}", f"{{% import '{CANARY}' %}}", f"${{{CANARY}}}",
    f"#{{`touch {CANARY}`}}", f"`touch {CANARY}`", f"$(touch {CANARY})", f"; touch {CANARY} #",
    f"| touch {CANARY}", f"&& curl http://localhost/{CANARY}", f"http://localhost/{CANARY}",
    f"file:///etc/{CANARY}", f"!!python/object/apply:os.system ['{CANARY}']",
    f"cos\nsystem\n(S'touch {CANARY}'\ntR.", f"<?php system('{CANARY}'); ?>",
    f"<script>{CANARY}</script>", f"'; DROP TABLE {CANARY}; --",
    rf"\input{{{CANARY}}}", rf"\include{{/etc/{CANARY}}}", rf"\write18{{touch {CANARY}}}",
    rf"\immediate\write18{{touch {CANARY}}}", rf"\openout1={CANARY}",
]  # fmt: skip
CARRIERS = [
    "{}", "7+{}", r"\sqrt{{{}}}", r"\operatorname{{{}}}", r"\text{{{}}}=7", "[{}, 1]",
]  # fmt: skip
INJECTIONS = list(
    dict.fromkeys(carrier.format(code) for code in CODE for carrier in CARRIERS)
)

# In an interpreter of its own, as a hook cannot be taken off: every rule over every string, and
# what Python then reports of files, processes, sockets, code and modules.
WATCHED = """
import json, sys
from r1v3_jax.rewards.verifiers import routing
golds = {"detection": "[1, 2, 3, 4]", "grid": "1 2", "number": "3.5 m", "choice": "B"}
golds["overlap"] = golds["detection"]
mathematics = ["7", r"2\\sqrt{3}", "y=2x+1", "1,7", r"[1,\\infty)"]
strings = json.load(sys.stdin)

def run(inside):
    for name in routing.NAMES:
        rules = (routing.Rule(name),)
        for gold in [golds[name]] if name in golds else mathematics:
            assert routing.check(rules, gold, inside).verdict is not routing.Verdict.RIGHT, inside
        routing.check(rules, inside, "7")

for warm in "8+x", r"\\sqrt{x}+1", r"\\operatorname{f}(x)", r"\\text{a}=8", "x=2", "[1, 1]", "1/0":
    run(warm)
run("8 cm")  # pint reads its table of units
events = []
watched = "open compile exec import subprocess os. socket. shutil. ctypes pty. code. glob. tempfile"

def is_sympys_own(event, arguments):
    # It imports parts of itself when they are first needed.
    what = arguments[0] if arguments else None
    if event == "import":
        return what.partition(".")[0] in ("sympy", "mpmath")
    if event in ("exec", "compile"):
        what = getattr(what, "co_filename", None)
    reads = event in ("exec", "os.listdir", "os.scandir") or arguments[1] == "r"
    return reads and isinstance(what, str) and what.startswith(sys.prefix)

def audit(event, arguments):
    if event.startswith(tuple(watched.split())) and not is_sympys_own(event, arguments):
        events.append((event, repr(arguments)[:200]))

sys.addaudithook(audit)
compile("1", "the hook is at work", "eval")
assert events.pop()[0] == "compile"
for inside in strings:
    run(inside)
print(json.dumps(events))
"""


def test_injected_code_touches_no_file_process_or_socket(tmp_path):
    assert len(INJECTIONS) >= 200
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input=json.dumps(INJECTIONS),
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == []
    assert list(tmp_path.iterdir()) == []


def test_injected_code_makes_this_process_do_nothing_either():
    """The pool is up: from then on it neither starts nor opens anything."""
    texts = [boxed(inside) for inside in INJECTIONS]
    # A pool of its own: processes of one that has done much would be replaced on the way.
    settings = dataclasses.replace(SETTINGS, deadline_s=SETTINGS.deadline_s + 1)
    verify_all(
        [boxed(r"\sqrt{2}+1"), boxed(r"\sqrt{3}+1")],
        [r"1+\sqrt{2}"] * 2,
        verify=settings,
    )
    before = [worker.process.pid for worker in processes(settings).workers]
    assert len(before) == settings.processes == 2
    events, active = [], True

    def audit(event, arguments):  # cannot be taken off again
        watched = (
            "open",
            "subprocess",
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "socket.connect",
        )
        if active and event.startswith(watched):
            events.append((event, repr(arguments)[:200]))

    sys.addaudithook(audit)
    checks = verify_all(texts, [r"2\sqrt{3}"] * len(texts), verify=settings)
    active = False
    assert {check.verdict for check in checks} == {WRONG}
    assert events == []
    assert [worker.process.pid for worker in processes(settings).workers] == before


def test_the_source_has_no_way_to_execute_text():
    names = (
        "eval exec compile sympify parse_expr lambdify pickle system popen __import__"
    )
    forbidden = rf"\b({names.replace(' ', '|')})\("
    allowed = {
        "pool.py": ["subprocess.Popen("],
        "custom.py": ["importlib.import_module("],
    }
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8").replace("re.compile(", "")
        for call in allowed.get(path.name, []):
            assert source.count(call) == 1
            source = source.replace(call, "")
        pattern = forbidden + r"|subprocess\.\w+\(|importlib\.\w+\("
        assert re.findall(pattern, source) == [], path
