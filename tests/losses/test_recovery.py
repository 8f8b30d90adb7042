"""Gradient descent on the expected loss finds the known population minimisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from zlpr_jax.losses import zlpr_loss, zlpr_predict, zlpr_probabilities


def descend(expected_loss, start, rate, steps):
    gradient = jax.grad(expected_loss)
    return jax.jit(
        lambda s: jax.lax.fori_loop(0, steps, lambda _, s: s - rate * gradient(s), s)
    )(start)


@pytest.mark.parametrize(
    ("classes", "p", "sigmoid", "probability", "tolerance"),
    [
        (1, 0.30, 0.300, 0.155, 6e-4),
        (20, 0.30, 0.382, 0.276, 6e-4),
        (1000, 0.30, 0.395, 0.2996, 6e-4),
        (20, 0.05, 0.074, 0.006, 6e-4),
        (1000, 0.002, 0.0062, 4e-5, 6e-5),
    ],
)
def test_independent_hard_labels(classes, p, sigmoid, probability, tolerance):
    # All classes are alike: the minimiser is constant, a row is its number of labels.
    counts = np.arange(classes + 1)
    weights = binom.pmf(counts, classes, p)
    kept = weights > 1e-7
    weights = jnp.array(weights[kept] / weights[kept].sum(), jnp.float32)
    labels = jnp.array(np.arange(classes) < counts[kept, None])

    def expected_loss(s):
        return jnp.vdot(weights, zlpr_loss(jnp.full(labels.shape, s), labels))

    s = descend(expected_loss, jnp.array(-0.5), 4.0, 500)
    assert abs(expit(float(s)) - sigmoid) < tolerance
    assert abs(float(zlpr_probabilities(s)) - probability) < tolerance


def test_soft_labels_are_recovered(rng):
    labels = jnp.array(rng.uniform(0.1, 0.9, 6), jnp.float32)
    s = descend(lambda s: zlpr_loss(s, labels), jnp.zeros(6), 1.0, 500)
    np.testing.assert_allclose(zlpr_probabilities(s), labels, atol=1e-4)


@pytest.mark.parametrize(
    ("classes", "crossing"), [(2, 0.5), (3, 0.438), (10, 0.348), (100, 0.224)]
)
def test_exclusive_labels_cross_zero_below_one_half(classes, crossing):
    labels = jnp.eye(classes, dtype=bool)

    def minimiser(p):
        weights = jnp.full(classes, (1 - p) / (classes - 1)).at[0].set(p)

        # The others are alike by symmetry: two scores describe the row.
        def expected_loss(pair):
            row = jnp.full(classes, pair[1]).at[0].set(pair[0])
            logits = jnp.broadcast_to(row, (classes, classes))
            return jnp.vdot(weights, zlpr_loss(logits, labels))

        return descend(expected_loss, jnp.array([0.0, -1.0]), 1.0, 3000)

    below, above = minimiser(crossing - 0.005), minimiser(crossing + 0.005)
    assert not zlpr_predict(below)[0]
    assert zlpr_predict(above)[0]
