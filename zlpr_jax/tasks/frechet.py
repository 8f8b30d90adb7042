"""The Frechet distance between two sets of features."""

import numpy as np

from zlpr_jax._errors import InputError


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    r"""Measure how far two sets of rows are apart, each seen as a Gaussian.

    With means $\mu$ and covariances $C$ (divided by the number of rows minus one),

    $$
    d = |\mu_a - \mu_b|^2
      + \operatorname{tr}\big(C_a + C_b - 2 (C_a C_b)^{1/2}\big).
    $$

    No matrix square root is taken. With any factors $C = R^\top R$ the second term is
    $\min_Q \|R_a - Q R_b\|_F^2$ over the orthogonal $Q$, and the singular vectors of
    $R_a R_b^\top = U S V^\top$ give the best one, $Q = U V^\top$. A sum of squares is
    never negative, does not cancel for sets that are nearly equal, and takes singular
    covariances as they are.

    The estimate is too large for few rows: compare distances at equal numbers of rows
    only, and beside the distance between two sets of real data.

    Args:
        a: Features `[N, D]`, N >= 2, finite; computed with in float64.
        b: Features `[M, D]`, M >= 2, finite.

    Returns:
        The distance, which is a squared one, >= 0.

    Raises:
        ValueError: If the sets are not matrices of one width with two rows each.
        InputError: If a feature is not finite.

    Examples:
        >>> points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> round(frechet_distance(points, points + [3.0, 4.0]), 6)
        25.0

    References:
        Dowson and Landau, The Frechet distance between multivariate normal
        distributions, 1982. Heusel et al., GANs trained by a two time-scale update rule
        converge to a local Nash equilibrium, 2017, https://arxiv.org/abs/1706.08500
    """
    for name, rows in (("a", a), ("b", b)):
        if rows.ndim != 2 or len(rows) < 2 or not rows.shape[1]:
            raise ValueError(
                f"{name} must be a matrix [rows, features] of at least two rows, "
                f"got the shape {rows.shape}: a covariance needs two."
            )
        if not np.isfinite(rows).all():
            bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise InputError(
                f"the features must be finite, those of row {bad} of {name} are not: "
                "the model that made the row, or its features, has diverged; train it "
                "with a lower learning rate."
            )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a and b must have the same features, got {a.shape[1]} and "
            f"{b.shape[1]} of them: take both from one classifier."
        )
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    left, _, right = np.linalg.svd(root_a @ root_b.T)
    apart = root_a - left @ right @ root_b
    return float(((mean_a - mean_b) ** 2).sum() + (apart**2).sum())


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean `[D]` and a square `R` with `R.T @ R` the covariance."""
    rows = rows.astype(np.float64)
    mean, width = rows.mean(axis=0), rows.shape[1]
    root = np.linalg.qr((rows - mean) / np.sqrt(len(rows) - 1), mode="r")
    return mean, np.pad(root, ((0, width - len(root)), (0, 0)))
