"""One number that makes probabilities of scores, fitted on held-out rows."""

import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from zlpr_jax.losses import _host


def fit_temperature(
    logits: Float[Array | np.ndarray, "*shape"],
    labels: Bool[Array | np.ndarray, "*shape"]
    | Integer[Array | np.ndarray, "*shape"]
    | Float[Array | np.ndarray, "*shape"],
) -> float:
    r"""The temperature at which the probabilities have the smallest log loss.

    $$ T = \arg\min_{T > 0} -\frac1n \sum_i
       t_i \log\sigma(s_i / T) + (1 - t_i) \log(1 - \sigma(s_i / T)) $$

    Use it as `zlpr_probabilities(logits, scale=1 / T)`, on rows that had no part in the
    training. The loss is convex in 1/T, so the minimum is the root of one increasing
    function, found to the last digits of float64.

    A temperature keeps $\sigma(0) = 1/2$. It cannot mend the shift that hard labels
    give where they exclude one another: there scores cross 0 at a probability below
    one half, 0.44 with 3 classes and 0.22 with 100. Such probabilities want an
    intercept for every label too: fit scikit-learn's `LogisticRegression` for each
    label, with its score as the one feature.

    Args:
        logits: held-out scores, floating point, any shape, a JAX or a NumPy array. -inf
            on a negative (inf on a positive) has the same loss at every temperature.
        labels: of the shape of `logits`: booleans, integers 0 and 1, or soft labels in
            [0, 1].

    Returns:
        The temperature, a finite number above 0.

    Raises:
        TypeError: if an array is traced, `logits` is not floating point, or `labels` is
            complex.
        ValueError: if the shapes differ, a score is NaN, a label is outside [0, 1], an
            infinite score contradicts its label, or no temperature is best: the signs
            of the scores are right for every label (the log loss falls to 0 as T does),
            or the scores say nothing of the labels, or the opposite (it falls as T
            grows).

    Examples:
        >>> import numpy as np
        >>> from zlpr_jax.losses import fit_temperature
        >>> logits = np.array([2.0, 2.0, 2.0, 2.0, -2.0])
        >>> labels = np.array([True, True, True, False, False])
        >>> print(round(fit_temperature(logits, labels), 4))  # sigma(2 / T) = 4/5
        1.4427

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
        https://arxiv.org/abs/1706.04599
    """
    # Here, not above: importing zlpr_jax.losses should stay light.
    from scipy.optimize import root_scalar
    from scipy.special import expit

    scores, truth = _finite("fit_temperature", logits, labels)
    unit = np.abs(scores).max(initial=0) or 1.0
    scores = scores / unit

    def slope(scale: float) -> float:
        """The derivative of the summed log loss with respect to 1/T."""
        return float(np.dot(scores, expit(scale * scores) - truth))

    towards = unit * float(np.dot(scores, truth - 0.5))
    if towards <= 0:
        raise ValueError(
            "no temperature fits: the scores point away from the labels, or say "
            f"nothing of them (sum of score * (label - 1/2) = {towards:g}, which "
            "should be above 0): check that logits and labels are in the same order "
            "and that the model has learnt something."
        )
    wrong = np.where(scores > 0, 1 - truth, truth)
    if not wrong.any():
        raise ValueError(
            "no temperature fits: every score has the sign of its label, so the log "
            "loss falls towards 0 with the temperature: fit on more held-out rows, and "
            "not on the rows of the training."
        )
    low, high = 0.5, 1.0
    while slope(high) < 0:
        low, high = high, 2 * high
    while slope(low) >= 0:
        low, high = low / 2, low
    found = root_scalar(slope, bracket=(low, high), xtol=1e-14 * low, rtol=1e-14)
    return float(unit / found.root)


def _finite(
    function: str, logits: Array | np.ndarray, labels: Array | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The finite, nonzero scores and their labels, in float64."""
    scores = _host.host_scores(function, logits).astype(np.float64)
    truth = _host.soft_labels(function, labels, scores.shape)
    against = np.isinf(scores) & (truth != (scores > 0))
    if against.any():
        raise ValueError(
            f"{against.sum()} infinite scores contradict their labels, an infinite "
            "loss at every temperature: leave these entries out of logits and labels."
        )
    # The others have the same loss at every temperature.
    matters = np.isfinite(scores) & (scores != 0)
    return scores[matters], truth[matters]
