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
    "fields": "a field is missing or of the wrong type, or no layout is recognised",
    "text": "a text with a NUL, a control token or half of a surrogate pair, or far too long",
    "markers": "another number of <image> markers than of images",
    "image_missing": "an image is not where its path says",
    "image_path": "the path of an image leads out of the data's root, or is an address",
    "image_format": "an image of a format that is not read",
    "image_size": "an image too large, too small or too narrow",
    "image_damaged": "an image that cannot be decoded",
    "no_question": "the question is empty",
    "no_answer": "there is no answer to verify, or neither an answer nor a chain of thought",
    "no_chain": "there is no chain of thought to learn from",
    "answer": "the reference answer does not verify against itself",
    "verifier": "the verifier that the row names does not exist",
    "duplicate": "an earlier row is the same",
    "too_long": "more tokens than there is room for; nothing is ever cut",
    "too_many_tiles": "more tiles of images than there is room for",
}


class DroppedRow(Exception):
    """A row that is not trained on. reason: a word of REASONS; detail: what was found, in a line.

    Whoever draws examples skips the row, counts it and lists it.
    """

    def __init__(self, source: str, id: str, reason: str, detail: str = ""):
        assert reason in REASONS, reason
        detail = " ".join(detail.split())[:300]
        super().__init__(
            source, id, reason, detail
        )  # as they stand, so that pickle can
        self.source, self.id, self.reason, self.detail = source, id, reason, detail

    def __str__(self) -> str:
        return f"{self.source}, {self.id}: {self.detail or REASONS[self.reason]} ({self.reason})"


@dataclasses.dataclass(frozen=True)
class Example:
    """One question, with what it takes to train on it or to check an answer to it.

    id: names it for ever, also in logs. question: text with one `<image>` marker per image (or
    none: the images then go in front). chain: a chain of thought for the cold start, or None. level
    and kind group metrics ("normal", "add the rows"). image_labels: what each image token shows,
    one token of text each; where given, supervised training asks for it at the image token, which
    teaches a tower that starts from nothing to see. verifier: how an answer is checked, such as
    "choice|model"; see `verifiers.routing`. source: the data set it is from, for metrics. before:
    the turns in front of the question, (role, content) each; their markers count as the question's.
    accuracy_weight: of the reward, where it is not the config's. metadata: small values that came
    with the row (a pass rate, a subject).
    """

    id: str
    images: tuple[Any, ...]  # PIL images, or `images.StoredImage`
    question: str
    answer: str
    chain: str | None = None
    level: str = "normal"
    kind: str = ""
    image_labels: tuple[str, ...] = ()
    verifier: str = ""
    source: str = ""
    before: tuple[tuple[str, str], ...] = ()
    accuracy_weight: float | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Packed rows for one supervised update, in N micro-batches whose gradients are added.

    tokens, positions, segment_ids: int32[N, B, T]; segment 0 is padding. loss_weights: float32[N,
    B, T], the weight of each token's loss, set once over all micro-batches (1 / supervised tokens,
    say), so that the sum is the loss of the whole batch. tiles: float32[N, I, S, S, 3];
    image_index: int32[N, B, T], as in `R1V3.embed`. None without images. labels: int32[N, B, T],
    what the loss asks for where it is not the token itself: behind an image token with a label, the
    label. None: the tokens.
    """

    tokens: jax.Array
    positions: jax.Array
    segment_ids: jax.Array
    loss_weights: jax.Array
    tiles: jax.Array | None = None
    image_index: jax.Array | None = None
    labels: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptBatch:
    """P prompts, to be sampled from or for their samples to be learnt from.

    tokens: int32[P, T], padded on the right; lengths: int32[P]; tiles: float32[1, I, S, S, 3];
    image_index: int32[P, T], as in `R1V3.embed`. The last two are None without images.
    """

    tokens: jax.Array
    lengths: jax.Array
    tiles: jax.Array | None
    image_index: jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SampleRows:
    """Samples packed into rows behind their prompts, and what the policy gradient needs of them.

    owner: int32[N, J], the prompt of each B / J rows side by side, counted from the first of the
    device that has the rows. tokens, positions, segment_ids: int32[N, B, T]; a segment is a sample,
    0 is padding, and positions go on from the prompt's. The others are float32[N, B, T], a token's
    entry where the token stands. loss_weights: as in `Batch`. advantages: of the sample it belongs
    to. sampler_logprobs: as sampled. old_logprobs: of the weights before the update, where several
    are made. ref_logprobs: of the frozen reference, where a KL term asks for it.

        prompts           [ p   q   r   s   t  ]
        tokens            [ a   b  end  u  end  -  ]     two samples of one prompt
        positions         [ 5   6   7   5   6   0  ]
        segment_ids       [ 1   1   1   2   2   0  ]
        loss_weights      [1/5 1/5 1/5 1/5 1/5  0  ]
        advantages        [.7  .7  .7  -.7 -.7  0  ]
    """

    prompt_of_row: jax.Array
    tokens: jax.Array
    positions: jax.Array
    segment_ids: jax.Array
    loss_weights: jax.Array
    advantages: jax.Array
    sampler_logprobs: jax.Array
    old_logprobs: jax.Array | None = None
    ref_logprobs: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyBatch:
    """One policy update: every prompt once, their samples in N micro-batches of which the first
    `used` (int32[]) hold any.
    """

    prompts: PromptBatch
    rows: SampleRows
    used: jax.Array
