"""A frozen model that writes on behind the thoughts of a step's samples (`FrozenAnswers`)."""

import dataclasses

import jax
import numpy as np

from r1v3_jax.data.reworded import words_alone
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import Processor
from r1v3_jax.rewards.helpers import Consistent
from r1v3_jax.rollout.texts import Sampler
from r1v3_jax.types import Example, PromptBatch, StepInfo


@dataclasses.dataclass(frozen=True)
class FrozenAnswers:
    """A frozen model that answers behind given thoughts; see `rewards.helpers.Consistent`.

    All processes must call it with the same rows. It samples at least once a call, so that its
    programs are compiled in the first step.
    """

    term: Consistent
    model: R1V3  # laid out for decoding
    sampler: Sampler  # with the helper's processor, greedy, of one sample a prompt
    batch: int  # prompts at a time

    def __call__(self, rows: list[tuple[Example, str]]) -> list[tuple[str, str]]:
        """Returns (its answer, "") to each (question, thoughts), or ("", why there is none)."""
        # 1. What cannot be asked costs its sample, as a term that raises does.
        room = self.sampler.max_prompt_tokens
        answers: list[tuple[str, str]] = [("", "")] * len(rows)
        prompts: dict[int, np.ndarray] = {}
        for i, (example, thoughts) in enumerate(rows):
            try:
                prompts[i] = self._prompt(example, thoughts)
            except (
                Exception
            ) as error:  # as a control token that the policy wrote as text
                answers[i] = "", str(error)[:200]
                continue
            if len(prompts[i]) > room:
                problem = (
                    f"{len(prompts.pop(i))} tokens, the helper has room for {room}"
                )
                answers[i] = "", problem

        # 2. The others, in batches of one size; a batch of nothing where there are none.
        places = list(prompts)
        for start in range(0, max(len(places), 1), self.batch):
            chunk = places[start : start + self.batch]
            texts = self._write_on([prompts[i] for i in chunk])
            for i, text in zip(chunk, texts, strict=True):
                answers[i] = self.term.cue + text, ""
        return answers

    def _prompt(self, example: Example, thoughts: str) -> np.ndarray:
        """Returns the tokens of "QUESTION <think>THOUGHTS</think>CUE", int32[T]."""
        processor: Processor = self.sampler.processor
        prompt = processor.prompt(words_alone(example))
        behind = f"{thoughts}</think>{self.term.cue}"
        ids = processor.tokenizer.encode_text(behind)
        return np.concatenate([prompt.tokens, np.asarray(ids, np.int32)])

    def _write_on(self, prompts: list[np.ndarray]) -> list[str]:
        """Returns what the model writes behind each of at most `batch` prompts."""
        # 1. A batch that is not full has prompts of one token, whose answers nobody reads.
        sampler = self.sampler
        tokenizer = sampler.processor.tokenizer
        shape = (self.batch, sampler.max_prompt_tokens)
        tokens = np.full(shape, tokenizer.pad_token_id, np.int32)
        tokens[:, 0] = tokenizer.end_token_id
        lengths = np.ones(self.batch, np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
            lengths[row] = len(prompt)

        # 2. Greedy samples need no key of their own.
        batch = PromptBatch(tokens, lengths, tiles=None, image_index=None)
        info = StepInfo(0, jax.random.key(0), sampler.sampling.max_tokens)
        *_, (completions, *_) = sampler.snapshots(self.model, batch, info)
        ids = [
            completions.tokens[i, : completions.lengths[i]] for i in range(len(prompts))
        ]
        return tokenizer.decode_all(ids, skip_special=True)
