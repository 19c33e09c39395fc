"""The contracts between stages: what data hands to training, and rollouts to the update.

Host objects (`Example`) hold text and pictures; device objects (`Batch`, `PolicyBatch`) hold
arrays.
"""

import dataclasses
from typing import Any

import jax

# Why a row is not trained on: the word in drops.jsonl, and what it says.
REASONS = {
    "json": "no JSON object: damaged, NaN or Infinity in it, nested too deep, or no UTF-8",
    "record": "the file is damaged where the record lies, or the record is too large",
    "fields": "a field is missing or of the wrong type, no schema is recognised, or it "
    "has a picture, a film, options, a thought or a weight in a field that is not read",
    "text": "a text with a NUL, a control token, half of a surrogate pair or a picture, or far too "
    "long",
    "markers": "another number of <image> or <video> markers than of images or films",
    "image_missing": "an image or a film is not where its path says",
    "image_path": "the path of an image or a film leads out of the data's root, or is an address",
    "image_format": "an image of a format that is not read",
    "image_size": "an image too large, too small or too narrow",
    "image_damaged": "an image that cannot be decoded",
    "video_format": "a film of a format that is not read, or a file without moving pictures",
    "video_size": "a film with too many bytes, pixels, frames or seconds, or asked for too many",
    "video_damaged": "a film that cannot be decoded, or has no frame where one is asked for",
    "no_question": "the question is empty",
    "no_answer": "there is no answer to verify, or neither an answer nor a chain of thought",
    "no_chain": "there is no chain of thought to learn from",
    "no_pair": "there are no two answers, chosen and rejected, to learn a preference from",
    "pair": "a row with chosen and rejected, which only a stage of preferences learns from",
    "same_answers": "chosen and rejected are the same",
    "open_thought": "a reply without </think>, where the turn begins with <think>",
    "chain": "the box of the chain is not the answer",
    "answer": "the reference answer does not verify against itself",
    "verifier": "the verifier that the row names does not exist",
    "duplicate": "an earlier row is the same",
    "too_long": "more tokens than there is room for; nothing is ever cut",
    "too_many_tiles": "more tiles of images than there is room for",
}


class DroppedRow(Exception):
    """Says that a row cannot be trained on.

    reason: a word of REASONS. detail: the value that was read, in one line. Whoever reads examples
    skips the row, counts it and lists it.
    """

    def __init__(self, source: str, id: str, reason: str, detail: str = ""):
        assert reason in REASONS, reason
        detail = " ".join(detail.split())[:300]
        super().__init__(source, id, reason, detail)  # unchanged: pickle needs them
        self.source = source
        self.id = id
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.source}, {self.id}: {self.detail or REASONS[self.reason]} ({self.reason})"


@dataclasses.dataclass(frozen=True)
class Film:
    """Which of an example's images are the frames of one film."""

    first: int  # the number of its first frame among the images, from 0
    seconds: tuple[
        float, ...
    ]  # of each frame, from the film's start; () if nobody knows
    frames: int
    tiles: int = 1  # that a frame may have, its thumbnail counted


