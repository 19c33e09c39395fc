"""Verifies completions, one or many: by rules here, by rules in processes, and by a model.

Knows which way a row takes. The rules themselves are in `verifiers`.
"""

import dataclasses
import os
from collections.abc import Sequence

from r1v3_jax.losses.schedules import value
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers import custom, golds, model, pool, routing
from r1v3_jax.rewards.verifiers.boxes import only_box, summary_boxes
from r1v3_jax.rewards.verifiers.routing import describe
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict

# 1. Verdicts


def verify(
    completion: str, answer: str, *, thinking: bool = True, verifier: str = ""
) -> Check:
    """Checks whether the last box of a completion holds `answer`, by the rules of `verifier`.

    Balanced boxes after </think> that differ in more than spelling are WRONG, whatever they hold,
    unless `answer` is a list and each box one of its values, in order. A box that does not parse is
    WRONG too. ERROR: `answer` cannot be compared with anything
    (`check_gold` finds these in advance), or the mathematics raised. Raises nothing itself.

    This is for a question or two: it runs in this process and has no deadline, so it calls no
    user's function and no model verifier. `verify_all` is for batches.
    """
    boxes = summary_boxes(completion, thinking=thinking)
    box, problem = only_box(boxes)
    if box is None:
        return Check(Verdict.WRONG, None, problem)
    try:
        parsed = _read_verifier(verifier, 1.0, Verify())
    except ValueError as error:
        return Check(Verdict.ERROR, box, str(error)[:200])
    items = _items(boxes, problem, answer, parsed.rules)
    if not items:
        return Check(Verdict.WRONG, box, problem)
    return _join([routing.check(item.rules, item.answer, item.box) for item in items])


def verify_all(
    completions: Sequence[str],
    answers: Sequence[str],
    *,
    verifiers: Sequence[str] | None = None,
    questions: Sequence[str] | None = None,
    thinking: bool = True,
    progress: float = 1.0,
    verify: Verify | None = None,
) -> list[Check]:
    """Returns what `verify` returns for each, in order, by processes and by the model verifier.

    verifiers: of each row, see `routing`; default: mathematics. questions: for the model verifier.
    progress: of the run, 0 to 1. verify: the limits of the processes, the functions that rows may
    name, and the model verifier.
    """
    count = len(completions)
    verify = verify or Verify()
    checks: list[Check | None] = [None] * count
    items: dict[int, list[pool.Item]] = {}  # row -> what is compared for it
    appeals: dict[int, tuple[str, str, str]] = {}  # row -> question, answer, box

    # 1. What has no answer to compare.
    rows = zip(
        completions,
        answers,
        verifiers or [""] * count,
        questions or [""] * count,
        strict=True,
    )
    for row, (completion, answer, text, question) in enumerate(rows):
        boxes = summary_boxes(completion, thinking=thinking, find=verify.answer)
        box, problem = only_box(boxes)
        if box is None:
            checks[row] = Check(Verdict.WRONG, None, problem)
            continue
        try:
            verifier = _read_verifier(text, progress, verify)
        except ValueError as error:
            checks[row] = Check(Verdict.ERROR, box, str(error)[:200])
            continue
        items[row] = _items(boxes, problem, answer, verifier.rules)
        if not items[row] and problem:
            checks[row] = Check(Verdict.WRONG, box, problem)
        # A missing box and a second one are not open to appeal.
        if verifier.model and not problem:
            appeals[row] = (question, answer, box)

    # 2. By the rules.
    verdicts = _compare([item for of_row in items.values() for item in of_row], verify)
    for row, of_row in items.items():
        if of_row:
            checks[row] = _join([verdicts[item] for item in of_row])

    # 3. By the model.
    _judge(checks, appeals, verify)
    return checks


def _items(
    boxes: list[str], problem: str, answer: str, rules: tuple[routing.Rule, ...]
) -> list[pool.Item]:
    """Returns what is to be compared: the box with the answer, or the boxes of a list one by one.

    It is empty if the boxes differ and are no list.
    """
    pairs = golds.pair_boxes(answer, boxes, [rule.name for rule in rules])
    if not pairs and not problem:
        pairs = [(answer, boxes[-1])]
    return [pool.Item(rules, value, box) for value, box in pairs]


