"""The dense loss against its equation, its identities and other implementations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, logit, logsumexp

from zlpr_jax.losses import zlpr_loss


def draw(rng, shape=(7, 11), density=0.3, scale=3.0):
    logits = (scale * rng.normal(size=shape)).astype(np.float32)
    labels = rng.random(shape) < density
    labels[0] = False
    labels[-1] = True
    return logits, labels


def draw_soft(rng, shape=(7, 11)):
    return rng.uniform(0.01, 0.99, shape).astype(np.float32)


def close(actual, expected, rtol=2e-6, atol=2e-6):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=rtol, atol=atol)


def test_hard_labels_match_the_oracle(rng, oracle):
    logits, labels = draw(rng)
    loss = zlpr_loss(jnp.array(logits), jnp.array(labels))
    assert loss.shape == (7,)
    close(loss, oracle(logits, labels))


def test_soft_labels_match_the_oracle(rng, oracle):
    logits, labels = draw(rng)
    soft = np.where(rng.random(labels.shape) < 0.5, draw_soft(rng), labels)
    soft = soft.astype(np.float32)
    close(zlpr_loss(jnp.array(logits), jnp.array(soft)), oracle(logits, soft))


@pytest.mark.parametrize("soft", [False, True])
def test_where_is_the_loss_of_the_remaining_classes(rng, oracle, soft):
    logits, labels = draw(rng)
    labels = draw_soft(rng) if soft else labels
    where = rng.random(labels.shape) < 0.6
    loss = zlpr_loss(jnp.array(logits), jnp.array(labels), where=jnp.array(where))
    close(loss, oracle(logits, labels, where))
    for row in range(3):
        kept = where[row]
        alone = zlpr_loss(jnp.array(logits[row, kept]), jnp.array(labels[row, kept]))
        close(loss[row], alone)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("axis", [0, -2, (-1, -3), [1, 0], (0, 1, 2)])
def test_axis_is_moveaxis(rng, oracle, soft, axis):
    logits, labels = draw(rng, (3, 4, 5))
    labels = draw_soft(rng, (3, 4, 5)) if soft else labels
    where = rng.random(labels.shape) < 0.8
    axes = sorted({a % 3 for a in ([axis] if isinstance(axis, int) else axis)})
    rest = [a for a in range(3) if a not in axes]
    shape = tuple(labels.shape[a] for a in rest)

    def rows(x):
        return np.transpose(x, rest + axes).reshape(int(np.prod(shape)), -1)

    threshold = rng.normal(size=shape).astype(np.float32)
    loss = zlpr_loss(
        jnp.array(logits),
        jnp.array(labels),
        axis,
        jnp.array(where),
        threshold=jnp.array(threshold),
    )
    assert loss.shape == shape
    expected = oracle(rows(logits), rows(labels), rows(where), threshold.ravel())
    close(loss, expected.reshape(shape))


def test_multi_similarity_loss_is_the_same_function(rng):
    logits, labels = draw(rng)
    s = logits.astype(np.float64)
    alpha, beta, base = 1.0, 1.0, 0.0
    expected = np.log1p((labels * np.exp(-alpha * (s - base))).sum(1)) / alpha
    expected += np.log1p((~labels * np.exp(beta * (s - base))).sum(1)) / beta
    close(zlpr_loss(jnp.array(logits), jnp.array(labels)), expected)


def test_published_implementation(rng):
    # The code of kexue.fm 7359, hard labels only, in float64.
    logits, labels = draw(rng)
    y = labels.astype(np.float64)
    s = (1 - 2 * y) * logits
    zeros = np.zeros((len(s), 1))
    negative = logsumexp(np.concatenate([s - y * 1e12, zeros], 1), axis=1)
    positive = logsumexp(np.concatenate([s - (1 - y) * 1e12, zeros], 1), axis=1)
    close(zlpr_loss(jnp.array(logits), jnp.array(labels)), negative + positive)


def test_pairwise_expansion(rng):
    logits, labels = draw(rng)
    loss = zlpr_loss(jnp.array(logits), jnp.array(labels))
    for row, (s, y) in enumerate(zip(logits.astype(np.float64), labels, strict=True)):
        pairs = sum(np.exp(i - j) for i in s[~y] for j in s[y])
        expected = np.log(1 + pairs + np.exp(s[~y]).sum() + np.exp(-s[y]).sum())
        close(loss[row], expected)


def test_one_class_is_binary_cross_entropy_and_more_are_less_than_its_sum(rng):
    logits, labels = draw(rng)
    cross_entropy = optax.sigmoid_binary_cross_entropy(
        jnp.array(logits), jnp.array(labels.astype(np.float32))
    )
    one = zlpr_loss(jnp.array(logits[..., None]), jnp.array(labels[..., None]))
    close(one, cross_entropy)
    loss = zlpr_loss(jnp.array(logits), jnp.array(labels))
    assert jnp.all(loss <= cross_entropy.sum(-1))


def closed_form(s, t):
    """q+, q- of one row, in float64."""
    positive = t * np.exp(-s) / (1 + (t * np.exp(-s)).sum())
    negative = (1 - t) * np.exp(s) / (1 + ((1 - t) * np.exp(s)).sum())
    return positive, negative


@pytest.mark.parametrize("soft", [False, True])
def test_gradient_and_hessian_are_the_closed_forms(rng, soft):
    logits, labels = draw(rng, scale=1.5)
    labels = draw_soft(rng) if soft else labels
    gradient_of = jax.jit(jax.grad(zlpr_loss))
    hessian_of = jax.jit(jax.hessian(zlpr_loss))
    for s, t in zip(logits, labels, strict=True):
        q_pos, q_neg = closed_form(s.astype(np.float64), t.astype(np.float64))
        gradient = gradient_of(jnp.array(s), jnp.array(t))
        close(gradient, q_neg - q_pos)
        assert np.abs(np.asarray(gradient)).sum() < 2
        expected = np.diag(q_pos + q_neg)
        expected -= np.outer(q_pos, q_pos) + np.outer(q_neg, q_neg)
        hessian = np.asarray(hessian_of(jnp.array(s), jnp.array(t)))
        close(hessian, expected)
        assert np.linalg.eigvalsh(hessian.astype(np.float64)).min() > -1e-6


def test_gradient_norm_is_bounded_for_many_classes(rng):
    logits, labels = draw(rng, (2, 5000), scale=10.0)
    gradient = jax.grad(lambda s: zlpr_loss(s, jnp.array(labels)).sum())(
        jnp.array(logits)
    )
    # Below 2 in exact arithmetic; the norm here is 2 up to rounding.
    assert np.abs(np.asarray(gradient, np.float64)).sum(1).max() <= 2 + 1e-5


def test_soft_optimum_and_its_value(rng):
    t = rng.uniform(0.05, 0.95, (5, 9))
    s = (0.5 * logit(t)).astype(np.float32)
    soft = jnp.array(expit(2 * s.astype(np.float64)).astype(np.float32))
    loss, gradient = jax.jit(jax.value_and_grad(lambda s: zlpr_loss(s, soft).sum()))(
        jnp.array(s)
    )
    close(gradient, np.zeros_like(s))
    expected = 2 * np.log1p(np.sqrt(t * (1 - t)).sum(1))
    close(zlpr_loss(jnp.array(s), soft), expected)
    moved = zlpr_loss(jnp.array(s + 0.1 * rng.normal(size=s.shape).astype("f4")), soft)
    assert moved.sum() > loss


def test_label_smoothing_has_a_floor_that_grows_with_the_classes():
    for classes, floor in [(10, 2.77), (100, 6.87), (1000, 11.4)]:
        t = np.where(np.arange(classes) == 0, 0.9, 0.1)
        s = jnp.array((0.5 * logit(t)).astype(np.float32))
        value = float(zlpr_loss(s, jnp.array(t.astype(np.float32))))
        exact = 2 * np.log1p(np.sqrt(t * (1 - t)).sum())
        assert value == pytest.approx(exact, rel=1e-5)
        assert value == pytest.approx(floor, abs=0.05)


@pytest.mark.parametrize("soft", [False, True])
def test_threshold_is_a_shift_and_its_gradient_the_opposite_sum(rng, oracle, soft):
    logits, labels = draw(rng)
    labels = draw_soft(rng) if soft else labels
    threshold = rng.normal(size=7).astype(np.float32)

    def total(s, s0):
        return zlpr_loss(s, jnp.array(labels), threshold=s0).sum()

    # log(e^s0 + sum_N e^s) + log(e^-s0 + sum_P e^-s), from the definition.
    s, s0, t = (x.astype(np.float64) for x in (logits, threshold, labels))
    expected = np.log(np.exp(s0) + ((1 - t) * np.exp(s)).sum(1))
    expected += np.log(np.exp(-s0) + (t * np.exp(-s)).sum(1))
    loss = zlpr_loss(
        jnp.array(logits), jnp.array(labels), threshold=jnp.array(s0, "f4")
    )
    close(loss, expected)
    by_logits, by_threshold = jax.grad(total, (0, 1))(
        jnp.array(logits), jnp.array(threshold)
    )
    close(by_threshold, -np.asarray(by_logits).sum(1))
    assert np.abs(by_threshold).min() > 1e-3


def test_scalar_thresholds_agree(rng):
    logits, labels = draw(rng)
    s, y = jnp.array(logits), jnp.array(labels)
    expected = zlpr_loss(s - 2.0, y)
    for threshold in (2, 2.0, jnp.array(2.0), jnp.full((7,), 2.0)):
        close(zlpr_loss(s, y, threshold=threshold), np.asarray(expected))
    half = jnp.array(2.0, jnp.bfloat16)
    close(zlpr_loss(s, y, threshold=half), np.asarray(expected))


def test_hard_labels_of_every_dtype_agree(rng):
    logits, labels = draw(rng)
    s = jnp.array(logits)
    expected = zlpr_loss(s, jnp.array(labels))
    for dtype in ("int8", "uint8", "int16", "int32", "uint32"):
        chex.assert_trees_all_equal(zlpr_loss(s, jnp.array(labels, dtype)), expected)
    for dtype in ("bfloat16", "float16", "float32"):
        close(zlpr_loss(s, jnp.array(labels, dtype)), np.asarray(expected))


def test_zero_logits_in_both_classes_count():
    # A mask that takes logit 0 for "left out" gives 0 here.
    logits = jnp.zeros(4)
    labels = jnp.array([True, True, True, False])
    expected = np.log(4) + np.log(2)
    close(zlpr_loss(logits, labels), expected)
    gradient = jax.grad(zlpr_loss)(logits, labels)
    close(gradient, [-0.25, -0.25, -0.25, 0.5])


def test_soft_labels_never_lose_their_gradient(rng):
    # The 1e12 implementation answers loss 0 and gradient 0 for a label of 0.5.
    labels = jnp.array(draw_soft(rng))
    loss, pull = jax.vjp(lambda s: zlpr_loss(s, labels), jnp.ones((7, 11)))
    assert loss.min() > 0
    assert jnp.all(jnp.abs(pull(jnp.ones(7))[0]).sum(1) > 1e-2)


@pytest.mark.parametrize("soft", [False, True])
def test_rows_do_not_leak_into_one_another(rng, soft):
    logits, labels = draw(rng)
    labels = draw_soft(rng) if soft else labels

    @jax.jit
    def compiled(s, t):
        loss, pull = jax.vjp(lambda s: zlpr_loss(s, t), s)
        return loss, pull(jnp.ones_like(loss))[0]

    def loss_and_gradient(s, t):
        return jax.tree.map(np.asarray, compiled(jnp.array(s), jnp.array(t)))

    loss, gradient = loss_and_gradient(logits, labels)
    order = rng.permutation(7)
    shuffled = loss_and_gradient(logits[order], labels[order])
    chex.assert_trees_all_equal(shuffled, (loss[order], gradient[order]))
    disturbed = logits.copy()
    disturbed[3] = np.nan
    new_loss, new_gradient = loss_and_gradient(disturbed, labels)
    others = np.arange(7) != 3
    assert np.isnan(new_loss[3])
    chex.assert_trees_all_equal(new_loss[others], loss[others])
    chex.assert_trees_all_equal(new_gradient[others], gradient[others])


@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_no_classes_is_no_loss(dtype):
    loss = zlpr_loss(jnp.zeros((2, 0)), jnp.zeros((2, 0), dtype))
    chex.assert_trees_all_equal(loss, jnp.zeros(2))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("classes", [1023, 1024, 1039])
def test_many_classes_are_summed_in_lanes(rng, oracle, soft, classes):
    logits, labels = draw(rng, (7, classes), density=0.01)
    labels = draw_soft(rng, (7, classes)) if soft else labels
    where = rng.random(labels.shape) < 0.9
    arguments = (jnp.array(logits), jnp.array(labels))
    close(zlpr_loss(*arguments), oracle(logits, labels))
    close(zlpr_loss(*arguments, where=jnp.array(where)), oracle(logits, labels, where))
    gradient = jax.grad(lambda s, t: zlpr_loss(s, t).sum())(*arguments)
    s, t = logits.astype(np.float64), labels.astype(np.float64)
    positive, negative = t * np.exp(-s), (1 - t) * np.exp(s)
    expected = negative / (1 + negative.sum(1, keepdims=True))
    expected -= positive / (1 + positive.sum(1, keepdims=True))
    close(gradient, expected)


@pytest.mark.parametrize("exponent", [0, 20, 37])
def test_the_peak_knows_the_weights(oracle, exponent):
    # The largest score has almost no weight; under it as the peak the others vanish.
    weight = np.float32(10.0**-exponent)
    logits = np.array([[-2.3 * exponent - 1, 0, 1], [-88, 0, 1]], np.float32)
    labels = np.array([[weight, 0.5, 0.25]] * 2, np.float32)
    close(zlpr_loss(jnp.array(logits), jnp.array(labels)), oracle(logits, labels))
