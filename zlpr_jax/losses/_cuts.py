"""Cuts through ranked scores, in NumPy.

In decreasing order the first k scores are predicted, the others not: a cut. Every array
here has a column per ranking and, from 0 predicted to all N, a row per cut.
"""

import numpy as np


def ranked(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each column in decreasing order, and the hits among the first 0, ..., N."""
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.zeros((len(scores) + 1, scores.shape[1]), np.int64)
    np.cumsum(np.take_along_axis(truth, order, axis=0), axis=0, out=hits[1:])
    return np.take_along_axis(scores, order, axis=0), hits


def f1(hits: np.ndarray) -> np.ndarray:
    """F1 of every cut; rational numbers that are equal give equal floats."""
    sizes = np.arange(len(hits))[:, None] + hits[-1]
    return 2 * hits / np.maximum(sizes, 1)


def thresholds(ranked: np.ndarray) -> np.ndarray:
    """The threshold of every cut `[N + 1, C]`; NaN where none separates the scores."""
    ends = np.full_like(ranked[:1], np.inf)
    above, below = np.concatenate([ends, ranked]), np.concatenate([ranked, -ends])
    high = np.where(np.isfinite(above), above, 0)
    low = np.where(np.isfinite(below), below, 0)
    limits = np.finfo(ranked.dtype)
    with np.errstate(over="ignore"):
        # 1e-6 of a score is still a step in float32.
        beyond = np.minimum(low + np.maximum(1, 1e-6 * np.abs(low)), limits.max)
        short = np.maximum(high - np.maximum(1, 1e-6 * np.abs(high)), limits.min)
        # The rule is s > threshold: where the middle rounds up to the higher score,
        # the lower one separates them.
        middle = low / 2 + high / 2
        lost = middle.astype(np.float32) >= high.astype(np.float32)
    middle = np.where(lost | (middle < low), low, middle)
    cases = [
        (above <= below) | (below == np.inf) | (above == -np.inf),
        np.isinf(above) & np.isinf(below),
        np.isinf(above),
        np.isinf(below),
    ]
    return np.select(cases, [np.full_like(low, np.nan), 0 * low, beyond, short], middle)


def choose(values: np.ndarray, cuts: np.ndarray, slack: int = 0) -> np.ndarray:
    """Per column the threshold of largest value; up to `slack` less is as good."""
    possible = ~np.isnan(cuts)
    best = np.max(np.where(possible, values, values.min()), axis=0)
    good = possible & (values >= best - slack)
    # Cuts are in the order of what they predict: argmin takes the first of the equal.
    distance = np.where(good, np.where(best > 0, np.abs(cuts), 0), np.inf)
    return np.take_along_axis(cuts, distance.argmin(axis=0)[None], axis=0)[0]
