"""The processes that verify: whatever happens to one, the verdicts of the others are unchanged."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from labelled_answers import boxed
from scored_texts import score_texts

from r1v3_jax.config import Verify
from r1v3_jax.losses import GroupRelative
from r1v3_jax.rewards.verifiers.pool import Item, Pool
from r1v3_jax.rewards.verifiers.routing import Rule
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict
from r1v3_jax.rewards.verify import (
    check_functions,
    processes,
    verify,
    verify_all,
)

RIGHT, WRONG, ERROR = Verdict.RIGHT, Verdict.WRONG, Verdict.ERROR
FUNCTIONS_FILE = "verifier_functions_for_tests"
FUNCTIONS = [
    f"{FUNCTIONS_FILE}:{name}"
    for name in "same loop abort exhaust raises prints maybe leave half over forge".split()
]
# Two processes, a short deadline: what is late here is late for ever.
SETTINGS = Verify(processes=2, deadline_s=5.0, memory_gib=1.0, custom=tuple(FUNCTIONS))


ROWS = [  # gold, box
    (r"2\sqrt{3}", r"\sqrt{12}"), (r"2\sqrt{3}", r"\sqrt{13}"), (r"x^2+2x+1", "(x+1)^2"),
    (r"\frac{\pi}{4}", r"0.25\pi"), ("y=2x+1", "2x-y+1=0"), ("(1,2)", r"(1,\sqrt{4})"),
    ("7", "7"), ("B", "C"), ("1,7", "7, 1"), ("3+4i", "4i+3"), (r"\log_2 3", r"\log_3 2"),
]  # fmt: skip


def mixed(function, count=2):
    """ROWS with rows of a function of ours between them; and the places of those."""
    rows = [("", gold, box) for gold, box in ROWS]
    for i in range(count):
        rows.insert(3 + 4 * i, (f"{FUNCTIONS_FILE}:{function}", "1", "1"))
    return rows, [3 + 4 * i for i in range(count)]


def run(rows, settings=SETTINGS):
    verifiers, answers, boxes = zip(*rows, strict=True)
    return verify_all(
        [boxed(box) for box in boxes], answers, verifiers=verifiers, verify=settings
    )


def test_verdicts_are_those_of_the_plain_loop():
    rows = [("", gold, box) for gold, box in ROWS]
    assert run(rows) == [verify(boxed(box), gold) for gold, box in ROWS]
    assert run(rows) == run(rows)


@pytest.mark.parametrize(
    "function, reason",
    [
        ("loop", "deadline: no verdict in 5 s"),
        ("abort", "the verifier's process died (-6)"),
        ("exhaust", "MemoryError"),
        ("raises", "ZeroDivisionError: division by zero"),
        ("leave", "the verifier's process died (3)"),
        ("forge", "KeyError: 'verdict'"),
        (
            "maybe",
            f"TypeError: {FUNCTIONS_FILE}:maybe returned str, wanted True, False or 0 to 1",
        ),
        (
            "over",
            f"ValueError: {FUNCTIONS_FILE}:over returned 1.5, wanted True, False or 0 to 1",
        ),
    ],
)
def test_a_process_that_fails_takes_nobody_with_it(function, reason):
    rows, places = mixed(function)
    # Filling the memory takes its time on a busy machine; only the loop is to meet the deadline.
    deadline_s = SETTINGS.deadline_s if function == "loop" else 60.0
    checks = run(rows, dataclasses.replace(SETTINGS, deadline_s=deadline_s))
    for i in places:
        assert checks[i].verdict is ERROR and checks[i].reason.startswith(reason), (
            checks[i]
        )
    rest = [check for i, check in enumerate(checks) if i not in places]
    assert rest == [verify(boxed(box), gold) for gold, box in ROWS]


def test_a_function_may_give_a_part():
    [check] = run([(f"{FUNCTIONS_FILE}:half", "1", "1")])
    assert (check.verdict, check.credit) == (WRONG, 0.5)
    [check] = run([(f"{FUNCTIONS_FILE}:half", "1", "all")])
    assert (check.verdict, check.credit) == (RIGHT, 1)
    [check] = run([("overlap", "[0, 0, 1, 1]", "[0, 0, 1, 0.75]")])
    assert (check.verdict, check.credit) == (RIGHT, 0.75)  # through the process as well


def test_a_part_outlasts_a_model_that_says_no(monkeypatch):
    class Judge:
        def judge_all(self, questions):
            return [
                Check(WRONG if box == "1" else RIGHT, box, "") for *_, box in questions
            ]

    monkeypatch.setattr("r1v3_jax.rewards.verify.endpoint", lambda _: Judge())
    settings = dataclasses.replace(
        SETTINGS, model_url="http://localhost:1/v1", model_name="judge"
    )
    checks = run(
        [
            (f"{FUNCTIONS_FILE}:half|model", "1", "1"),
            (f"{FUNCTIONS_FILE}:half|model", "1", "2"),
        ],
        settings,
    )
    assert [(check.verdict, check.credit) for check in checks] == [
        (WRONG, 0.5),
        (RIGHT, None),
    ]


def test_what_a_function_prints_is_no_verdict():
    assert [
        check.verdict for check in run([(f"{FUNCTIONS_FILE}:prints", "1", "1")] * 2)
    ] == [
        RIGHT,
        RIGHT,
    ]


def test_advantages_of_a_group_are_those_of_the_group_without_the_failed_sample():
    """One prompt, six samples, one of which hangs its verifier and one of which kills it."""
    boxes = ["1", "2", "1", "1", "2", "1"]
    names = ["same", "same", "loop", "same", "same", "abort"]
    with_format = [boxed(box) for box in boxes]
    with_format[3] = r"</think>\boxed{1}"  # right, without reasoning: another reward

    def rewards_of(places):
        scores = score_texts(
            [with_format[i] for i in places],
            ["1"] * len(places),
            [True] * len(places),
            verifiers=[f"{FUNCTIONS_FILE}:{names[i]}" for i in places],
            verify=SETTINGS,
        )
        return np.array(
            [[np.nan if s.total is None else s.total for s in scores]], np.float32
        )

    whole, rest = rewards_of(range(6)), rewards_of([0, 1, 3, 4])
    advantages = GroupRelative()(whole, ~np.isnan(whole), None)
    assert np.isnan(whole).tolist() == [[False, False, True, False, False, True]]
    assert advantages[0, [2, 5]].tolist() == [0, 0]
    alone = GroupRelative()(rest, np.ones((1, 4), bool), None)
    assert np.array_equal(advantages[0, [0, 1, 3, 4]], alone[0])  # bitwise


def test_a_deadline_is_kept_and_the_group_of_the_process_ends_with_it(tmp_path):
    """A function that has started a process: both are gone."""
    started = time.monotonic()
    check = run([(f"{FUNCTIONS_FILE}:loop", str(tmp_path / "pid"), "start a child")])[0]
    assert check.verdict is ERROR
    assert (
        time.monotonic() - started < 5.0 + 20
    )  # the deadline, and imports on a busy machine
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not os.path.exists(f"/proc/{child}"):
            break
        state = open(f"/proc/{child}/stat").read().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the child runs on")


def test_rows_may_name_only_what_the_config_allows():
    for name in ("os:system", "subprocess:getoutput", f"{FUNCTIONS_FILE}:same"):
        check = run([(name, "1", "1")], Verify())[0]
        assert check.verdict is ERROR and "verify.custom" in check.reason
        assert verify(boxed("1"), "1", verifier=name).verdict is ERROR


def test_a_function_is_imported_before_it_has_a_deadline(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text(
        "import time\ntime.sleep(3)\ndef same(answer, box): return answer == box\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = Verify(processes=1, deadline_s=2.0, custom=("slow_to_import:same",))
    assert run([("slow_to_import:same", "1", "1")], settings)[0].verdict is RIGHT
    with pytest.raises(
        ValueError, match="slow_to_import:other cannot be used: AttributeError"
    ):
        check_functions(Verify(custom=("slow_to_import:other",)))
    with pytest.raises(
        ValueError, match="no_module:same cannot be used: ModuleNotFoundError"
    ):
        check_functions(Verify(custom=("no_module:same",)))


ITEM = Item((Rule("mathematics"),), r"2\sqrt{3}", r"\sqrt{12}")


@pytest.fixture
def pool():
    """A pool of one process, which has verified something."""
    pool = Pool(1, 3.0, 2**30)
    try:
        assert pool.run([ITEM])[0].verdict is RIGHT
        yield pool
    finally:
        pool.close()


def test_a_process_that_somebody_else_ends_is_replaced(pool):
    process = pool.workers[0].process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert pool.run([ITEM] * 3)[2].verdict is RIGHT
    assert pool.workers[0].process.pid != process.pid


def test_a_sigterm_to_the_whole_job_leaves_the_verifiers_at_work(pool):
    """The step at work is still to be finished and saved, rewards and all."""
    process = pool.workers[0].process
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    assert (
        pool.run([ITEM])[0].verdict is RIGHT
        and pool.workers[0].process.pid == process.pid
    )


def test_a_process_has_loaded_its_parsers_before_the_first_item():
    """Or the first answer that needs them would pay for it with its deadline and its memory."""
    name = f"{FUNCTIONS_FILE}:parsers_are_loaded"
    settings = Verify(processes=1, deadline_s=5.0, custom=(name,))
    (check,) = verify_all(
        ["</think> \\boxed{1}"], ["1"], verifiers=[name], verify=settings
    )
    assert check.verdict is RIGHT, check


def test_processes_are_replaced_after_so_many_items(monkeypatch):
    monkeypatch.setattr("r1v3_jax.rewards.verifiers.pool.MAX_ITEMS", 4)
    pool = Pool(1, 3.0, 2**30)
    items = [Item((Rule("choice"),), "B", letter) for letter in "BCBCBCBCBC"]
    try:
        checks = pool.run(items)
        assert [check.verdict for check in checks] == [RIGHT, WRONG] * 5
        assert pool.ended == 2 and len(pool.workers) == 1
    finally:
        pool.close()


def test_without_processes_every_item_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = Pool(2, 3.0, 2**30)
    checks = pool.run([Item((Rule("choice"),), "B", "B")] * 3)
    assert {check.verdict for check in checks} == {ERROR}
    assert "no verifier process starts" in checks[0].reason
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    assert "No such file" in pool.run([Item((Rule("choice"),), "B", "B")])[0].reason


def test_threads_share_the_pool():
    verdicts = {}

    def work(name):
        verdicts[name] = [check.verdict for check in run([("", *row) for row in ROWS])]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(verdicts) == 4 and len({tuple(v) for v in verdicts.values()}) == 1


def test_a_process_has_no_jax_and_ends_with_its_run():
    """In an interpreter of its own, which exits while the pool is up: nothing is left running."""
    program = """
        import sys
        from r1v3_jax.rewards.verifiers.pool import Item, get
        from r1v3_jax.rewards.verifiers.routing import Rule
        pool = get(1, 3.0, 2**30)
        print(pool.run([Item((Rule("mathematics"),), "1+\\\\sqrt{2}", "\\\\sqrt{2}+1")])[0].verdict)
        maps = open(f"/proc/{pool.workers[0].process.pid}/maps").read()
        print("jax" in maps, "numpy" in maps, pool.workers[0].process.pid)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    verdict, jax, numpy, process = done.stdout.split()
    assert (verdict, jax, numpy) == ("Verdict.RIGHT", "False", "False")
    assert not os.path.exists(f"/proc/{process}")


