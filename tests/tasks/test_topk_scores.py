"""P@k, PSP@k and nDCG@k against scikit-learn, a loop over rows, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from zlpr_jax.tasks.topk_scores import TOPK_SCORES, inverse_propensity, topk_scores

ROWS, LABELS = 40, 12


@pytest.fixture
def split():
    """Dense scores and labels; one row without a label, one with all."""
    rng = np.random.default_rng(0)
    truth = rng.random((ROWS, LABELS)) < 0.2
    truth[3], truth[4] = False, True
    logits = rng.normal(size=truth.shape) + truth
    weights = inverse_propensity(rng.integers(0, 30, LABELS), 500)
    return logits, truth, weights


def scores_of(logits, truth, weights):
    predicted = np.argsort(-logits, axis=1)[:, :7]
    return topk_scores(predicted, [np.flatnonzero(row) for row in truth], weights)


def test_agrees_with_a_loop_over_rows(split):
    logits, truth, weights = split
    scores = scores_of(logits, truth, weights)
    assert scores.keys() == TOPK_SCORES.keys()
    for k in (1, 3, 5):
        hits = got = best = 0
        for row, labels in zip(logits, truth, strict=True):
            top = np.argsort(-row)[:k]
            hits += labels[top].sum()
            got += weights[top][labels[top]].sum()
            best += np.sort(weights[labels])[::-1][:k].sum()
        assert scores[f"precision_at_{k}"] == pytest.approx(hits / (k * ROWS))
        assert scores[f"psp_at_{k}"] == pytest.approx(got / best)


def test_ndcg_is_scikit_learns(split):
    logits, truth, weights = split
    scores = scores_of(logits, truth, weights)
    for k in (1, 3, 5):
        expected = ndcg_score(truth, logits, k=k)
        assert scores[f"ndcg_at_{k}"] == pytest.approx(expected)


def test_by_hand():
    # 100 rows: C = (ln 100 - 1) 2.5^0.55
    counts = np.array([0, 10, 50, 3, 7, 99])
    weights = inverse_propensity(counts, 100)
    c = (np.log(100) - 1) * 2.5**0.55
    assert weights[2] == pytest.approx(1 + c / 51.5**0.55)
    predicted = np.array([[2, 1, 4, 0, 5], [5, 4, 3, 2, 1]])
    scores = topk_scores(predicted, [np.array([1, 3]), np.array([], int)], weights)
    expected = {
        "precision_at_1": 0,
        "precision_at_3": 1 / 6,  # the second row counts
        "precision_at_5": 1 / 10,
        "psp_at_1": 0,
        "psp_at_3": weights[1] / (weights[1] + weights[3]),
        "psp_at_5": weights[1] / (weights[1] + weights[3]),
        "ndcg_at_1": 0,
        "ndcg_at_3": 1 / np.log2(3) / (1 + 1 / np.log2(3)) / 2,
        "ndcg_at_5": 1 / np.log2(3) / (1 + 1 / np.log2(3)) / 2,
    }
    assert scores == pytest.approx(expected)


def test_perfect_and_wrong(split):
    _, truth, weights = split
    truth = truth[truth.any(axis=1)]
    perfect = scores_of(truth * weights, truth, weights)
    # a row of one label cannot hit three
    for name in ("precision_at_1", "psp_at_1", "psp_at_5", "ndcg_at_5"):
        assert perfect[name] == pytest.approx(1)
    one = np.eye(ROWS, LABELS, dtype=bool)[:LABELS]
    wrong = scores_of(-one.astype(float), one, weights)
    assert set(wrong.values()) == {0}


def test_many_labels_and_no_label_at_all():
    # row x label does not fit 32 bits
    labels = 3_000_000
    predicted = np.tile(np.arange(labels - 5, labels, dtype=np.int32), (2000, 1))
    truth = [np.array([labels - 5], np.int32)] * 2000
    assert topk_scores(predicted, truth, np.ones(labels))["precision_at_1"] == 1
    none = topk_scores(predicted[:3], [np.array([], int)] * 3, np.ones(labels))
    assert set(none.values()) == {0}
