r"""Terms of a reward that ask another model while a step is scored: a frozen one, or an endpoint.

    Reward(((0.7, correct), (0.1, well_formed), (0.2, Consistent(Frozen(stage="cold_start")))))

Such a term says nothing by itself: it sees one sample, and its model is asked about all samples of
a step at once, when they are there (`rollout.helpers`). What it then says is added to the reward
under the term's name.
"""

import dataclasses
import hashlib
import math
import statistics
import urllib.parse
from pathlib import Path
from typing import ClassVar, Literal

from r1v3_jax.fields import (
    PLACE,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    check,
)
from r1v3_jax.rewards.answered import Answered
from r1v3_jax.rewards.reward import Reward, name_of
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers.boxes import summary_boxes
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import verify_all
from r1v3_jax.types import Example

# Likelihoods that differ by less are equal.
ROUNDING = 1e-5
# Bytes at either end of a large file that its fingerprint reads.
FINGERPRINT_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A model that never learns: a checkpoint, or what an earlier stage of the run ended with.

    A checkpoint, of Hugging Face's or of ours, may be of another size, and have another tokenizer,
    than the model that learns.
    """

    checkpoint: str = ""  # a directory, as RUN/export or RUN/cold_start/done
    stage: str = ""  # or the name of an earlier stage, as cold_start
    # The run's directory, see `data.made.bind`. It is no setting: it says where, not what.
    workdir: str = dataclasses.field(default="", compare=False, metadata=PLACE)

    def __post_init__(self):
        names = (self.checkpoint, self.stage)
        if not all(isinstance(name, str) for name in names) or all(names) == any(names):
            raise ValueError(
                f"Frozen.checkpoint is {self.checkpoint!r} and stage {self.stage!r}; wanted one of "
                "them, as Frozen('RUN/export') or Frozen(stage='cold_start')"
            )

    @property
    def directory(self) -> Path:
        """Where the checkpoint is; that of a stage is there when the stage is done."""
        if self.checkpoint:
            return Path(self.checkpoint)
        return Path(self.workdir) / self.stage / "done"

    def fingerprint(self) -> str:
        """Returns a digest of the checkpoint's files; "" if the directory is not there.

        A checkpoint of ours has SHA256SUMS. Of other files names, sizes and their first and last
        megabyte are read: a checkpoint of 80 GB is not read twice.
        """
        directory = self.directory
        if not directory.is_dir():
            return ""
        sums = directory / "SHA256SUMS"
        files = [sums] if sums.is_file() else sorted(directory.rglob("*"))
        digest = hashlib.sha256()
        for path in filter(Path.is_file, files):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(directory)} {size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(FINGERPRINT_BYTES))
                file.seek(max(0, size - FINGERPRINT_BYTES))
                digest.update(file.read(FINGERPRINT_BYTES))
        return digest.hexdigest()


# Embodied-R's question to its reference model, in words of ours (arXiv 2504.12680; the released
# prompt is consistency_reward_local.py's).
PROMPT = """\
Below are a question and the thoughts of someone who answers it, without the answer. Give the \
answer that these thoughts lead to, even if you would answer otherwise. Reply with the answer \
alone; of a question with options, with the letter alone.

Question: {question}

Thoughts: {thoughts}"""


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A model behind any OpenAI-compatible address, which is asked at temperature 0."""

    url: str  # as http://host:8000/v1
    model: str
    # What it is asked: {question} and {thoughts} are put in.
    prompt: str = PROMPT
    timeout_s: PositiveFloat = 60.0  # for a whole reply
    retries: NonNegativeInt = 3
    requests: PositiveInt = 32  # at a time
    cache: str = ""  # a file that keeps replies; empty: they are kept in memory

    def __post_init__(self):
        check(self)
        address = urllib.parse.urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(
                f"Endpoint.url {self.url!r} is no address; give one as http://host:8000/v1"
            )
        if not self.model:
            raise ValueError(
                "Endpoint.model is empty; give the name that the server has for it"
            )
        for word in ("{question}", "{thoughts}"):
            if word not in self.prompt:
                raise ValueError(
                    f"Endpoint.prompt has no {word}; got {self.prompt[:60]!r}, wanted a text with "
                    "{question} and {thoughts}"
                )


