"""Thresholds tuned on held-out scores: exact, by sorting, in NumPy on the host.

The threshold lies midway between the last score predicted and the first one not, and 1
beyond the scores where all or none are predicted. Of several best ones the nearest to 0
is taken (of two as near, the higher); where none finds anything, the one that predicts
the fewest.
"""

import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from zlpr_jax.losses import _cuts, _host

Scores = Float[Array | np.ndarray, "N C"]
Labels = Bool[Array | np.ndarray, "N C"] | Integer[Array | np.ndarray, "N C"]


def micro_f1_threshold(logits: Scores, labels: Labels) -> float:
    r"""The one threshold with the best micro-F1.

    $$ \arg\max_\theta \frac{2\,TP(\theta)}{K(\theta) + P},
       \qquad K = \#\{s > \theta\},\; P = \#\{y = 1\} $$

    Use it as `zlpr_predict(logits, threshold)`, on other rows than these.

    Args:
        logits: held-out scores `[N, C]`, floating point, a JAX or a NumPy array. Equal
            scores cannot be separated. No threshold reaches -inf and the most negative
            finite number, which often stands for a mask: neither is ever predicted, as
            inf always is.
        labels: `[N, C]`, booleans or integers 0 and 1.

    Returns:
        A finite number that separates the scores in float32 as in their own dtype. Of
        several best the one nearest to 0; without any positive it lies above all
        scores.

    Raises:
        TypeError: if an array is traced (call it outside `jax.jit`), `logits` is not
            floating point, or `labels` is neither boolean nor integer.
        ValueError: if the shapes differ or are not `[N, C]` with at least one entry, a
            score is NaN, or a label is neither 0 nor 1.

    Examples:
        >>> import numpy as np
        >>> from zlpr_jax.losses import micro_f1_threshold
        >>> logits = np.array([[2.0, -1.0], [-0.5, -3.0]])
        >>> labels = np.array([[True, False], [True, False]])
        >>> print(micro_f1_threshold(logits, labels))
        -0.75

    References:
        Lipton, Elkan and Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize
        F1 Measure", ECML PKDD 2014, https://arxiv.org/abs/1402.1892
    """
    scores, truth = _matrices("micro_f1_threshold", logits, labels)
    ranked, hits = _cuts.ranked(scores.reshape(-1, 1), truth.reshape(-1, 1))
    return float(_cuts.choose(_cuts.f1(hits), _cuts.thresholds(ranked))[0])


def macro_f1_threshold(logits: Scores, labels: Labels) -> float:
    r"""The one threshold with the best macro-F1, the mean of the F1 of every label.

    $$ \arg\max_\theta \frac1C \sum_c \frac{2\,TP_c(\theta)}{K_c(\theta) + P_c} $$

    A label with nothing to find and no find counts as 0.

    Args:
        logits: as for `micro_f1_threshold`.
        labels: as for `micro_f1_threshold`.

    Returns:
        As `micro_f1_threshold`. Means closer than 1e-12 count as equal.

    Raises:
        TypeError: as `micro_f1_threshold`.
        ValueError: as `micro_f1_threshold`.

    Examples:
        >>> import numpy as np
        >>> from zlpr_jax.losses import macro_f1_threshold
        >>> logits = np.array([[2.0, -1.0], [-0.5, -3.0]])
        >>> labels = np.array([[True, False], [False, True]])
        >>> print(macro_f1_threshold(logits, labels))
        -4.0
    """
    scores, truth = _matrices("macro_f1_threshold", logits, labels)
    return _mean_f1_threshold(scores, truth)


def example_f1_threshold(logits: Scores, labels: Labels) -> float:
    r"""The one threshold with the best example F1, the mean of the F1 of every row.

    $$ \arg\max_\theta \frac1N \sum_n \frac{2\,TP_n(\theta)}{K_n(\theta) + P_n} $$

    A row with nothing to find and no find counts as 0, as in scikit-learn with
    `zero_division=0`. There is no version with a threshold per label: every row mixes
    all labels, so the labels cannot be tuned one by one.

    Args:
        logits: as for `micro_f1_threshold`.
        labels: as for `micro_f1_threshold`.

    Returns:
        As `micro_f1_threshold`. Means closer than 1e-12 count as equal.

    Raises:
        TypeError: as `micro_f1_threshold`.
        ValueError: as `micro_f1_threshold`.

    Examples:
        >>> import numpy as np
        >>> from zlpr_jax.losses import example_f1_threshold
        >>> logits = np.array([[2.0, -1.0], [-0.5, -3.0]])
        >>> labels = np.array([[True, False], [True, False]])
        >>> print(example_f1_threshold(logits, labels))
        -0.75
    """
    scores, truth = _matrices("example_f1_threshold", logits, labels)
    return _mean_f1_threshold(scores.T, truth.T)


