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
    """Packed rows for one update, in N micro-batches whose gradients are added.

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
class PolicyBatch:
    """A Batch of sampled completions, and what the policy gradient needs; all float32[N, B, T].

    A token's entry stands where the token stands. advantages: of the sample it belongs to.
    sampler_logprobs: as sampled. old_logprobs: of the same weights, by the trainer's forward pass.
    ref_logprobs: of the frozen reference, or None where no KL term asks for it.

        tokens            [ prompt prompt  a    b   end   -  ]
        loss_weights      [   0      0    1/3  1/3  1/3   0  ]
        advantages        [   0      0    .7   .7   .7    0  ]
    """

    batch: Batch
    advantages: jax.Array
    sampler_logprobs: jax.Array
    old_logprobs: jax.Array | None = None
    ref_logprobs: jax.Array | None = None
