"""Scores of a whole multi-label split, on the host."""

import numpy as np
from sklearn import metrics

# name -> (title, larger is better)
MULTILABEL_SCORES = {
    "micro_f1": ("micro-F1", True),
    "macro_f1": ("macro-F1", True),
    "lrap": ("LRAP", True),
    "ranking_loss": ("ranking loss", False),
    "one_error": ("one-error", False),
    "subset_accuracy": ("subset acc.", True),
    "hamming_loss": ("Hamming loss", False),
    "map": ("mAP", True),
}


def multilabel_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score logits against 0/1 labels, both `[rows, labels]`; positive means s > 0.

    F1 counts 0/0 as 0. mAP is the mean over the labels that occur. LRAP and ranking
    loss follow scikit-learn: a row with no label, or with all, scores 1 and 0.
    One-error is the share of rows whose highest score is no label of theirs.
    """
    labels = labels.astype(bool)
    predicted = logits > 0
    micro, macro = f1_scores(predicted, labels)
    top = np.take_along_axis(labels, logits.argmax(axis=1)[:, None], axis=1)
    scores = {
        "micro_f1": micro,
        "macro_f1": macro,
        # scikit-learn takes one column for a binary problem and raises; the rank of a
        # single label is always the first
        "lrap": 1.0,
        "ranking_loss": 0.0,
        "one_error": float(1 - top.mean()),
        "subset_accuracy": float((predicted == labels).all(axis=1).mean()),
        "hamming_loss": float((predicted != labels).mean()),
        "map": 0.0,
    }
    if labels.shape[1] > 1:
        scores["lrap"] = float(
            metrics.label_ranking_average_precision_score(labels, logits)
        )
        scores["ranking_loss"] = float(metrics.label_ranking_loss(labels, logits))
    occurs = labels.any(axis=0)
    if occurs.any():
        scores["map"] = float(
            metrics.average_precision_score(labels[:, occurs], logits[:, occurs])
        )
    return scores


def f1_scores(predicted: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Micro-F1 and macro-F1 of boolean arrays `[rows, labels]`; 0/0 is 0."""
    hits = (predicted & labels).sum(axis=0)
    sizes = predicted.sum(axis=0) + labels.sum(axis=0)
    micro = 2 * hits.sum() / max(sizes.sum(), 1)
    return float(micro), float((2 * hits / np.maximum(sizes, 1)).mean())
