"""The KL term in the reward: two samples of one prompt, written out."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from r1v3_jax.config import GRPO
from r1v3_jax.losses import K1, Distilled, TermByTerm
from r1v3_jax.losses.schedules import Line
from r1v3_jax.rewards.reward import Score
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.sharding import make_mesh
from r1v3_jax.train.kl_rewards import with_kl
from r1v3_jax.train.policy_batch import pack


def source(index):
    return None


CONFIG = GRPO(
    source,
    prompts=1,
    group_size=3,
    max_completion_tokens=4,
    kl_coef=Line(0.0, 0.2),
    kl_in="reward",
    kl_estimator=K1(),
)


@dataclasses.dataclass(frozen=True)
class Group:
    completions: SimpleNamespace
    scores: list


def test_a_sample_pays_for_each_of_its_tokens():
    """KL of 0.5 a token for 4 tokens, 1 a token for 2; the coefficient is 0.1 in the middle."""
    lengths = np.array([4, 2, 1])
    right = Score(
        1.0, 1.0, 1.0, Verdict.RIGHT, "7", "equal", {"correct": 1.0}, {"correct": 1.0}
    )
    failed = dataclasses.replace(right, total=None, parts={}, weights={})
    group = Group(SimpleNamespace(lengths=lengths), [right, right, failed])
    with jax.set_mesh(make_mesh((1, 1, 1))):
        plan = pack(lengths[None], CONFIG)
        old = np.zeros(plan.shape, np.float32)
        ref = np.zeros(plan.shape, np.float32)
        for g, gap in enumerate((0.5, 1.0, 9.0)):
            n, b, start, _ = plan.places[0, g]
            ref[n, b, start : start + lengths[g]] = -gap
        rows = SimpleNamespace(old_logprobs=old, ref_logprobs=ref)
        batch = SimpleNamespace(rows=rows)
        (charged,) = with_kl([group], batch, CONFIG, progress=0.5)
    long, short, unknown = charged.scores
    assert long.total == pytest.approx(1.0 - 0.1 * 2.0)
    assert short.total == pytest.approx(1.0 - 0.1 * 2.0)
    assert long.parts["kl"] == pytest.approx(2.0) and long.weights["kl"] == -0.1
    assert unknown.total is None and unknown.parts == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"kl_coef": 0.0},
        {"loss": Distilled(), "reference": "dir", "kl_coef": 0.1},
        {"advantage": TermByTerm()},
    ],
)
def test_a_kl_reward_that_nobody_reads_is_refused(changes):
    with pytest.raises(ValueError, match="GRPO.kl_in is 'reward', beside kl_coef ="):
        dataclasses.replace(CONFIG, **changes)
