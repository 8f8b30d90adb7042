"""Scores of a split, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn import metrics

from zlpr_jax.tasks.scores import MULTILABEL_SCORES, multilabel_scores


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    labels = rng.random((60, 7)) < 0.3
    labels[3] = False
    labels[4] = True
    labels[:, 5] = False  # a label that never occurs
    return rng.normal(size=(60, 7)) + labels, labels


def test_agrees_with_scikit_learn(split):
    logits, labels = split
    predicted, occurs = logits > 0, labels.any(0)
    scores = multilabel_scores(logits, labels)
    expected = {
        "micro_f1": metrics.f1_score(labels, predicted, average="micro"),
        "macro_f1": metrics.f1_score(
            labels, predicted, average="macro", zero_division=0
        ),
        "lrap": metrics.label_ranking_average_precision_score(labels, logits),
        "ranking_loss": metrics.label_ranking_loss(labels, logits),
        "subset_accuracy": metrics.accuracy_score(labels, predicted),
        "hamming_loss": metrics.hamming_loss(labels, predicted),
        "map": np.mean(
            [
                metrics.average_precision_score(labels[:, i], logits[:, i])
                for i in np.flatnonzero(occurs)
            ]
        ),
        "one_error": np.mean(
            [
                not row[np.argmax(score)]
                for score, row in zip(logits, labels, strict=True)
            ]
        ),
    }
    assert scores.keys() == expected.keys() == MULTILABEL_SCORES.keys()
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-12), name


def test_perfect_and_wrong():
    labels = np.array([[1, 0, 1], [0, 1, 0]], bool)
    perfect = multilabel_scores(np.where(labels, 1.0, -1.0), labels)
    wrong = multilabel_scores(np.where(labels, -1.0, 1.0), labels)
    for name, (_, larger) in MULTILABEL_SCORES.items():
        assert perfect[name] == (1 if larger else 0)
    assert wrong["micro_f1"] == wrong["subset_accuracy"] == 0
    assert wrong["ranking_loss"] == wrong["one_error"] == wrong["hamming_loss"] == 1


def test_a_single_label():
    labels = np.array([[1], [0], [1]], bool)
    scores = multilabel_scores(np.array([[1.0], [2.0], [-1.0]]), labels)
    assert scores["micro_f1"] == scores["macro_f1"] == 0.5
    assert scores["hamming_loss"] == pytest.approx(2 / 3)
    assert scores["lrap"] == 1


def test_no_label_at_all():
    scores = multilabel_scores(np.ones((2, 3)), np.zeros((2, 3), bool))
    assert scores["micro_f1"] == scores["map"] == 0
    assert scores["one_error"] == 1