@dataclasses.dataclass(frozen=True)
class Example:
    """One question, with what it takes to train on it or to check an answer to it."""

    id: str  # names the row in every log and file
    images: tuple[Any, ...]  # PIL images, or `image_files.StoredImage`
    question: (
        str  # with an `<image>` for each image, or none: the images then come first
    )
    answer: str  # the reference that answers are verified against
    chain: str | None = None  # a chain of thought for the cold start
    # Two replies, of which the first is preferred; both or none.
    chosen: str | None = None
    rejected: str | None = None
    level: str = "normal"  # groups metrics
    kind: str = ""  # groups metrics, as "add the rows"
    # What each image token shows, one token of text each. Where given, supervised training asks for
    # it at the image token, which teaches a tower that starts from nothing to see.
    image_labels: tuple[str, ...] = ()
    verifier: str = (
        ""  # how an answer is checked, as "choice|model"; see `verifiers.routing`
    )
    source: str = ""  # the data set it is from, for metrics
    # Turns in front of the question, (role, content) each; their markers count as the question's.
    before: tuple[tuple[str, str], ...] = ()
    accuracy_weight: float | None = None  # of the reward, where it is not the config's
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)  # as a pass rate
    # Films as `processing.video.StoredVideo`, with a `<video>` each in the question, or none: then
    # they come first. Decoding makes them images with markers, and notes them in `films`.
    videos: tuple[Any, ...] = ()
    films: tuple[Film, ...] = ()


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """What a rollout needs to know about its step."""

    step: int  # of the stage, from 0
    key: jax.Array  # of the rollout: a function of seed and step
    token_limit: int  # of a completion
    progress: float = 1.0  # of the stage, 0 to 1; some verifiers grow stricter with it
    # Of the samples, where it moves with the run; None: that of the sampler's settings.
    temperature: float | None = None
    # A `models.draft_head.DraftHead` laid out for decoding; None: nothing is guessed.
    drafter: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Packed rows for one supervised update: N micro-batches, whose gradients are added.

    The arrays are [N, B, T]: B rows of T tokens in each micro-batch.

        tokens         [ q   q   a  end  q   a  end  - ]    two examples in one row
        positions      [ 0   1   2   3   0   1   2   0 ]
        segment_ids    [ 1   1   1   1   2   2   2   0 ]
        loss_weights   [ 0   0  1/4 1/4  0  1/4 1/4  0 ]
    """

    tokens: jax.Array  # int32[N, B, T]
    positions: jax.Array  # int32[N, B, T]
    segment_ids: jax.Array  # int32[N, B, T]; 0 is padding
    # float32[N, B, T]. Set once over all micro-batches, so that the sum of weight times loss is the
    # loss of the whole batch.
    loss_weights: jax.Array
    tiles: jax.Array | None = None  # float32[N, I, S, S, 3]; None without images
    image_index: jax.Array | None = None  # int32[N, B, T], as in `R1V3.embed`
    # int32[N, B, T], what the loss asks for where it is not the token itself: right after an image
    # token that has a label, the label. None: the tokens.
    labels: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptBatch:
    """P prompts, to be sampled from or for their samples to be learnt from."""

    tokens: jax.Array  # int32[P, T], padded on the right
    lengths: jax.Array  # int32[P]
    tiles: jax.Array | None  # float32[1, I, S, S, 3]; None without images
    image_index: jax.Array | None  # int32[P, T], as in `R1V3.embed`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SampleRows:
    """Samples packed into rows, each behind its prompt, and what the policy gradient needs.

    The arrays are [N, B, T]: N micro-batches of B rows of T tokens. A token's numbers are stored
    where the token is.

        prompts           [ p   q   r   s   t  ]
        tokens            [ a   b  end  u  end  -  ]     two samples of one prompt
        positions         [ 5   6   7   5   6   0  ]
        segment_ids       [ 1   1   1   2   2   0  ]
        loss_weights      [1/5 1/5 1/5 1/5 1/5  0  ]
        advantages        [.7  .7  .7  -.7 -.7  0  ]
    """

    # int32[N, J], the prompt of each block of B / J rows, counted from the first prompt of the
    # device that has the rows.
    prompt_of_row: jax.Array
    tokens: jax.Array  # int32
    positions: jax.Array  # int32; they continue the prompt's
    segment_ids: jax.Array  # int32; a segment is a sample, 0 is padding
    loss_weights: jax.Array  # float32, as in `Batch`
    advantages: jax.Array  # float32, of the token's sample
    sampler_logprobs: jax.Array  # float32, as sampled
    # float32, of the weights before the update, where a rollout has several updates.
    old_logprobs: jax.Array | None = None
    ref_logprobs: jax.Array | None = None  # float32, of the reference of a KL term


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyBatch:
    """One policy update: every prompt once, and their samples in micro-batches."""

    prompts: PromptBatch
    rows: SampleRows
    used: jax.Array  # int32[], how many micro-batches hold samples: the first ones
    # float32[] each, the strengths that move with the run, at this step: {"kl_coef": 0.02}. As
    # arrays they change without a compilation.
    numbers: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