def test_speed_of_plain_verdicts(capsys):
    """Different integers with a name, in this process: no answer is read twice."""
    count = 2000
    start = time.process_time()
    checks = [verify(boxed(f"x = {1000 + i}"), str(1000 + i)) for i in range(count)]
    rate = count / (time.process_time() - start)
    assert {check.verdict for check in checks} == {RIGHT}
    with capsys.disabled():
        print(f"\nverifiers: {rate:,.0f} plain verdicts/s in one process")
    assert rate > 500  # 5,000 and more on a free core


def test_speed_of_symbolic_verdicts(capsys):
    """Different boxes and golds, so that neither a group's shared answer nor its boxes help."""
    count = 600
    golds = [rf"{i}+\sqrt{{{i + 2}}}" for i in range(count)]
    boxes = [boxed(rf"\sqrt{{{i + 2}}}+{i}") for i in range(count)]
    settings = Verify(processes=2)
    verify_all(boxes[:4], golds[:4], verify=settings)
    start = time.perf_counter()
    checks = verify_all(boxes, golds, verify=settings)
    rate = count / (time.perf_counter() - start)
    assert {check.verdict for check in checks} == {RIGHT}
    with capsys.disabled():
        print(f"\nverifiers: {rate:,.0f} symbolic verdicts/s in two processes")
    assert rate > 30  # 300 and more on two free cores


def test_the_pool_of_a_config_is_one():
    assert processes(SETTINGS) is processes(SETTINGS)
