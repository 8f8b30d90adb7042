"""The temperature is the minimum of the log loss."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from zlpr_jax.losses import fit_temperature, zlpr_probabilities


def log_loss(scale, logits, labels):
    x = scale * np.float64(logits)
    return (labels * np.logaddexp(0, -x) + (1 - labels) * np.logaddexp(0, x)).mean()


def slope(scale, logits, labels):
    logits = np.float64(logits)
    return (logits * (expit(scale * logits) - labels)).mean()


@pytest.fixture
def split(rng):
    logits = 3 * rng.normal(size=(200, 7))
    labels = rng.random(logits.shape) < expit(logits / 1.7)
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("planted", [0.2, 1.0, 6.0])
def test_a_planted_temperature(rng, planted):
    logits = 2 * planted * rng.normal(size=(40_000, 5))
    labels = rng.random(logits.shape) < expit(logits / planted)
    assert fit_temperature(logits, labels) == pytest.approx(planted, rel=0.02)
    # Without the noise of sampled labels: the probabilities themselves as labels.
    exact = fit_temperature(logits, expit(logits / planted))
    assert exact == pytest.approx(planted, rel=1e-9)


def test_stationary_and_a_minimum(split):
    logits, labels = split
    scale = 1 / fit_temperature(logits, labels)
    assert abs(slope(scale, logits, labels)) < 1e-12
    other = minimize_scalar(
        log_loss, bounds=(1e-3, 10), args=(logits, labels), method="bounded"
    )
    assert scale == pytest.approx(other.x, rel=1e-4)
    for factor in (0.9, 1.1):
        assert log_loss(scale, logits, labels) < log_loss(
            factor * scale, logits, labels
        )


def test_the_library_computes_these_probabilities(split):
    logits, labels = split
    temperature = fit_temperature(logits, labels)
    p = np.asarray(zlpr_probabilities(jnp.array(logits), 1 / temperature))
    before = np.asarray(zlpr_probabilities(jnp.array(logits)))

    def score(p):
        return -np.where(labels, np.log(p), np.log1p(-p)).mean()

    assert score(p) < score(np.clip(before, 1e-7, 1 - 1e-7))
    assert np.sum(logits * (p - labels)) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e5, 1e30])
def test_it_scales_with_the_scores(split, factor):
    logits, labels = split
    logits = logits.astype(np.float64)
    assert fit_temperature(factor * logits, labels) == pytest.approx(
        factor * fit_temperature(logits, labels), rel=1e-9
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes_and_kinds_of_array(split, dtype):
    logits, labels = split
    rounded = logits.astype(getattr(ml_dtypes, dtype, dtype))
    expected = fit_temperature(rounded.astype(np.float64), labels)
    for scores, truth in (
        (rounded, labels),
        (jnp.asarray(rounded), jnp.asarray(labels)),
        (rounded, labels.astype(np.int32)),
        (rounded.ravel(), labels.ravel().astype(np.float32)),
        (jnp.asarray(rounded), jnp.asarray(labels, jnp.bfloat16)),
    ):
        assert fit_temperature(scores, truth) == pytest.approx(expected, rel=1e-12)


def test_certain_entries_that_are_right_change_nothing(split):
    logits, labels = split
    expected = fit_temperature(logits, labels)
    more = np.array([[np.inf, -np.inf, 0, 0, np.inf, -np.inf, 0]], np.float32)
    truth = np.array([[1, 0, 1, 0, 1, 0, 1]], bool)
    found = fit_temperature(np.vstack([logits, more]), np.vstack([labels, truth]))
    assert found == pytest.approx(expected, rel=1e-12)


def test_nearly_separable_and_nearly_uninformative():
    logits = np.array([5.0, 5.0, -5.0, -1e-6])
    sharp = fit_temperature(logits, np.array([True, True, False, True]))
    assert abs(slope(1 / sharp, logits, np.array([1, 1, 0, 1]))) < 1e-15
    assert 0 < sharp < 1
    logits, labels = np.array([1.0, -1.0, 1e-9]), np.array([0.5, 0.5, 1.0])
    assert fit_temperature(logits, labels) > 1e8


def test_one_temperature_cannot_move_one_half(rng):
    # Shifted scores, as hard labels that exclude one another give: an intercept is
    # missing, and the probability at score 0 stays 1/2.
    logits = rng.normal(size=(20_000, 1))
    labels = rng.random(logits.shape) < expit(2 * logits - 1.5)
    scale = 1 / fit_temperature(logits, labels)
    near = np.abs(logits) < 0.1
    assert labels[near].mean() < 0.25
    assert expit(scale * logits[near]).mean() == pytest.approx(0.5, abs=0.02)


def test_not_under_jit():
    with pytest.raises(TypeError, match=r"fit_temperature runs on the host.*jit"):
        jax.jit(fit_temperature)(jnp.zeros(3), jnp.zeros(3, bool))
