"""The two divergences, against their equations in float64 and against each other."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import expit, logsumexp

from zlpr_jax.losses import (
    zlpr_divergence,
    zlpr_entropy,
    zlpr_loss,
    zlpr_symmetric_kl,
)

BOTH = pytest.mark.parametrize(
    "divergence", [zlpr_divergence, zlpr_symmetric_kl], ids=["zlpr", "kl"]
)
# Around, and far beyond, the size of a difference at which the form changes.
SIZES = [1e-3, 0.3, 3.0, 12.0, 18.0, 60.0, 1e4]


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def closed_form(s, u):
    """L(s; sigma(2u)) - H(sigma(2u)): two large numbers, so good to 1e-14 or so."""
    s, u = np.float64(s), np.float64(u)
    zero = np.zeros((*s.shape[:-1], 1))

    def term(exponents):
        return logsumexp(np.concatenate([zero, exponents], axis=-1), axis=-1)

    t, rest = log_sigmoid(2 * u), log_sigmoid(-2 * u)
    return term(t - s) + term(rest + s) - 2 * term((t + rest) / 2)


def by_pairs(s, u):
    """log(1 + sum over pairs p_i p_j 4 sinh^2((d_i - d_j) / 2)): nothing cancels."""
    d = np.append(np.float64(s) - np.float64(u), 0)
    p = np.append(0.5 / np.cosh(np.float64(u)), 1)
    p /= p.sum()
    gaps = 2 * np.sinh((d[:, None] - d[None, :]) / 2)
    return np.log1p(0.5 * p @ gaps**2 @ p)


def summed_kl(s, t):
    """KL both ways of every class and its complement."""
    s, t = np.float64(s), np.float64(t)
    pairs = ((s, t), (-s, -t), (t, s), (-t, -s))
    return sum(expit(x) * (log_sigmoid(x) - log_sigmoid(y)) for x, y in pairs).sum(-1)


ORACLES = {zlpr_divergence: closed_form, zlpr_symmetric_kl: summed_kl}


def two_rows(rng, size, shape=(4, 30)):
    u = 4 * rng.normal(size=shape).astype(np.float32)
    return u + size * rng.normal(size=shape).astype(np.float32), u


@partial(jax.jit, static_argnums=(0, 4))
def compiled(divergence, s, u, where, axis):
    value, vjp = jax.vjp(lambda s, u: divergence(s, u, axis, where), s, u)
    return value, vjp(jnp.ones_like(value))


def run(divergence, s, u, where=None, axis=-1):
    """One value a row, and the gradients of their sum.

    Nearly all tests have rows of one shape, which compiles once.
    """
    where = np.ones(s.shape, bool) if where is None else where
    s, u, where = jnp.asarray(s), jnp.asarray(u), jnp.asarray(where)
    return compiled(divergence, s, u, where, axis)


def values(divergence, s, u, where=None):
    return run(divergence, s, u, where)[0]


def padded(rows):
    """Short rows in the common shape, with NaN where they end, and their `where`."""
    rows = np.asarray(rows, np.float32)
    full = np.full((4, 30), np.nan, np.float32)
    full[: len(rows), : rows.shape[1]] = rows
    return full, ~np.isnan(full)


@BOTH
@pytest.mark.parametrize("size", SIZES)
def test_oracle(rng, divergence, size):
    s, u = two_rows(rng, size)
    value = values(divergence, s, u)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, ORACLES[divergence](s, u), rtol=1e-5, atol=1e-13)


def test_the_loss_less_its_minimum(rng):
    s, u = (x / 4 for x in two_rows(rng, 3.0))  # 1 - t is rounded away for larger u

    @jax.jit
    def above_minimum(s, u):
        t = jax.nn.sigmoid(2 * u)
        return zlpr_loss(s, t) - zlpr_entropy(t)

    np.testing.assert_allclose(
        values(zlpr_divergence, s, u),
        above_minimum(jnp.array(s), jnp.array(u)),
        atol=2e-5,
    )


@pytest.mark.parametrize("size", [1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("kind", ["random", "shift", "one class"])
def test_nothing_cancels(rng, size, kind):
    _, u = two_rows(rng, 0)
    change = {
        "random": rng.normal(size=u.shape),
        "shift": np.ones(u.shape),
        "one class": np.arange(30) == np.zeros((4, 1)),
    }[kind]
    s = (u + size * change).astype(np.float32)
    expected = [by_pairs(*rows) for rows in zip(s, u, strict=True)]
    np.testing.assert_allclose(values(zlpr_divergence, s, u), expected, rtol=2e-5)


def test_a_hundred_thousand_classes_almost_agree(rng):
    u = rng.normal(size=(2, 100_000))
    change = 1e-4 * rng.normal(size=u.shape)
    # The other row in steps of a power of two: the difference is exact in float32.
    u[1], change[1] = np.round(u[1] * 2**8) / 2**8, 2**-13
    u, s = u.astype(np.float32), u.astype(np.float32) + change.astype(np.float32)
    # For one difference d, of total weight p, D = log(1 + p (1 - p) 4 sinh^2(d / 2)).
    p = 1 / (1 + (0.5 / np.cosh(np.float64(u[1]))).sum())
    constant = np.log1p(p * (1 - p) * 4 * np.sinh(2.0**-14) ** 2)
    np.testing.assert_allclose(
        jax.jit(zlpr_divergence)(jnp.array(s), jnp.array(u)),
        [closed_form(s, u)[0], constant],
        rtol=1e-4,
    )
    one, other = s.astype(np.float64), u.astype(np.float64)
    np.testing.assert_allclose(
        jax.jit(zlpr_symmetric_kl)(jnp.array(s), jnp.array(u)),
        ((expit(one) - expit(other)) * (one - other)).sum(axis=1),
        rtol=1e-4,
    )


@BOTH
def test_zero_and_stationary_where_the_rows_agree(rng, divergence):
    _, u = two_rows(rng, 0)
    value, gradients = run(divergence, u, u)
    chex.assert_trees_all_equal(value, jnp.zeros(4))
    chex.assert_trees_all_equal(gradients, (jnp.zeros(u.shape),) * 2)


@BOTH
@pytest.mark.parametrize("size", SIZES)
def test_never_negative(rng, divergence, size):
    for _ in range(20):
        s, u = two_rows(rng, size)
        s = np.where(rng.random(s.shape) < 0.5, s, u)
        assert jnp.all(values(divergence, s, u) >= 0)


def test_the_kl_is_symmetric(rng):
    s, t = two_rows(rng, 5.0)
    chex.assert_trees_all_equal(
        values(zlpr_symmetric_kl, s, t), values(zlpr_symmetric_kl, t, s)
    )


@BOTH
def test_derivatives_of_both_orders_and_modes(rng, divergence):
    with jax.enable_x64(True):
        u = rng.normal(size=(3, 2))
        u[0, 0] = 0.0
        # Equal rows, rows that differ little, and rows that differ much.
        s = u + np.array([[0.0], [0.5], [30.0]]) * rng.normal(size=(3, 2))

        @jax.jit
        def total(s, u):
            return jnp.sum(divergence(s, u))

        gradient = jax.jit(jax.grad(total, (0, 1)))
        check_grads(total, (s, u), order=2, modes=["rev"], rtol=2e-3, atol=2e-3)
        check_grads(total, (s, u), order=1, modes=["fwd"], rtol=1e-5, atol=1e-5)
        check_grads(gradient, (s, u), order=1, modes=["fwd"], rtol=1e-5, atol=1e-5)


@BOTH
@pytest.mark.parametrize("size", [1e-4, 1.0, 30.0])
def test_gradients_are_as_accurate_as_values(rng, divergence, size):
    s, u = two_rows(rng, size)
    _, single = run(divergence, s, u)
    with jax.enable_x64(True):
        wide = jnp.array(s, jnp.float64), jnp.array(u, jnp.float64)
        double = jax.tree.map(np.asarray, run(divergence, *wide)[1])
    for one, other in zip(single, double, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * np.max(other))


@BOTH
def test_extreme_scores_have_finite_gradients(divergence):
    big = np.float32([1e4, -1e4, 0.0, 30.0, -100.0])
    for one in big:
        for start in (0, 2):
            (s, where), (u, _) = (
                padded(column.reshape(-1, 1)[start : start + 4])
                for column in (np.full(5, one), big)
            )
            value, gradients = run(divergence, s, u, where)
            chex.assert_tree_all_finite((value, gradients))
            oracle = ORACLES[divergence](s[:3, :1], u[:3, :1])
            np.testing.assert_allclose(value[:3], oracle, rtol=1e-5, atol=1e-6)


@BOTH
def test_infinite_scores(divergence):
    inf = np.inf
    s, where = padded([[1.0, -inf, inf, -2.0], [1.0, 0.0, 0.0, -2.0]])
    u, _ = padded([[0.5, -inf, inf, -1.0], [0.5, 0.0, 0.0, -1.0]])
    where[1, 1:3] = False
    value, gradients = run(divergence, s, u, where)
    assert value[0] == value[1] > 0
    chex.assert_tree_all_finite(gradients)
    s, where = padded([[-inf, 0.0], [inf, 0.0], [inf, 0.0], [0.0, 0.0]])
    u, _ = padded([[1.0, 0.0], [1.0, 0.0], [-inf, 0.0], [0.0, 0.0]])
    s[3, 0] = np.nan
    np.testing.assert_array_equal(
        values(divergence, s, u, where), [inf, inf, inf, np.nan]
    )


def test_a_certain_teacher_is_a_hard_label(rng):
    s, where = padded(3 * rng.normal(size=(2, 6)))
    labels = np.array([True, False, False, True, False, False] * 5)
    u = np.where(labels, 1, -1) * np.array([[np.inf], [1e4], [1], [1]])
    value, gradients = run(zlpr_divergence, s, u.astype(np.float32), where)
    labels = jnp.broadcast_to(labels, s.shape)
    loss, gradient = jax.jit(
        jax.vmap(jax.value_and_grad(lambda s, t, w: zlpr_loss(s, t, where=w)))
    )(jnp.array(s), labels, jnp.array(where))
    np.testing.assert_allclose(value, loss, rtol=1e-5)
    np.testing.assert_allclose(gradients[0], gradient, rtol=1e-4, atol=1e-7)
    assert jnp.all(jnp.abs(gradients[1]) < 1e-6)


@BOTH
def test_where_decides(rng, divergence):
    s, u = two_rows(rng, 2.0)
    where = rng.random(s.shape) < 0.6
    where[1] = False
    dirty = np.where(where, s, rng.choice([np.nan, np.inf, -np.inf], s.shape))
    dirty, other = dirty.astype(np.float32), np.where(where, u, np.float32(np.nan))
    value, gradients = run(divergence, dirty, other, where)
    expected = [
        ORACLES[divergence](*(x[row : row + 1, where[row]] for x in (s, u)))[0]
        for row in range(len(s))
    ]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert value[1] == 0
    for gradient in gradients:
        assert jnp.all(jnp.isfinite(gradient))
        assert np.all(np.asarray(gradient)[~where] == 0)


@BOTH
def test_axes(rng, divergence):
    s, u = two_rows(rng, 1.0)
    value, gradients = run(divergence, s, u)
    cubes = s.reshape(4, 5, 6), u.reshape(4, 5, 6)
    cube_value, cube_gradients = run(divergence, *cubes, axis=(1, -1))
    np.testing.assert_allclose(cube_value, value, rtol=1e-5)
    for one, other in zip(cube_gradients, gradients, strict=True):
        np.testing.assert_allclose(one.reshape(4, 30), other, rtol=1e-4, atol=1e-6)
    empty, _ = run(divergence, s[:, :0], u[:, :0])
    chex.assert_trees_all_equal(empty, jnp.zeros(4))


@BOTH
def test_dtypes(rng, divergence):
    s, u = two_rows(rng, 1.0)
    s, u = jnp.array(s, jnp.bfloat16), jnp.array(u, jnp.float16)
    value, gradients = run(divergence, s, u)
    assert value.dtype == jnp.float32
    expected = values(divergence, s.astype(jnp.float32), u.astype(jnp.float32))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert [gradient.dtype for gradient in gradients] == [s.dtype, u.dtype]


@BOTH
def test_the_wider_dtype_counts(divergence):
    with jax.enable_x64(True):
        wide = jnp.zeros((2, 3), jnp.float64)
        for narrow in (jnp.zeros((2, 3), jnp.float32), jnp.zeros((2, 3), jnp.float16)):
            for pair in ((wide, narrow), (narrow, wide)):
                value, gradients = jax.eval_shape(
                    lambda s, u: jax.value_and_grad(
                        lambda *x: jnp.sum(divergence(*x)), (0, 1)
                    )(s, u),
                    *pair,
                )
                assert value.dtype == jnp.float64
                assert [g.dtype for g in gradients] == [x.dtype for x in pair]


@BOTH
def test_vmap(rng, divergence):
    s, u = (jnp.array(x) for x in two_rows(rng, 3.0))
    mapped = jax.jit(jax.vmap(divergence))(s, u)
    np.testing.assert_allclose(mapped, values(divergence, s, u), rtol=1e-5)
