"""Layer normalisation, plain and conditional, against NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.nn import oracles
from zlpr_jax.nn import ConditionalLayerNorm, LayerNorm


def tokens(mean=0.0):
    return np.random.default_rng(0).normal(size=(2, 3, 8)) + mean


@pytest.mark.parametrize("mean", [0, 1e3, -1e5])
def test_far_from_zero(mean):
    """`E[x^2] - E[x]^2` in float32 has no digit left at 1e5."""
    x = jnp.float32(tokens(mean))
    norm = oracles.noisy(lambda: LayerNorm(8, epsilon=1e-5, rngs=oracles.rngs()))
    expected = oracles.layer_norm(np.float64(x), oracles.weights(norm), 1e-5)
    tolerance = 1e-5 + 1e-6 * abs(mean)  # what the mean is rounded to
    np.testing.assert_allclose(norm(x), expected, atol=tolerance)


def test_statistics_of_bfloat16_are_float32():
    x = jnp.asarray(tokens(20.0), jnp.bfloat16)
    norm = oracles.noisy(lambda: LayerNorm(8, rngs=oracles.rngs()), dtype=jnp.bfloat16)
    got = norm(x)
    chex.assert_type(got, jnp.bfloat16)
    expected = oracles.layer_norm(np.float64(x), oracles.weights(norm), 1e-5)
    np.testing.assert_allclose(np.float64(got), expected, rtol=0.005, atol=1e-6)


def test_float64():
    with jax.enable_x64(True):
        make = lambda: LayerNorm(8, epsilon=0.1, rngs=oracles.rngs())
        norm = oracles.noisy(make, dtype=np.float64)
        got = norm(jnp.asarray(tokens()))
        assert got.dtype == jnp.float64
    expected = oracles.layer_norm(tokens(), oracles.weights(norm), 0.1)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_conditional_norm_agrees_with_numpy():
    with jax.enable_x64(True):
        norm = oracles.noisy(
            lambda: ConditionalLayerNorm(8, 5, epsilon=0.1, rngs=oracles.rngs()),
            dtype=np.float64,
        )
        x, c = tokens(), np.random.default_rng(1).normal(size=(2, 5))
        got = norm(jnp.asarray(x), jnp.asarray(c))
        assert got.dtype == jnp.float64
    w = oracles.weights(norm)
    gamma = oracles.linear(c, w["scale"])[:, None]
    beta = oracles.linear(c, w["shift"])[:, None]
    expected = gamma * oracles.normalised(x, 0.1) + beta
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_conditional_norm_begins_as_the_plain_one():
    norm = ConditionalLayerNorm(8, 5, rngs=oracles.rngs())
    x, c = jnp.float32(tokens()), jnp.float32(np.ones((2, 5)))
    np.testing.assert_array_equal(norm(x, c), norm(x, -3 * c))
    np.testing.assert_allclose(
        norm(x, c), oracles.normalised(np.float64(x), 0), atol=1e-5
    )


def test_equal_values_are_normalised_to_zero():
    """With a gradient, for the smallest epsilon."""
    norm = ConditionalLayerNorm(8, 5, rngs=oracles.rngs())
    x, c = jnp.full((1, 2, 8), 7.0), jnp.ones((1, 5))
    np.testing.assert_array_equal(norm(x, c), 0)
    chex.assert_tree_all_finite(jax.grad(lambda x: norm(x, c).sum())(x))


def test_conditional_norm_keeps_bfloat16():
    make = lambda: ConditionalLayerNorm(8, 5, rngs=oracles.rngs())
    norm = oracles.noisy(make, dtype=jnp.bfloat16)
    got = norm(jnp.asarray(tokens(), jnp.bfloat16), jnp.ones((2, 5), jnp.bfloat16))
    chex.assert_type(got, jnp.bfloat16)
