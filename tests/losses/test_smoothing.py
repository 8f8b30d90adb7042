"""Label smoothing: the soft labels, and the floor that they put under the loss."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.optimize import minimize

from zlpr_jax.losses import smooth_multi_hot, zlpr_entropy, zlpr_loss

ENTROPY = jax.jit(zlpr_entropy, static_argnames="axis")
SMOOTH = jax.jit(smooth_multi_hot, static_argnums=(1, 2))
LOSS = jax.jit(zlpr_loss)


def oracle(labels):
    t = np.float64(labels)
    return 2 * np.log1p(np.sqrt(t * (1 - t)).sum(axis=-1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_oracle(rng, dtype):
    labels = rng.random((5, 40))
    labels[0], labels[1], labels[2, :5] = 0, 1, 1
    labels = jnp.array(labels, dtype)
    value = ENTROPY(labels)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, oracle(labels), rtol=1e-6)
    assert value[0] == value[1] == 0


def test_it_is_the_minimum_of_the_loss(rng):
    labels = rng.uniform(0.02, 0.98, 6)
    with jax.enable_x64(True):
        t = jnp.array(labels)
        loss = jax.jit(jax.value_and_grad(lambda s: zlpr_loss(s, t)))
        found = minimize(
            lambda s: [np.float64(x) for x in loss(jnp.array(s))],
            np.zeros(6),
            jac=True,
            options={"gtol": 1e-9},
        )
        np.testing.assert_allclose(found.fun, ENTROPY(t), rtol=1e-12)
    np.testing.assert_allclose(found.x, np.log(labels / (1 - labels)) / 2, atol=1e-6)


def test_the_floor_of_smoothing_both_sides():
    sizes, floors = (10, 100, 1000, 10_000), (2.77, 6.87, 11.4, 16.0)
    # Rows of different lengths, as one array.
    where = jnp.array(np.arange(10_000) < np.array(sizes)[:, None])
    labels = jnp.array(np.tile(np.arange(10_000) < 3, (4, 1)))
    both = ENTROPY(SMOOTH(labels, 0.1, 0.1), where=where)
    assert [float(f"{value:.3g}") for value in both] == list(floors)
    # What the documentation advises instead.
    assert jnp.all(ENTROPY(SMOOTH(labels, 0.1, 0.0), where=where) < 1.3)
    assert jnp.all(ENTROPY(SMOOTH(labels, 0.1, 1e-4), where=where) < 10)


def test_derivatives(rng):
    with jax.enable_x64(True):
        labels = rng.uniform(0.1, 0.9, (2, 3))
        check_grads(ENTROPY, (labels,), order=2, rtol=1e-3)


def test_hard_entries_have_a_zero_gradient():
    labels = jnp.array([0.0, 0.3, 1.0, 1e-45, 1 - 2.0**-24])
    gradient = jax.jit(jax.grad(zlpr_entropy))(labels)
    chex.assert_tree_all_finite(gradient)
    np.testing.assert_array_equal(gradient[jnp.array([0, 2, 3])], 0)
    assert gradient[1] > 0 > gradient[4]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outside_of_the_unit_interval(dtype):
    eps = float(jnp.finfo(dtype).eps)
    for slack, expected in ((eps, 2 * np.log(1.5)), (8 * eps, np.nan)):
        labels = jnp.array(np.array([[-slack, 0.5], [1 + slack, 0.5], [0, 0.5]]), dtype)
        value = ENTROPY(labels)
        np.testing.assert_allclose(value, [expected, expected, 2 * np.log(1.5)])
        # As the loss has it.
        loss = LOSS(jnp.zeros((3, 2)), labels)
        np.testing.assert_array_equal(jnp.isnan(value), jnp.isnan(loss))
        chex.assert_tree_all_finite(ENTROPY(labels, where=labels == 0.5))


def test_where_decides(rng):
    row = lambda t, where: zlpr_entropy(t, where=where)
    labels = rng.random((4, 6)).astype(np.float32)
    where = rng.random((4, 6)) < 0.6
    where[1] = False
    dirty = jnp.array(np.where(where, labels, np.float32(np.nan)))
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(row)))(
        dirty, jnp.array(where)
    )
    np.testing.assert_allclose(value, oracle(np.where(where, labels, 0)), rtol=1e-6)
    assert jnp.all(jnp.isfinite(gradient))
    assert np.all(np.asarray(gradient)[~where] == 0)
    assert value[1] == 0


def test_axes(rng):
    labels = jnp.array(rng.random((2, 3, 4)), jnp.float32)
    np.testing.assert_allclose(
        ENTROPY(labels, axis=(0, -1)),
        oracle(np.moveaxis(np.asarray(labels), 1, 0).reshape(3, 8)),
        rtol=1e-6,
    )


@pytest.mark.parametrize("dtype", ["bool", "int32", "uint8"])
def test_smooth_multi_hot(dtype):
    labels = jnp.array([[1, 0], [0, 1]], dtype)
    for rates, expected in (
        ((0.25, 0.125), [[0.75, 0.125], [0.125, 0.75]]),
        ((0.25,), [[0.75, 0], [0, 0.75]]),
        ((0, 0), [[1, 0], [0, 1]]),
    ):
        soft = SMOOTH(labels, *rates)
        assert soft.dtype == jnp.float32
        np.testing.assert_array_equal(soft, np.float32(expected))


def test_another_integer_is_loud():
    soft = SMOOTH(jnp.array([-1, 0, 1, 2]), 0.1)
    np.testing.assert_array_equal(jnp.isnan(soft), [True, False, False, True])
    assert jnp.isnan(LOSS(jnp.zeros(4), soft))


def test_no_smoothing_is_the_hard_loss(rng):
    logits = jnp.array(rng.normal(size=(3, 8)), jnp.float32)
    labels = jnp.array(rng.random((3, 8)) < 0.4)
    np.testing.assert_allclose(
        LOSS(logits, SMOOTH(labels, 0)),
        LOSS(logits, labels),
        rtol=1e-6,
    )
