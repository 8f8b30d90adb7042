"""The Frechet distance, against other ways to compute it."""

import numpy as np
import pytest
import scipy.linalg

from zlpr_jax._errors import InputError
from zlpr_jax.tasks.frechet import frechet_distance


def by_matrix_root(a, b):
    """The definition, with the square root of a general matrix."""
    covariance_a, covariance_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(covariance_a @ covariance_b)
    apart = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return apart + np.trace(covariance_a + covariance_b - 2 * root.real)


def rows_with(rng, rows, covariance):
    """Rows whose sample covariance is exactly `covariance`."""
    noise = rng.normal(size=(rows, len(covariance)))
    noise -= noise.mean(axis=0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(noise.T)), noise.T)
    return (np.linalg.cholesky(covariance) @ white).T


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_matrix_square_root(seed):
    rng = np.random.default_rng(seed)
    width = int(rng.integers(2, 20))
    a, b = (
        rng.normal(size=(rows, width)) @ rng.normal(size=(width, width))
        + rng.normal(size=width)
        for rows in (40, 70)
    )
    expected = by_matrix_root(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_closed_form_of_diagonal_gaussians():
    rng = np.random.default_rng(0)
    sd_a, sd_b = rng.uniform(0.1, 3, (2, 6))
    a = rows_with(rng, 30, np.diag(sd_a**2))
    b = rows_with(rng, 50, np.diag(sd_b**2)) + 2
    expected = 6 * 2.0**2 + ((sd_a - sd_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_closed_form_in_one_dimension():
    a, b = np.array([[0.0], [2.0]]), np.array([[5.0], [7.0], [9.0]])
    # standard deviations with N - 1: sqrt(2) and 2
    expected = 6.0**2 + (2 - np.sqrt(2)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_invariant_under_rotation_and_quadratic_in_scale():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(30, 5)), rng.gamma(2, size=(20, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    distance = frechet_distance(a, b)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance, rel=1e-12)


@pytest.mark.parametrize("rows", [2, 5, 40])
def test_the_same_rows_have_no_distance(rows):
    """Also with fewer rows than features, and a feature that is always 0."""
    features = np.random.default_rng(rows).gamma(1, size=(rows, 12)) * 100
    features[:, 3] = 0
    shuffled = features[::-1]
    assert 0 <= frechet_distance(features, shuffled) < 1e-9


@pytest.mark.parametrize("rows", [2, 7, 100])
def test_singular_covariances(rows):
    """Features of rank 3 in 10 dimensions: the distance is the one in those 3."""
    rng = np.random.default_rng(rows)
    a, b = rng.normal(size=(rows, 3)), 2 * rng.normal(size=(50, 3)) + 1
    basis = np.linalg.qr(rng.normal(size=(10, 3)))[0].T
    inside = frechet_distance(a, b)
    assert frechet_distance(a @ basis, b @ basis) == pytest.approx(inside, rel=1e-10)
    # in planes at right angles nothing overlaps: both variances count in full
    far = np.pad(a, ((0, 0), (0, 3))), np.pad(b, ((0, 0), (3, 0)))
    expected = sum(c.var(axis=0, ddof=1).sum() for c in (a, b))
    expected += sum((c.mean(axis=0) ** 2).sum() for c in (a, b))
    assert frechet_distance(*far) == pytest.approx(expected, rel=1e-10)


def test_a_tiny_distance_is_not_lost():
    """As a difference of traces, 1e-12 in 1e6 would be below the last bit."""
    features = np.random.default_rng(0).normal(size=(50, 4)) * 1000
    scaled = (features - features.mean(axis=0)) * (1 + 1e-9)
    expected = 1e-18 * features.var(axis=0, ddof=1).sum()
    centred = features - features.mean(axis=0)
    assert frechet_distance(centred, scaled) == pytest.approx(expected, rel=1e-3)


def test_computes_in_float64():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(40, 3)).astype(np.float32) + 1000 for _ in range(2))
    expected = by_matrix_root(a.astype(np.float64), b.astype(np.float64))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (4,), (4, 0), (2, 3, 1)])
def test_needs_two_rows(shape):
    good = np.eye(3)
    with pytest.raises(ValueError, match=r"b must be a matrix .* at least two rows"):
        frechet_distance(good, np.zeros(shape))


def test_needs_one_width():
    with pytest.raises(ValueError, match="got 3 and 4 of them"):
        frechet_distance(np.eye(3), np.eye(4))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_needs_finite_features(value):
    bad = np.eye(3)
    bad[2, 1] = value
    with pytest.raises(InputError, match="row 2 of a"):
        frechet_distance(bad, np.eye(3))
