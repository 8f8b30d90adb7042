"""Extreme values, excluded entries, wrong labels, low precision, many classes."""

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from zlpr_jax.losses import zlpr_loss, zlpr_loss_with_integer_labels

KINDS = ["bool", "int32", "float32"]


@jax.jit
def compiled(logits, labels, options):
    loss, pull = jax.vjp(lambda s: zlpr_loss(s, labels, **options), logits)
    return loss, pull(jnp.ones_like(loss))[0]


def loss_and_gradient(logits, labels, kind="bool", **options):
    logits = jnp.array(logits, jnp.float32)
    loss, gradient = compiled(logits, jnp.array(labels, kind), options)
    return np.asarray(loss), np.asarray(gradient)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("logits", "labels", "loss", "gradient"),
    [
        # Large and right, large and wrong, on each side.
        ([1e4, -1e4], [1, 0], 0.0, [0, 0]),
        ([-1e4, 1e4], [1, 0], 2e4, [-1, 1]),
        ([1e4, 1e4], [0, 0], 1e4 + np.log(2), [0.5, 0.5]),
        ([-1e4, -1e4], [1, 1], 1e4 + np.log(2), [-0.5, -0.5]),
        ([-1e4, 1e4], [0, 1], 0.0, [0, 0]),
        # The largest numbers of float32: no overflow on the way.
        ([3e38, -3e38], [0, 0], 3e38, [1, 0]),
        ([3e38, -3e38], [1, 1], 3e38, [0, -1]),
        # All positive and no positive.
        ([0.0, 0.0], [1, 1], np.log(3), [-1 / 3, -1 / 3]),
        ([0.0, 0.0], [0, 0], np.log(3), [1 / 3, 1 / 3]),
        # Infinite and right: left out.
        ([-np.inf, 0.0], [0, 0], np.log(2), [0, 0.5]),
        ([np.inf, 0.0], [1, 1], np.log(2), [0, -0.5]),
        ([-np.inf, -np.inf], [0, 0], 0.0, [0, 0]),
        ([np.inf, np.inf], [1, 1], 0.0, [0, 0]),
        ([np.inf, -np.inf], [1, 0], 0.0, [0, 0]),
    ],
)
def test_values_and_gradients(kind, logits, labels, loss, gradient):
    actual = loss_and_gradient(logits, labels, kind)
    np.testing.assert_allclose(actual[0], np.float32(loss), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(actual[1], gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ([-np.inf, 1.0, 2.0], [1, 0, 1]),
        ([np.inf, 1.0, 2.0], [0, 0, 1]),
        ([-np.inf, -np.inf, 2.0], [1, 1, 0]),
    ],
)
def test_infinite_and_wrong_is_an_infinite_loss(kind, logits, labels):
    loss, gradient = loss_and_gradient(logits, labels, kind)
    assert loss == np.inf
    # NaN stays where the wrong label is.
    np.testing.assert_array_equal(np.isnan(gradient), np.isinf(logits))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("label", [0, 1])
def test_excluded_entries_may_hold_anything(kind, junk, label):
    where = jnp.array([[True, False, True], [False, False, False]])
    labels = [[1, label, 0], [label, label, label]]
    actual = loss_and_gradient(
        [[0.5, junk, -1.0], [junk, junk, junk]], labels, kind, where=where
    )
    clean = loss_and_gradient([[0.5, -1.0]], [[1, 0]], kind)
    np.testing.assert_allclose(actual[0][0], clean[0][0], rtol=1e-6)
    np.testing.assert_allclose(actual[1][0, [0, 2]], clean[1][0], rtol=1e-6)
    assert actual[1][0, 1] == 0
    assert actual[0][1] == 0
    assert np.all(actual[1][1] == 0)


def test_excluded_labels_and_thresholds_may_hold_anything():
    where = jnp.array([[True, False], [False, False]])
    labels = jnp.array([[0.3, np.nan], [np.inf, -5.0]])
    threshold = jnp.array([0.0, np.nan])

    def total(s, t, s0):
        return zlpr_loss(s, t, where=where, threshold=s0).sum()

    loss, gradients = jax.value_and_grad(total, (0, 1, 2))(
        jnp.zeros((2, 2)), labels, threshold
    )
    assert np.isfinite(loss)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
        assert np.all(gradient[1] == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_logit_is_not_hidden(kind):
    loss, _ = loss_and_gradient([[np.nan, 0.0], [0.0, 0.0]], [[0, 1], [0, 1]], kind)
    np.testing.assert_array_equal(np.isnan(loss), [True, False])


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [("int32", -1), ("int32", 2), ("uint8", 255)]
    + [("float32", value) for value in (np.nan, -0.1, 1.1, 2.0, -np.inf, np.inf)],
)
def test_a_label_outside_its_range_makes_its_row_nan(kind, wrong):
    labels = np.array([[1, 0, 0], [0, wrong, 1]])
    loss, gradient = loss_and_gradient(np.ones((2, 3)), labels, kind)
    expected = loss_and_gradient(np.ones((1, 3)), [[1, 0, 0]], kind)
    np.testing.assert_array_equal(loss[0], expected[0][0])
    np.testing.assert_array_equal(gradient[0], expected[1][0])
    assert np.isnan(loss[1])
    assert np.isnan(gradient[1]).any()
    where = jnp.array([[True] * 3, [True, False, True]])
    loss, gradient = loss_and_gradient(np.ones((2, 3)), labels, kind, where=where)
    assert np.all(np.isfinite(loss))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_soft_label_off_by_rounding_is_not_wrong(dtype):
    eps = jnp.finfo(dtype).eps
    labels = jnp.array([[1 + eps, -eps, 0.5]], dtype)
    loss = zlpr_loss(jnp.zeros((1, 3)), labels)
    exact = 2 * np.log(1 + 1.5)
    np.testing.assert_allclose(loss, [exact], rtol=float(eps), atol=1e-6)