Helper = Frozen | Endpoint


@dataclasses.dataclass(frozen=True)
class Consistent:
    r"""1 if the thoughts alone lead a helper to the right answer, 0 if not (Embodied-R).

    arXiv 2504.12680: only an answer that is right is rewarded for it. A wrong one says None, which
    adds nothing, so that the mean of the metric is the share of right answers whose thoughts lead
    there. The helper sees the words of the question and the thoughts, and no image.

    A frozen checkpoint writes on behind "QUESTION <think>THOUGHTS</think>" + `cue`, greedily. An
    endpoint is asked in a turn of its own, `Endpoint.prompt`. Its answer is compared with the
    reference by the row's verifier.
    """

    helper: Helper
    max_tokens: PositiveInt = 32  # of the helper's answer; Embodied-R: 10
    # Text that the answer of a frozen checkpoint is made to begin with, as "\n\n\\boxed{".
    cue: str = ""

    ASKS: ClassVar[bool] = True

    def __post_init__(self):
        check(self)
        if not isinstance(self.helper, Helper):
            raise ValueError(
                f"Consistent.helper is {self.helper!r}; wanted Frozen(stage='cold_start') or "
                "Endpoint('http://host:8000/v1', 'NAME')"
            )

    def __call__(self, answered: Answered) -> None:
        """Says nothing: see the head of this module."""

    def grade(
        self, answers: list[tuple[Example, str]], verify: Verify, progress: float
    ) -> list[tuple[float, str]]:
        """Returns (1 or 0, "") for each (question, answer of the helper), or (nan, the problem)."""
        checks = verify_all(
            [f"</think>{self._boxed(answer, verify)}" for _, answer in answers],
            [example.answer for example, _ in answers],
            verifiers=[example.verifier for example, _ in answers],
            questions=[example.question for example, _ in answers],
            progress=progress,
            verify=verify,
        )
        return [
            (math.nan, check.reason)
            if check.verdict is Verdict.ERROR
            else (float(check.verdict is Verdict.RIGHT), "")
            for check in checks
        ]

    def _boxed(self, answer: str, verify: Verify) -> str:
        r"""Puts an endpoint's answer into a box, unless it brings one: "B." -> "\boxed{B.}"."""
        has_box = summary_boxes(f"</think>{answer}", find=verify.answer)
        if isinstance(self.helper, Frozen) or has_box:
            return answer
        # In both forms that an answer is looked for in.
        return f"\\boxed{{{answer}}}<answer>{answer}</answer>"


@dataclasses.dataclass(frozen=True)
class StepScores:
    """The score of a right answer's steps by a frozen process reward model, 0 to 1 (M-STAR).

    arXiv 2412.17451: R = 1(right) * min over steps of f(step). f is the probability of `good` among
    `good` and `bad` as the token behind the step, as in Math-Shepherd (arXiv 2312.08935). The model
    sees the question, its images and the steps up to there. None for wrong answers, and for
    thoughts without a step.

        "a;b;c" scored .9 .4 .8   ->   min .4, mean .7, last .8
    """

    helper: Frozen
    aggregate: Literal["min", "mean", "last"] = "min"
    between: str = "\n\n"  # the text between two steps
    good: str = "+"
    bad: str = "-"

    ASKS: ClassVar[bool] = True

    def __post_init__(self):
        check(self)
        if not isinstance(self.helper, Frozen):
            raise ValueError(
                f"StepScores.helper is {self.helper!r}; wanted a model whose probabilities are "
                "read, as Frozen('PRM/export')"
            )
        if not self.between or self.good == self.bad:
            raise ValueError(
                f"StepScores: between is {self.between!r}, good {self.good!r} and bad "
                f"{self.bad!r}; wanted a text between steps and two different tokens, as "
                "'\\n\\n', '+' and '-'"
            )

    def __call__(self, answered: Answered) -> None:
        """Says nothing: see the head of this module."""

    def steps(self, thoughts: str) -> list[str]:
        """Returns the steps of thoughts, each with what stands between it and the next."""
        parts = thoughts.split(self.between)
        whole = [part + self.between for part in parts[:-1]] + parts[-1:]
        # A part of nothing is no step: it belongs to the step before, or to the first.
        steps: list[str] = []
        lead = ""
        for part in whole:
            if part.removesuffix(self.between).strip():
                steps.append(lead + part)
                lead = ""
            elif steps:
                steps[-1] += part
            else:
                lead += part
        return steps

    def grade(
        self,
        answers: list[tuple[Example, list[float]]],
        verify: Verify,
        progress: float,
    ) -> list[tuple[float, str]]:
        """Returns (the aggregate, "") of each sample's scores; nan for one without a step."""
        of = {"min": min, "mean": statistics.fmean, "last": lambda scores: scores[-1]}
        aggregate = of[self.aggregate]
        return [
            (float(aggregate(scores)) if scores else math.nan, "")
            for _, scores in answers
        ]


