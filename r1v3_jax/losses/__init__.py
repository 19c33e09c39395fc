"""Losses, advantages and token weights: pure functions of arrays, with their equations."""

from r1v3_jax.losses.advantages import (
    Advantage,
    Aggregation,
    BatchRelative,
    ConstantLength,
    GaussianRanks,
    GroupCentred,
    GroupRelative,
    LeaveOneOut,
    SequenceMean,
    TokenMean,
    Whitened,
)
from r1v3_jax.losses.choices import (
    AllAlike,
    AllTokens,
    HighEntropy,
    Prioritized,
    SampleWeight,
    SoftPrioritized,
    TokenChoice,
    WithoutCut,
)
from r1v3_jax.losses.corrections import (
    NOTHING,
    Correction,
    Masked,
    Truncated,
    WholeSequence,
)
from r1v3_jax.losses.entropy import AdaptiveEntropy
from r1v3_jax.losses.kl import K1, K2, K3, KLEstimator
from r1v3_jax.losses.policy import Cispo, Clipped, Gmpo, Gspo, PolicyLoss, Sapo

__all__ = [
    "K1",
    "K2",
    "K3",
    "NOTHING",
    "AdaptiveEntropy",
    "Advantage",
    "Aggregation",
    "AllAlike",
    "AllTokens",
    "BatchRelative",
    "Cispo",
    "Clipped",
    "ConstantLength",
    "Correction",
    "GaussianRanks",
    "Gmpo",
    "GroupCentred",
    "GroupRelative",
    "Gspo",
    "HighEntropy",
    "KLEstimator",
    "LeaveOneOut",
    "Masked",
    "PolicyLoss",
    "Prioritized",
    "SampleWeight",
    "Sapo",
    "SequenceMean",
    "SoftPrioritized",
    "TokenChoice",
    "TokenMean",
    "Truncated",
    "Whitened",
    "WholeSequence",
    "WithoutCut",
]
