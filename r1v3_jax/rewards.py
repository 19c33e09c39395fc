"""Completions -> verdicts -> rewards.

Knows text only: no tokens but for their numbers, no arrays, no images. What is right is for
`verifiers` to say; nothing that a model writes is executed.
"""

import dataclasses
import os
import re
from collections.abc import Sequence

from r1v3_jax.config import Shaping, Verify
from r1v3_jax.verifiers import custom, model, pool, routing
from r1v3_jax.verifiers.boxes import find_boxes, only_box, summary
from r1v3_jax.verifiers.routing import describe
from r1v3_jax.verifiers.verdict import Check, Verdict


@dataclasses.dataclass(frozen=True)
class Score:
    """The reward of one completion, and what it is made of.

    total and accuracy are None after an ERROR: the caller masks the sample out of its group.
    accuracy: 1 if the answer is right and 0 if not, or by degrees where its rule knows them.
    penalty: what `shaped` has taken off the total.
    """

    total: float | None
    accuracy: float | None
    format: float
    verdict: Verdict
    extracted: str | None
    reason: str
    penalty: float = 0.0


# Verdicts


def verify(completion: str, answer: str, *, thinking: bool = True, verifier: str = "") -> Check:
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
        completions, answers, verifiers or [""] * count, questions or [""] * count, strict=True
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
    for check, places in zip(processes(how).run(list(items)), items.values(), strict=True):
        for i in places:
            checks[i] = check
    asked = {i: one for i, one in appeals.items() if checks[i].verdict is not Verdict.RIGHT}
    if asked:
        judgements = endpoint(how).judge_all(list(asked.values()))
        for i, check in zip(asked, judgements, strict=True):
            wrong = check.verdict is Verdict.WRONG  # what a function of one's own gave stays
            checks[i] = dataclasses.replace(check, credit=checks[i].credit) if wrong else check
    return checks


def check_allowed(verifier: routing.Verifier, how: Verify) -> None:
    """ValueError if a row asks for what the run does not have."""
    for rule in verifier.rules:
        if rule.name not in routing.NAMES and rule.name not in how.custom:
            raise ValueError(f"{rule.name} is not among the functions that verify.custom allows")
    if verifier.model and not how.model_url:
        raise ValueError("the row asks for a model verifier and verify.model_url is not set")


def check_functions(how: Verify) -> None:
    """ValueError if one of the functions of `how.custom` is not there. Imports them."""
    for name in how.custom:
        try:
            custom.load(name)
        except Exception as error:  # whatever somebody's module raises
            raise ValueError(f"verify.custom: {name} cannot be used: {describe(error)}") from error


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
    return None if check.verdict is Verdict.RIGHT else f"{answer[:100]!r}: {check.reason}"


# Rewards


def format_score(completion: str, *, ended: bool, thinking: bool = True) -> float:
    r"""1.0 if a completion follows the chat template, else 0.0 (Skywork-R1V3 report, section 3.1).

    That is: it ended by itself, has exactly one </think> and no <think> (the prompt has it), does
    not leave the reasoning before it blank, and holds exactly one \boxed{...}, closed and filled,
    after it. With thinking False there must be neither tag.
    """
    text = summary(completion, thinking)
    if not ended or text is None or "<think>" in completion:
        return 0.0
    if completion.count("</think>") != int(thinking):
        return 0.0
    if thinking and not completion.partition("</think>")[0].strip():
        return 0.0
    boxes, unfinished = find_boxes(text)
    return float(len(boxes) == 1 and bool(boxes[0]) and not unfinished)


def score(
    completion: str,
    answer: str,
    *,
    ended: bool,
    thinking: bool = True,
    accuracy_weight: float = 0.8,
    verifier: str = "",
) -> Score:
    """w accuracy + (1 - w) format, as in the report, section 3.1; by `verify`."""
    check = verify(completion, answer, thinking=thinking, verifier=verifier)
    form = format_score(completion, ended=ended, thinking=thinking)
    return scored(check, form, accuracy_weight)


def scored(check: Check, form: float, accuracy_weight: float) -> Score:
    """The Score that a verdict and a format score make."""
    total = accuracy = None
    if check.verdict is not Verdict.ERROR:
        accuracy = float(check.verdict is Verdict.RIGHT) if check.credit is None else check.credit
        total = accuracy_weight * accuracy + (1 - accuracy_weight) * form
    return Score(total, accuracy, form, check.verdict, check.extracted, check.reason)


