"""Group-relative, leave-one-out, Dr. GRPO, PAD; the weight of a token."""

import numpy as np


def group_advantages(
    rewards: np.ndarray,
    valid: np.ndarray,
    *,
    divide_by_std: bool = True,
    eps: float = 1e-6,
) -> np.ndarray:
    """(r - mean) / (std + eps) within each group: float32[P, G], bool[P, G] -> float32[P, G].

    Mean and (unbiased) standard deviation are over the valid samples of the group; the others get 0
    and take no part. A group with equal rewards, or with one valid sample, has no signal: all 0.
    divide_by_std False is Dr. GRPO (arXiv 2503.20783).
    """
    rewards = np.where(valid, rewards, 0.0).astype(np.float64)
    count = valid.sum(axis=1, keepdims=True)
    mean = rewards.sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(valid, rewards - mean, 0.0)
    if divide_by_std:
        variance = (centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1)
        centred = centred / (np.sqrt(variance) + eps)
    return np.where(count > 1, centred, 0.0).astype(np.float32)


def token_weights(mask: np.ndarray, aggregation: str, max_tokens: int) -> np.ndarray:
    """The weight of each token, so that a weighted sum is the wanted mean: bool[B, T] -> float32[B,
    T].

    One row is one sample; rows without a token (masked samples) count nowhere.

    token      1 / tokens of the whole step (DAPO)
    sequence   1 / tokens of the sample / samples: the mean over samples of their means (equation 7)
    constant   1 / max_tokens / samples: no length in the denominator (Dr. GRPO)
    """
    mask = np.asarray(mask, bool)
    tokens, samples = (
        mask.sum(axis=1, keepdims=True),
        max(int(mask.any(axis=1).sum()), 1),
    )
    if aggregation == "token":
        weight = np.full_like(tokens, 1 / max(int(mask.sum()), 1), np.float64)
    elif aggregation == "sequence":
        weight = 1 / np.maximum(tokens, 1) / samples
    else:
        weight = np.full_like(tokens, 1 / max_tokens / samples, np.float64)
    return np.where(mask, weight, 0.0).astype(np.float32)
