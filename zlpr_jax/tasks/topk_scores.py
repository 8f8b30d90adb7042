"""Scores of the highest few labels, on the host: extreme classification's."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CUTS = (1, 3, 5)
# name -> (title, larger is better)
TOPK_SCORES = {
    f"{name}_at_{k}": (f"{title}@{k}", True)
    for name, title in (("precision", "P"), ("psp", "PSP"), ("ndcg", "nDCG"))
    for k in CUTS
}


def inverse_propensity(
    label_counts: npt.NDArray[np.integer], rows: int, *, a: float = 0.55, b: float = 1.5
) -> npt.NDArray[np.float64]:
    """How much a hit weighs in PSP@k: more for a rare label, which is often missed.

    1 / p_l = 1 + (log N - 1) (b + 1)^a (N_l + b)^-a

    Args:
        label_counts: Training rows that have each label, N_l, `[labels]`.
        rows: Training rows, N, at least 3.
        a: Steepness; 0.55 is usual, 0.5 for Wikipedia and 0.6 for Amazon sets.
        b: Offset; 1.5 is usual, 0.4 for Wikipedia and 2.6 for Amazon sets.

    Returns:
        1 / p_l >= 1, `[labels]`.

    Examples:
        >>> inverse_propensity(np.array([0, 98]), 100).round(4).tolist()
        [5.7747, 1.4753]

    References:
        Jain, Prabhu & Varma, "Extreme Multi-label Loss Functions for Recommendation,
        Tagging, Ranking & Other Missing Label Applications", KDD 2016.
    """
    c = (np.log(rows) - 1) * (b + 1) ** a
    return 1 + c * (label_counts + b) ** -a


def topk_scores(
    predicted: npt.NDArray[np.integer],
    labels: Sequence[npt.NDArray[np.integer]],
    weights: npt.NDArray[np.float64],
) -> dict[str, float]:
    """P@k, PSP@k and nDCG@k for k = 1, 3, 5, as the XMC repository counts them.

    P@k and nDCG@k are means over all rows, and a row without labels counts as one
    without hits. PSP@k is the weight of all hits over the largest weight that k labels
    a row could have had, so a row without labels changes nothing.

    Args:
        predicted: Different labels, best first, `[rows, at least 5]`.
        labels: The labels of each row, each once.
        weights: `inverse_propensity` of every label.

    Returns:
        `{name: score}` with the names of `TOPK_SCORES`.

    Examples:
        >>> predicted = np.array([[2, 0, 1, 3, 4]])
        >>> scores = topk_scores(predicted, [np.array([1, 2])], np.ones(5))
        >>> [round(scores[f"precision_at_{k}"], 3) for k in (1, 3, 5)]
        [1.0, 0.667, 0.4]
    """
    rows, most = len(predicted), max(CUTS)
    counts = np.array([len(row) for row in labels])
    truth = np.concatenate(labels) if rows else np.zeros(0, int)
    row = np.repeat(np.arange(rows), counts)
    # one number per pair of row and label
    pairs = row * np.int64(len(weights)) + truth
    guessed = np.arange(rows)[:, None] * np.int64(len(weights)) + predicted[:, :most]
    hits = np.isin(guessed, pairs)
    gained = np.where(hits, weights[predicted[:, :most]], 0)
    # the heaviest labels of each row, one column per place
    order = np.lexsort((-weights[truth], row))
    place = np.arange(len(truth)) - np.repeat(np.cumsum(counts) - counts, counts)
    among = place < most
    possible = np.zeros((rows, most))
    possible[row[among], place[among]] = weights[truth[order]][among]
    discount = 1 / np.log2(np.arange(2, most + 2))
    ideal = np.cumsum(discount)
    scores = {}
    for k in CUTS:
        best = ideal[np.clip(counts, 1, k) - 1]
        scores[f"precision_at_{k}"] = hits[:, :k].mean()
        scores[f"psp_at_{k}"] = gained[:, :k].sum() / max(possible[:, :k].sum(), 1e-12)
        scores[f"ndcg_at_{k}"] = (hits[:, :k] @ discount[:k] / best).mean()
    return {name: float(scores[name]) for name in TOPK_SCORES}
