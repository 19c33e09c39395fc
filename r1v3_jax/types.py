"""The contracts between stages: what data hands to training, and rollouts to the update.

Host objects (`Example`) hold text and pictures; device objects (`Batch`, `PolicyBatch`) hold
arrays.
"""

import dataclasses
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Example:
    """One question, with what it takes to train on it or to check an answer to it.

    id: names it for ever, also in logs. question: text with one `<image>` marker per image (or
    none: the images then go in front). chain: a chain of thought for the cold start, or None. level
    and kind group metrics ("normal", "add the rows"). image_labels: what each image token shows,
    one token of text each; where given, supervised training asks for it at the image token, which
    teaches a tower that starts from nothing to see. verifier: how an answer is checked, such as
    "choice|model"; see `verifiers.routing`.
    """

    id: str
    images: tuple[Any, ...]  # PIL images
    question: str
    answer: str
    chain: str | None = None
    level: str = "normal"
    kind: str = ""
    image_labels: tuple[str, ...] = ()
    verifier: str = ""


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

    owner: jax.Array
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