def _compare(items: list[pool.Item], verify: Verify) -> dict[pool.Item, Check]:
    """Applies the rules to each item once: letters, text and plain numbers in this process.

    What needs a parser or calls a user's function is done in the processes of the pool.
    """
    checks: dict[pool.Item, Check | None] = dict.fromkeys(items)
    slow = []
    for item in checks:
        if routing.is_quick(item.rules, item.answer, item.box):
            checks[item] = routing.check(item.rules, item.answer, item.box)
        else:
            slow.append(item)
    verdicts = processes(verify).run(slow)
    return checks | dict(zip(slow, verdicts, strict=True))


def _join(checks: list[Check]) -> Check:
    """Makes one verdict of those on the values of a list: RIGHT if all are."""
    if len(checks) == 1:
        return checks[0]
    extracted = ", ".join(check.extracted for check in checks)
    for verdict in (Verdict.WRONG, Verdict.ERROR):
        for check in checks:
            if check.verdict is verdict:
                return Check(verdict, extracted, check.reason)
    return Check(Verdict.RIGHT, extracted, "equal")


def _read_verifier(text: str, progress: float, verify: Verify) -> routing.Verifier:
    has_model = bool(verify.model_url)
    iou = value(verify.iou, progress)
    verifier = routing.parse(text, iou=iou, model=has_model)
    check_allowed(verifier, verify)
    return verifier


def _judge(
    checks: list[Check], appeals: dict[int, tuple[str, str, str]], verify: Verify
) -> None:
    """Replaces, in place, the checks of rows that no rule finds right by the model's judgement."""
    open_appeals = {
        row: appeal
        for row, appeal in appeals.items()
        if checks[row].verdict is not Verdict.RIGHT
    }
    if not open_appeals:
        return
    judgements = endpoint(verify).judge_all(list(open_appeals.values()))
    for row, judgement in zip(open_appeals, judgements, strict=True):
        # The partial credit of a user's function outlasts a model that gives less. The model's
        # ERROR is the verdict: the rule alone is not trusted to know.
        if judgement.verdict is Verdict.WRONG:
            known = (checks[row].credit, judgement.credit)
            credit = max((c for c in known if c is not None), default=None)
            judgement = dataclasses.replace(judgement, credit=credit)
        checks[row] = judgement


# 2. What a run has, and whether a row may use it


def check_allowed(verifier: routing.Verifier, verify: Verify) -> None:
    """ValueError if a row asks for a function or a model that the run does not have."""
    for rule in verifier.rules:
        if rule.name not in routing.NAMES and rule.name not in verify.custom:
            raise ValueError(
                f"{rule.name} is not among the functions that verify.custom allows"
            )
    if verifier.model and not verify.model_url:
        raise ValueError(
            "the row asks for a model verifier and verify.model_url is not set"
        )


def check_functions(verify: Verify) -> None:
    """ValueError if a function of `verify.custom` cannot be imported. Imports them."""
    for name in verify.custom:
        try:
            custom.load(name)
        except Exception as error:  # whatever a user's module raises
            raise ValueError(
                f"verify.custom: {name} cannot be used: {describe(error)}"
            ) from error


def processes(verify: Verify) -> pool.Pool:
    """Returns this process's pool with the limits of `verify`."""
    size = verify.processes or min(os.cpu_count() or 1, 8)
    memory_bytes = int(verify.memory_gib * 2**30)
    return pool.get(size, verify.deadline_s, memory_bytes, verify.custom)


def endpoint(verify: Verify) -> model.Judge:
    """Returns this process's model verifier with the settings of `verify`."""
    return model.get(
        verify.model_url,
        verify.model_name,
        verify.model_timeout_s,
        verify.model_retries,
        verify.model_requests,
        verify.model_cache,
        verify.judging,
    )


# 3. Reference answers


def check_gold(answer: str, verifier: str = "") -> str | None:
    """Returns the problem of a reference answer; None if it verifies against itself.

    For data loading. Of mathematics each part must parse and equal itself. Text always does, but a
    sentence is refused under `mathematics`, and so are boxes that differ (`golds`).
    """
    try:
        parsed = routing.parse(verifier)
    except ValueError as error:
        return str(error)
    # A model says nothing before a run, and a user's function runs only in a process.
    if parsed.model or any(rule.name not in routing.NAMES for rule in parsed.rules):
        return None
    problem = golds.problem(answer, [rule.name for rule in parsed.rules])
    if problem:
        return problem
    check = routing.check(parsed.rules, answer, answer)
    if check.verdict is Verdict.RIGHT:
        return None
    return f"{answer[:100]!r}: {check.reason}"
