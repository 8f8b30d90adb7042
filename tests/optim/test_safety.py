"""Gradients that are zero, tiny, huge, infinite or not a number, in every dtype."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.optim.table import SMALL
from zlpr_jax.optim import (
    Factoring,
    adafactor,
    adax,
    adaxw,
    factored_adax,
    power_decay,
)

OPTIMIZERS = {
    "adafactor": lambda: adafactor(factoring=SMALL),
    "adafactor_momentum": lambda: adafactor(1e-2, factoring=SMALL, momentum=0.9),
    "adafactor_dense": lambda: adafactor(1e-2, factoring=None, parameter_scale=False),
    "adax": adax,
    "adaxw": adaxw,
    "factored_adax": lambda: factored_adax(factoring=SMALL),
}
every = pytest.mark.parametrize("name", OPTIMIZERS)

LARGEST = float(jnp.finfo(jnp.float32).max)
HUGE = (1e15, 1e18, 1e19, 1e20, 1e30, 1e38, LARGEST)
SIGN = jnp.where(jnp.arange(32).reshape(8, 4) % 3 == 0, -1.0, 1.0)
# Parameters lie along the gradients, so that no penalty or decay works against these.
PARAMS = {"even": 0.5 * SIGN, "spike": 0.5 * SIGN}


def gradients(size):
    """One array all of whose entries have a size, and one with a single such entry."""
    size = jnp.float32(size)
    return {"even": SIGN * size, "spike": SIGN.at[2, 1].multiply(size)}


@functools.cache
def stepping(name):
    """A new state, and a step compiled once for all tests."""
    tx = OPTIMIZERS[name]()
    update = jax.jit(tx.update)
    return tx.init(PARAMS), lambda grads, state: update(grads, state, PARAMS)


def root_mean_square(array):
    return float(np.sqrt(np.mean(np.square(np.asarray(array, np.float64)))))


@every
def test_gradients_of_any_size(name):
    fresh, update = stepping(name)
    usual, _ = update(gradients(1.0), fresh)
    largest = np.abs(usual["even"]).max()
    for size in (0.0, 1e-45, 1e-38, 1e-25, 1e-12, *HUGE):
        updates, state = update(gradients(size), fresh)
        chex.assert_tree_all_finite((updates, state))
        assert np.abs(updates["even"]).max() <= 1.001 * largest
        if name in ("adafactor", "factored_adax"):
            relative = 1e-2 * root_mean_square(PARAMS["spike"])
            assert root_mean_square(updates["spike"]) <= 1.001 * relative


@every
def test_huge_gradients_are_stepped_along_as_any_others(name):
    fresh, update = stepping(name)
    usual, _ = update(gradients(1.0), fresh)
    for size in HUGE:
        updates, _ = update(gradients(size), fresh)
        # Clipping leaves an array out where the square of its update is infinite.
        expected = (
            0 if name not in ("adax", "adaxw") and size >= 1e38 else usual["even"]
        )
        np.testing.assert_allclose(updates["even"], expected, rtol=1e-3)


@every
@pytest.mark.parametrize("size", [1e20, LARGEST])
def test_steps_after_a_huge_gradient(name, size):
    state, update = stepping(name)
    _, state = update(gradients(size), state)
    sizes = []
    for _ in range(20):
        updates, state = update(gradients(1.0), state)
        chex.assert_tree_all_finite((updates, state))
        sizes.append(np.abs(updates["even"]).min())
    assert min(sizes) > 0
    if name in ("adafactor", "adafactor_dense", "factored_adax"):
        # The memory of the huge square fades.
        assert sizes[-1] > 3 * sizes[0]


@every
def test_huge_gradients_of_changing_sign(name):
    state, update = stepping(name)
    for sign in [1] * 20 + [-1] * 3:
        updates, state = update(gradients(sign * LARGEST), state)
        chex.assert_tree_all_finite((updates, state))
        assert np.abs(updates["even"]).max() <= 0.02


@every
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_seen_where_it_is(name, value):
    state, update = stepping(name)
    _, state = update(gradients(1.0), state)
    grads = gradients(1.0)
    grads["spike"] = grads["spike"].at[2, 1].set(value)
    updates, _ = update(grads, state)
    assert not np.isfinite(updates["spike"][2, 1])
    expected, _ = update(gradients(1.0), state)
    np.testing.assert_array_equal(updates["even"], expected["even"])


EXTREMES = {
    jnp.float16: [0, 6e-8, 1e-4, 300, 65504],
    jnp.bfloat16: [0, 1e-38, 1e-12, 1e20, 3e38],
    jnp.complex64: [0, 1e-25j, 1e-12 + 1e-13j, 1e20 - 1e15j, 3e38 + 3e38j],
    jnp.float64: [0, 1e-300, 1e-160, 1e155, -1e300],
}


@every
@pytest.mark.parametrize("dtype", EXTREMES)
def test_extremes_of_every_dtype(name, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        tx, params = OPTIMIZERS[name](), jnp.full(5, 0.5, dtype)
        grads, state = jnp.asarray(EXTREMES[dtype], dtype), tx.init(params)
        updates, after = tx.update(grads, state, params)
        chex.assert_tree_all_finite((updates, after))
        chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (params, state))
        if dtype == jnp.float16:
            # Its square is an ordinary number in float32.
            assert np.abs(updates[-1]) > 0


@pytest.mark.parametrize("factoring", [None, SMALL])
def test_second_moment_starts_anew_at_the_offset(factoring):
    def build(offset):
        return adafactor(
            1e-2, decay=power_decay(offset=offset), clip=None, factoring=factoring
        )

    plain, late = build(0), build(1000)
    # Never NaN on a fresh state: up to the offset there is no memory.
    fresh = late.init(PARAMS)
    for size in (1.0, 1e-3, 1e3):
        updates, fresh = late.update(gradients(size), fresh, PARAMS)
        np.testing.assert_allclose(np.abs(updates["even"]), 5e-3, rtol=1e-4)

    # A restored state, as gradients a million times as large have left it.
    _, before = late.update(gradients(1e6), late.init(PARAMS), PARAMS)
    restored = optax.tree.set(before, count=jnp.int32(1000))
    fresh = plain.init(PARAMS)
    for size in (1.0, 2.0):
        got, restored = late.update(gradients(size), restored, PARAMS)
        expected, fresh = plain.update(gradients(size), fresh, PARAMS)
        chex.assert_trees_all_close(got, expected, rtol=1e-5)


def test_factored_state_of_an_empty_array_is_finite():
    tx = adafactor(factoring=Factoring(axes=lambda path, shape: ("row", "col")))
    params = jnp.zeros((0, 4))
    chex.assert_tree_all_finite(tx.update(params, tx.init(params), params))
