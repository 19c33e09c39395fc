"""Losses, advantages and token weights: pure functions of arrays, with their equations."""

from r1v3_jax.losses.advantages import (
    Advantage,
    Aggregation,
    ConstantLength,
    GroupCentred,
    GroupRelative,
    SequenceMean,
    TokenMean,
)
from r1v3_jax.losses.policy import K1, K2, K3, Clipped, KLEstimator, PolicyLoss

__all__ = [
    "K1",
    "K2",
    "K3",
    "Advantage",
    "Aggregation",
    "Clipped",
    "ConstantLength",
    "GroupCentred",
    "GroupRelative",
    "KLEstimator",
    "PolicyLoss",
    "SequenceMean",
    "TokenMean",
]