def test_label_gradient_is_analytic_inside_and_finite_at_the_ends(rng):
    logits = rng.normal(size=8).astype(np.float32)
    inside = rng.uniform(0.01, 0.99, 8).astype(np.float32)
    s, t = logits.astype(np.float64), inside.astype(np.float64)
    expected = np.exp(-s) / (1 + (t * np.exp(-s)).sum())
    expected -= np.exp(s) / (1 + ((1 - t) * np.exp(s)).sum())
    by_labels = jax.jit(jax.grad(zlpr_loss, 1))
    by_logits = jax.jit(jax.grad(zlpr_loss))
    gradient = by_labels(jnp.array(logits), jnp.array(inside))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
    tiny = float(jnp.finfo(jnp.float32).tiny)
    for scale in (1.0, 1e4):
        for ends in ([0.0, 1.0] * 4, [0.0] * 8, [1.0] * 8, [tiny / 4, 0.5] * 4):
            gradient = by_labels(scale * jnp.array(logits), jnp.array(ends))
            assert np.all(np.isfinite(gradient))
            gradient = by_logits(scale * jnp.array(logits), jnp.array(ends))
            assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_with_many_classes(rng, oracle, dtype, soft):
    # Sums kept in half precision are off by 5 % here.
    logits = rng.normal(size=(1, 100_000)).astype(ml_dtypes.finfo(dtype).dtype)
    labels = rng.random(logits.shape) < 1e-3
    loss, pull = jax.vjp(
        lambda s: zlpr_loss(s, jnp.array(labels, "float32" if soft else "bool")),
        jnp.array(logits),
    )
    assert loss.dtype == jnp.float32
    (gradient,) = pull(jnp.ones_like(loss))
    assert gradient.dtype == dtype
    s = logits.astype(np.float64)
    exact = np.log1p(np.exp(s[~labels]).sum()) + np.log1p(np.exp(-s[labels]).sum())
    np.testing.assert_allclose(loss, [exact], rtol=1e-6)
    gradient = np.asarray(gradient, np.float64)
    for share in (gradient[~labels].sum(), -gradient[labels].sum()):
        assert 0.98 < share <= 1 + 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_half_logits_are_cast_before_the_arithmetic(dtype, oracle):
    # exp(20) overflows float16, and 256.5 is not a bfloat16: the shift must be float32.
    logits = jnp.array([[20.0, -20.0, 256.0]], dtype)
    labels = jnp.array([[False, True, False]])
    loss = zlpr_loss(logits, labels, threshold=-0.5)
    exact = oracle(np.asarray(logits, np.float64), np.asarray(labels), None, [-0.5])
    np.testing.assert_allclose(loss, exact, rtol=1e-6)
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize("value", [0.0, 2.3])
def test_long_sums_do_not_drift(value):
    # Float32 added in sequence is 1.4e-4 off for 0.1 and 3e-2 off at 3 million.
    classes = 1_000_000
    logits = jnp.full((1, classes), value)
    logits = logits.at[0, 0].set(value + 2.3)
    for sign, label in ((1.0, False), (-1.0, True)):
        loss, pull = jax.vjp(
            lambda s: zlpr_loss(s, jnp.full(s.shape, label)),
            sign * logits,
        )
        s = np.asarray(logits, np.float64)
        total = 1 + np.exp(s).sum()
        np.testing.assert_allclose(loss, [np.log(total)], rtol=1e-6)
        (gradient,) = pull(jnp.ones_like(loss))
        exact = sign * np.exp(s) / total
        np.testing.assert_allclose(gradient, exact, rtol=1e-5)


def test_soft_labels_at_the_ends_equal_hard_labels_at_any_scale(rng):
    logits = (1e4 * rng.normal(size=(6, 9))).astype(np.float32)
    labels = rng.random(logits.shape) < 0.4
    chex.assert_trees_all_close(
        loss_and_gradient(logits, labels, "float32"),
        loss_and_gradient(logits, labels, "bool"),
        rtol=1e-6,
    )


def test_integer_labels_share_the_extremes():
    logits = jnp.array([[-np.inf, 1.0], [1.0, -np.inf], [1e4, -1e4]])
    labels = jnp.array([[0], [0], [0]])
    loss = zlpr_loss_with_integer_labels(logits, labels)
    expected = [np.inf, np.log1p(np.exp(-1.0)), 0.0]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
