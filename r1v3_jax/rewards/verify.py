"""One answer or many: rules here, processes, a model."""

import dataclasses
import os
from collections.abc import Sequence

from r1v3_jax.config import Verify
from r1v3_jax.rewards.verifiers import custom, model, pool, routing
from r1v3_jax.rewards.verifiers.boxes import only_box
from r1v3_jax.rewards.verifiers.routing import describe
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict

# Verdicts


def verify(
    completion: str, answer: str, *, thinking: bool = True, verifier: str = ""
) -> Check:
    """Whether the last box of a completion holds `answer`, by the rules of `verifier` (`routing`).

    Balanced boxes after </think> that differ in more than spelling are WRONG, whatever they hold,
    and so is a box that does not parse. ERROR: `answer` cannot be compared with anything
    (`check_gold` finds these in advance), or the mathematics raised. Raises nothing itself.

    In this process and without a deadline, for a question or two, so no function of one's own and
    no model verifier; `verify_all` is for batches.
    """
    box, problem = only_box(completion, thinking=thinking)
    if problem:
        return Check(Verdict.WRONG, box, problem)
    try:
        parsed = routing.parse(verifier)
        check_allowed(parsed, Verify())
    except ValueError as error:
        return Check(Verdict.ERROR, box, str(error)[:200])
    return routing.check(parsed.rules, answer, box)


def verify_all(
    completions: Sequence[str],
    answers: Sequence[str],
    *,
    verifiers: Sequence[str] | None = None,
    questions: Sequence[str] | None = None,
    thinking: bool = True,
    progress: float = 1.0,
    how: Verify | None = None,
) -> list[Check]:
    """What `verify` says of each, in order, with the limits and the model verifier of `how`.

    verifiers: of each row, see `routing`; default: mathematics. questions: for the model verifier.
    progress: of the run, 0 to 1.

    Letters, text and plain numbers are compared here; what needs a parser goes to the processes of
    `pool`, the same box of the same answer once. A model verifier is asked where there is one box
    and no rule says RIGHT: a missing box and a second one are not open to appeal. Its ERROR is the
    verdict.
    """
    count, how = len(completions), how or Verify()
    checks: list[Check | None] = [None] * count
    items: dict[pool.Item, list[int]] = {}
    appeals: dict[int, tuple[str, str, str]] = {}
    rows = zip(
        completions,
        answers,
        verifiers or [""] * count,
        questions or [""] * count,
        strict=True,
    )
    for i, (completion, answer, text, question) in enumerate(rows):
        box, problem = only_box(completion, thinking=thinking)
        if problem:
            checks[i] = Check(Verdict.WRONG, box, problem)
            continue
        try:
            verifier = routing.parse(text, progress=progress, model=bool(how.model_url))
            check_allowed(verifier, how)
        except ValueError as error:
            checks[i] = Check(Verdict.ERROR, box, str(error)[:200])
            continue
        if verifier.model:
            appeals[i] = (question, answer, box)
        if routing.is_quick(verifier.rules, answer, box):
            checks[i] = routing.check(verifier.rules, answer, box)
        else:
            items.setdefault(pool.Item(verifier.rules, answer, box), []).append(i)
    for check, places in zip(
        processes(how).run(list(items)), items.values(), strict=True
    ):
        for i in places:
            checks[i] = check
    asked = {
        i: one for i, one in appeals.items() if checks[i].verdict is not Verdict.RIGHT
    }
    if asked:
        judgements = endpoint(how).judge_all(list(asked.values()))
        for i, check in zip(asked, judgements, strict=True):
            wrong = (
                check.verdict is Verdict.WRONG
            )  # what a function of one's own gave stays
            checks[i] = (
                dataclasses.replace(check, credit=checks[i].credit) if wrong else check
            )
    return checks


def check_allowed(verifier: routing.Verifier, how: Verify) -> None:
    """ValueError if a row asks for what the run does not have."""
    for rule in verifier.rules:
        if rule.name not in routing.NAMES and rule.name not in how.custom:
            raise ValueError(
                f"{rule.name} is not among the functions that verify.custom allows"
            )
    if verifier.model and not how.model_url:
        raise ValueError(
            "the row asks for a model verifier and verify.model_url is not set"
        )


def check_functions(how: Verify) -> None:
    """ValueError if one of the functions of `how.custom` is not there. Imports them."""
    for name in how.custom:
        try:
            custom.load(name)
        except Exception as error:  # whatever somebody's module raises
            raise ValueError(
                f"verify.custom: {name} cannot be used: {describe(error)}"
            ) from error


def processes(how: Verify) -> pool.Pool:
    """The pool of this process with the limits of `how`."""
    size = how.processes or min(os.cpu_count() or 1, 8)
    return pool.get(size, how.deadline_s, int(how.memory_gib * 2**30), how.custom)


def endpoint(how: Verify) -> model.Judge:
    """The model verifier of `how`."""
    return model.get(
        how.model_url,
        how.model_name,
        how.model_timeout_s,
        how.model_retries,
        how.model_requests,
        how.model_cache,
    )


def check_gold(answer: str, verifier: str = "") -> str | None:
    """What is wrong with a reference answer, for data loading; None if it verifies against itself.

    Text always does. Of mathematics each part must parse and equal itself.
    """
    try:
        parsed = routing.parse(verifier)
    except ValueError as error:
        return str(error)
    # A model says nothing before a run, and a function runs in a process.
    if parsed.model or any(rule.name not in routing.NAMES for rule in parsed.rules):
        return None
    check = routing.check(parsed.rules, answer, answer)
    return (
        None if check.verdict is Verdict.RIGHT else f"{answer[:100]!r}: {check.reason}"
    )