def micro_f1_thresholds(logits: Scores, labels: Labels) -> Float[np.ndarray, " C"]:
    r"""A threshold per label, together those with the best micro-F1.

    $$ \arg\max_{\theta_1 \ldots \theta_C}
       \frac{2 \sum_c TP_c(\theta_c)}{\sum_c K_c(\theta_c) + P} $$

    For a given value $\lambda$ of the quotient the labels separate: each maximises
    $2\,TP_c - \lambda K_c$. Repeated with the quotient so reached, this ends at the
    maximum after a few rounds (Dinkelbach), in integers and so exactly.

    Use it as `zlpr_predict(logits, jnp.asarray(thresholds)[None, :])`. C numbers are
    fitted: rare labels, with few positives, follow their noise.

    Args:
        logits: as for `micro_f1_threshold`.
        labels: as for `micro_f1_threshold`.

    Returns:
        `[C]`, float32 (float64 for float64 logits), finite. A label that never adds to
        the score has its threshold above all its scores.

    Raises:
        TypeError: as `micro_f1_threshold`.
        ValueError: as `micro_f1_threshold`.

    Examples:
        >>> import numpy as np
        >>> from zlpr_jax.losses import micro_f1_thresholds
        >>> logits = np.array([[2.0, -1.0], [-0.5, -3.0]])
        >>> labels = np.array([[True, True], [False, False]])
        >>> print(micro_f1_thresholds(logits, labels))
        [ 0.75 -2.  ]

    References:
        Dinkelbach, "On Nonlinear Fractional Programming", Management Science 13(7),
        1967.
    """
    scores, truth = _matrices("micro_f1_thresholds", logits, labels)
    ranked, hits = _cuts.ranked(scores, truth)
    thresholds = _cuts.thresholds(ranked)
    positives, found, decided = int(truth.sum()), 0, 1
    while True:
        gains = 2 * decided * hits - found * np.arange(len(hits))[:, None]
        chosen = _cuts.choose(gains, thresholds)
        predicted = scores > chosen
        last = found, decided
        found = 2 * int((predicted & truth).sum())
        decided = max(int(predicted.sum()) + positives, 1)
        if found * last[1] == last[0] * decided:
            return chosen


def macro_f1_thresholds(logits: Scores, labels: Labels) -> Float[np.ndarray, " C"]:
    r"""A threshold per label, each with the best F1 of its label: the best macro-F1.

    $$ \theta_c = \arg\max_\theta \frac{2\,TP_c(\theta)}{K_c(\theta) + P_c} $$

    Use it as `zlpr_predict(logits, jnp.asarray(thresholds)[None, :])`. C numbers are
    fitted: rare labels, with few positives, follow their noise.

    Args:
        logits: as for `micro_f1_threshold`.
        labels: as for `micro_f1_threshold`.

    Returns:
        `[C]`, float32 (float64 for float64 logits), finite. A label without a positive
        has its threshold above all its scores.

    Raises:
        TypeError: as `micro_f1_threshold`.
        ValueError: as `micro_f1_threshold`.

    Examples:
        >>> import numpy as np
        >>> from zlpr_jax.losses import macro_f1_thresholds
        >>> logits = np.array([[2.0, -1.0], [-0.5, -3.0]])
        >>> labels = np.array([[True, False], [False, False]])
        >>> print(macro_f1_thresholds(logits, labels))
        [0.75 0.  ]
    """
    scores, truth = _matrices("macro_f1_thresholds", logits, labels)
    ranked, hits = _cuts.ranked(scores, truth)
    return _cuts.choose(_cuts.f1(hits), _cuts.thresholds(ranked))


def _matrices(
    function: str, logits: Array | np.ndarray, labels: Array | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    scores = _host.host_scores(function, logits)
    truth = _host.hard_labels(function, labels, scores.shape)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(
            f"logits must have the shape [N, C], N and C at least 1, got "
            f"{scores.shape}: stack the rows of a held-out split."
        )
    return np.where(scores > np.finfo(scores.dtype).min, scores, -np.inf), truth


def _mean_f1_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The best cut through all scores for the mean of the F1 of the columns."""
    ranked, hits = _cuts.ranked(scores, truth)
    # In units of 2^-52 or a little more the F1 are integers: their changes, in the
    # order of all scores, add up without drift, however many there are.
    columns = scores.shape[1]
    unit = 2.0 ** min(52, 62 - columns.bit_length())
    changes = np.diff(np.rint(_cuts.f1(hits) * unit).astype(np.int64), axis=0)
    order = np.argsort(-ranked, axis=None, kind="stable")
    means = np.concatenate([[0], np.cumsum(changes.ravel()[order])])
    cuts = _cuts.thresholds(ranked.ravel()[order][:, None])
    return float(_cuts.choose(means[:, None], cuts, slack=columns)[0])