def score_all(
    completions: Sequence[str],
    answers: Sequence[str],
    ended: Sequence[bool],
    *,
    thinking: bool = True,
    accuracy_weight: float | Sequence[float] = 0.8,
    **options,
) -> list[Score]:
    """`score` of each, in order, the verdicts by `verify_all`; options are its own.

    accuracy_weight: of all, or of each.
    """
    checks = verify_all(completions, answers, thinking=thinking, **options)
    if not isinstance(accuracy_weight, Sequence):
        accuracy_weight = [accuracy_weight] * len(checks)
    out = []
    for completion, end, check, weight in zip(
        completions, ended, checks, accuracy_weight, strict=True
    ):
        form = format_score(completion, ended=bool(end), thinking=thinking)
        out.append(scored(check, form, weight))
    return out


# Shaping: what is taken off a reward besides


def shaped(score: Score, penalty: float) -> Score:
    """The Score less a penalty; an ERROR stays without a total."""
    total = None if score.total is None else score.total - penalty
    return dataclasses.replace(score, total=total, penalty=penalty)


def penalty(config: Shaping, ids: Sequence[int], text: str, question: str, limit: int) -> float:
    """The weighted sum of what is wrong with a completion besides its answer.

    ids: the sampled tokens; limit: how many there might have been.
    """
    total = 0.0
    if config.repetition:
        total += config.repetition * repetition(ids, config.repetition_ngram)
    if config.overlong:
        total += config.overlong * overlong(len(ids), limit, config.overlong_tokens)
    if config.language:
        total += config.language * other_language(text, question)
    return total


def repetition(ids: Sequence[int], ngram: int) -> float:
    """The share of a sequence's n-grams that have come before, 1 - distinct / all (arXiv
    2502.03373, C.2, there over words). 0 for a sequence that is shorter.

        ids 1 2 1 2 1, ngram 2: (1 2) (2 1) (1 2) (2 1)   ->   0.5
    """
    count = len(ids) - ngram + 1
    if count <= 0:
        return 0.0
    ids = [int(i) for i in ids]
    return 1 - len({tuple(ids[at : at + ngram]) for at in range(count)}) / count


def overlong(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft punishment (arXiv 2503.14476, equation 13), as a penalty: 0 up to `buffer` tokens
    before the limit, then rising in a line to 1 at the limit.
    """
    if buffer == 0:
        return float(length >= limit)
    return min(max((length - (limit - buffer)) / buffer, 0.0), 1.0)


# None begins in another one: what is never closed is not searched to the end again and again.
_FORMULAS = re.compile(
    r"\$[^$]*\$|\\[A-Za-z]+|\\\[(?:(?!\\\[).)*?\\\]|\\\((?:(?!\\\().)*?\\\)", re.DOTALL
)
_WORDS = {
    "latin": re.compile(r"[A-Za-zÀ-ɏ]{2,}"),
    "cyrillic": re.compile(r"[Ѐ-ӿ]{2,}"),
    "chinese": re.compile(r"[㐀-鿿]{1,2}"),  # a word has two characters, more or less
    "kana": re.compile(r"[぀-ヿ]{1,2}"),
    "hangul": re.compile(r"[가-힯]+"),
    "arabic": re.compile(r"[؀-ۿ]{2,}"),
}


def other_language(text: str, question: str) -> float:
    """The share of a completion's words that are in another script than the question's.

    Chains that mix languages are hard to read (DeepSeek-R1, arXiv 2501.12948, rewards the share in
    the target language). Scripts, not languages: English and French are the same here. Formulas
    and single letters are in no language. 0 where either has no words.
    """
    theirs, ours = _count_words(question), _count_words(text)
    if not sum(theirs.values()) or not sum(ours.values()):
        return 0.0
    wanted = max(theirs, key=theirs.get)
    same = ours[wanted] + (ours["chinese"] if wanted == "kana" else 0)
    return 1 - same / sum(ours.values())


def _count_words(text: str) -> dict[str, int]:
    text = _FORMULAS.sub(" ", text)
    return {script: len(words.findall(text)) for script, words in _WORDS.items()}
