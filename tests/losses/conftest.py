"""A NumPy float64 oracle, written from the equation row by row."""

import numpy as np
import pytest


def _log_one_plus_sum(exponents):
    return np.logaddexp.reduce(np.array([0.0, *exponents]))


def _zlpr(logits, labels, where=None, threshold=None):
    """Rows of `[n, C]` logits; labels in [0, 1]; `threshold` of shape `[n]`."""
    logits = np.asarray(logits, np.float64)
    labels = np.asarray(labels, np.float64)
    losses = []
    for row in range(len(logits)):
        negative, positive = [], []
        for c in range(logits.shape[1]):
            if where is not None and not where[row, c]:
                continue
            score = logits[row, c] - (0.0 if threshold is None else threshold[row])
            if labels[row, c] > 0:
                positive.append(np.log(labels[row, c]) - score)
            if labels[row, c] < 1:
                negative.append(np.log1p(-labels[row, c]) + score)
        losses.append(_log_one_plus_sum(negative) + _log_one_plus_sum(positive))
    return np.array(losses)


@pytest.fixture(scope="session")
def oracle():
    return _zlpr


@pytest.fixture
def rng():
    return np.random.default_rng(0)
