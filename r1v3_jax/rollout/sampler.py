"""Prompts -> groups of scored completions."""

import collections
import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator

import jax

from r1v3_jax.config import Verify
from r1v3_jax.data.reader import format_counts
from r1v3_jax.models.build import for_decoding
from r1v3_jax.rewards.answered import Sample
from r1v3_jax.rewards.reward import Reward, Score
from r1v3_jax.rewards.score import score_all
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.helpers import Asked, with_helpers
from r1v3_jax.rollout.scoring import gather_scores, own_block
from r1v3_jax.rollout.texts import Look, PendingRollout, Sampler
from r1v3_jax.run import watchdog
from r1v3_jax.types import Example, StepInfo


@dataclasses.dataclass(frozen=True)
class GroupSampler(Sampler):
    """Samples groups of completions, and scores them by a reward while others are sampled."""

    verify: Verify = Verify()
    reward: Reward = Reward()
    thinking: bool = True  # whether an answer counts only behind </think>
    helpers: tuple[Asked, ...] = ()  # of the reward's terms that ask a model

    def groups(self, model, examples: list[Example], info: StepInfo) -> list[Group]:
        """Samples `group_size` completions of each example, and scores them.

        Finished samples are scored while others are still sampled. `model`: laid out for decoding
        (`models.build.for_decoding`).
        """
        return self.finish(self.begin(model, examples, info))

    def finish(
        self,
        pending: PendingRollout,
        *,
        when_all_are_sampled: Callable[[], None] = lambda: None,
    ) -> list[Group]:
        """Waits for a rollout, scores its samples and returns their groups.

        when_all_are_sampled: called once, when the devices are done and before the last samples are
        scored.
        """
        # The example of each sample: those of one prompt stand side by side.
        asked = [
            example for example in pending.examples for _ in range(self.group_size)
        ]
        count = len(asked)
        scores: list[Score | None] = [None] * count
        block = own_block(count)

        # 1. Score finished samples, while the devices sample on.
        for look in self.looks(pending):
            if look.is_last and look.new:
                when_all_are_sampled()
            # Every process scores its own block of the samples.
            to_score = [i for i in look.new if block.start <= i < block.stop]
            with watchdog.own_work():
                scored = self._score(to_score, asked, look, pending.info)
            for i, score in zip(to_score, scored, strict=True):
                scores[i] = score

        # 2. Exchange the scores of all processes.
        scores = gather_scores(scores[block.start : block.stop], count, self.reward)

        # 3. Cut the samples into groups, and ask the helpers about them.
        groups = []
        for p, answered in enumerate(self.answers(pending, look)):
            rows = slice(p * self.group_size, (p + 1) * self.group_size)
            groups.append(Group(**vars(answered), scores=scores[rows]))
        return with_helpers(groups, self.helpers, pending.info)

    def _score(
        self, samples: list[int], asked: list[Example], look: Look, info: StepInfo
    ) -> list[Score]:
        """Returns the scores of the named samples."""
        completions = look.completions
        return score_all(
            [
                Sample(
                    text=look.texts[i],
                    example=asked[i],
                    ended=bool(completions.ended[i]),
                    ids=completions.tokens[i, : completions.lengths[i]],
                    limit=info.token_limit,
                )
                for i in samples
            ],
            reward=self.reward,
            verify=self.verify,
            thinking=self.thinking,
            progress=info.progress,
        )


def sample(
    sampler: GroupSampler,
    model,
    source: Callable[[int], Example],
    count: int,
    batch: int,
    key,
    *,
    temperature: float | None = None,
) -> Iterator[tuple[int, Group]]:
    """Yields (index, group) of the first `count` good rows of a source, `batch` prompts at a time.

    No row of a source with an end comes twice. `model`: as it is trained. temperature: in
    place of the sampler's. Warns if rows were dropped.
    """
    model = for_decoding(model)
    dropped = collections.Counter()
    end = len(source) if hasattr(source, "__len__") else sys.maxsize
    with contextlib.closing(sampler.reader(source, batch)) as reader:
        for start in range(0, count, batch):
            # The last batch is as large as the others: one shape, one program. Rows beyond `count`
            # or beyond the end of the source are thrown away.
            items, consumed = reader.take(batch)
            dropped.update(drop["reason"] for drop in consumed.drops)
            info = StepInfo(
                step=0,
                key=jax.random.fold_in(key, start),
                token_limit=sampler.sampling.max_tokens,
                temperature=temperature,
            )
            examples = [item.example for item in items]
            groups = sampler.groups(model, examples, info)
            pairs = [
                (item.index, group) for item, group in zip(items, groups, strict=True)
            ]
            yield from [pair for pair in pairs if pair[0] < end][: count - start]
            if pairs[-1][0] >= end - 1:
                break
    if dropped:
        warnings.warn(
            f"bad rows were left out of the questions: {format_counts(dropped)}",
            stacklevel=2,
        )
