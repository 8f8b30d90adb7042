"""From scores to labels and probabilities."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from zlpr_jax.losses import zlpr_loss, zlpr_predict, zlpr_probabilities


def test_strictly_above_the_threshold():
    logits = jnp.array([-1.0, 0.0, 1e-30, 2.0, np.inf, -np.inf, np.nan])
    expected = [False, False, True, True, True, False, False]
    np.testing.assert_array_equal(zlpr_predict(logits), expected)
    assert zlpr_predict(logits).dtype == jnp.bool_


def test_thresholds_per_row_and_per_class(rng):
    logits = rng.normal(size=(4, 5)).astype(np.float32)
    per_row = rng.normal(size=(4, 1)).astype(np.float32)
    per_class = rng.normal(size=(1, 5)).astype(np.float32)
    for threshold in (per_row, per_class, per_row + per_class):
        np.testing.assert_array_equal(
            zlpr_predict(jnp.array(logits), jnp.array(threshold)), logits > threshold
        )
    for threshold in (1, 1.0, jnp.array(1.0), jnp.array(1.0, jnp.bfloat16)):
        np.testing.assert_array_equal(
            zlpr_predict(jnp.array(logits), threshold), logits > 1
        )


def test_the_comparison_is_not_made_in_half_precision():
    # 0.1 rounds to 0.10009765625 in bfloat16, and would then not exceed 0.1.
    logits = jnp.array([0.1], jnp.bfloat16)
    assert zlpr_predict(logits, 0.1)[0]
    assert zlpr_predict(logits, jnp.array(0.1))[0]


def test_prediction_is_what_the_loss_trains(rng):
    labels = jnp.array(rng.random((6, 9)) < 0.4)
    threshold = jnp.array(rng.normal(size=6), jnp.float32)

    def total(s):
        return jnp.sum(zlpr_loss(s, labels, threshold=threshold))

    logits = jax.lax.fori_loop(
        0, 300, lambda _, s: s - jax.grad(total)(s), jnp.zeros((6, 9))
    )
    chex.assert_trees_all_equal(zlpr_predict(logits, threshold[:, None]), labels)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_probabilities(rng, dtype):
    logits = jnp.array(10 * rng.normal(size=(3, 4)), dtype)
    exact = np.asarray(logits, np.float64)
    for scale in (2.0, 1, jnp.array(0.5)):
        probabilities = zlpr_probabilities(logits, scale)
        assert probabilities.dtype == jnp.float32
        np.testing.assert_allclose(
            probabilities, expit(float(scale) * exact), rtol=1e-5, atol=1e-30
        )
    chex.assert_trees_all_equal(
        zlpr_probabilities(logits), zlpr_probabilities(logits, 2)
    )
    ends = zlpr_probabilities(jnp.array([-np.inf, np.inf], dtype))
    np.testing.assert_array_equal(ends, [0.0, 1.0])


def test_temperature_has_a_gradient():
    gradient = jax.grad(lambda a: jnp.sum(zlpr_probabilities(jnp.ones(3), a)))(
        jnp.array(2.0)
    )
    np.testing.assert_allclose(gradient, 3 * expit(2.0) * expit(-2.0), rtol=1e-5)