@dataclasses.dataclass(frozen=True)
class Likely:
    """The accuracy of a right answer that the stage's reference finds likely (GRPO-CARE).

    arXiv 2506.16141: the likelihood of an answer behind its own thoughts is exp(mean log p of its
    tokens), at most `cap`. It counts if it reaches the mean of the group's right answers, less
    `margin`. Right is whose accuracy is above 0.1 and not below the group's mean. None for others.

        accuracies 1 1 1 0, likelihoods .9 .5 .99 .99   ->   mean (.9 + .5 + .95) / 3 = .783
                                                             1 0 1 None

    The reference is `GRPO.reference`, and may follow the policy: `GRPO.reference_decay`. The answer
    is all that stands behind </think>; in the released code it is what stands in <answer>.
    """

    cap: PositiveFloat = 0.95
    margin: NonNegativeFloat = 0.0

    READS_REFERENCE: ClassVar[bool] = True
    __post_init__ = check

    def __call__(self, answered: Answered) -> None:
        """Says nothing: see the head of this module."""

    def compare(
        self, accuracies: list[float | None], likelihoods: list[float]
    ) -> list[float | None]:
        """Returns what it says of each sample of a group; accuracy None: it has no reward."""
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        mean = sum(known) / max(len(known), 1)
        capped = [min(likelihood, self.cap) for likelihood in likelihoods]
        is_right = [a is not None and a > 0.1 and a >= mean for a in accuracies]
        of_right = [p for p, right in zip(capped, is_right, strict=True) if right]
        bar = sum(of_right) / max(len(of_right), 1) - self.margin
        # Equal likelihoods reach their own mean: log p of one text differs by the rounding of
        # float32 with the rows that it was packed into.
        return [
            (a if p >= bar - ROUNDING else 0.0) if right else None
            for a, p, right in zip(accuracies, capped, is_right, strict=True)
        ]


def likelihood_terms(reward: Reward) -> list[tuple]:
    """Returns the pairs (weight, term) of a reward whose term reads the reference's likelihoods."""
    return [pair for pair in reward.terms if getattr(pair[1], "READS_REFERENCE", False)]


def asking_terms(reward: Reward) -> list[tuple]:
    """Returns the pairs (weight, term) of a reward whose term asks a helper."""
    return [pair for pair in reward.terms if getattr(pair[1], "ASKS", False)]


def frozen_models(reward: Reward) -> dict[str, Frozen]:
    """Returns the frozen checkpoints that a reward asks, by the name of their term."""
    return {
        name_of(term): term.helper
        for _, term in asking_terms(reward)
        if isinstance(term.helper, Frozen)
    }


def identity(stage: str, reward: Reward) -> dict[str, str]:
    """Returns what the files of a stage's helpers hold, by its name in the run's identity.

    Their names and prompts are fields of the reward already.
    """
    return {
        f"{stage}.helper.{name}": helper.fingerprint()
        for name, helper in frozen_models(reward).items()
    }
