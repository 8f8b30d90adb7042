"""The loss on class indices: padding, duplicates, range, and large positive logits."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zlpr_jax.losses import zlpr_loss, zlpr_loss_with_integer_labels


def multi_hot(labels, classes):
    """An oracle for the index handling, one index at a time."""
    labels = np.asarray(labels)
    result = np.zeros((*labels.shape[:-1], classes), bool)
    for position in np.ndindex(labels.shape):
        if labels[position] >= 0:
            result[(*position[:-1], labels[position])] = True
    return result


@partial(jax.jit, static_argnums=0)
def compiled(loss_function, logits, labels, options):
    loss, pull = jax.vjp(lambda s: loss_function(s, labels, **options), logits)
    return loss, pull(jnp.ones_like(loss))[0]


def loss_and_gradient(loss_function, logits, labels, **options):
    return compiled(loss_function, jnp.array(logits), jnp.array(labels), options)


@pytest.mark.parametrize("score", [8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 30.0, 60.0])
def test_a_large_positive_logit_does_not_cancel(score):
    # The form log(all - positives) turns negative, and its gradient pushes down.
    logits = np.full((1, 1000), -5.0, np.float32)
    logits[0, 7] = score
    loss, gradient = loss_and_gradient(
        zlpr_loss_with_integer_labels, logits, np.array([[7]])
    )
    exact = np.log1p(999 * np.exp(-5.0)) + np.log1p(np.exp(-score))
    np.testing.assert_allclose(loss, [exact], rtol=1e-6)
    np.testing.assert_allclose(
        gradient[0, 7], -np.exp(-score) / (1 + np.exp(-score)), rtol=1e-5
    )
    assert gradient[0, 7] <= 0


def test_duplicates_pads_and_empty_rows(rng):
    logits = rng.normal(size=(5, 6)).astype(np.float32)
    labels = np.array([[2, 2, 2], [2, -1, -1], [-1, -7, 5], [-1, -1, -1], [0, 5, 0]])
    dense = loss_and_gradient(zlpr_loss, logits, multi_hot(labels, 6))
    sparse = loss_and_gradient(zlpr_loss_with_integer_labels, logits, labels)
    chex.assert_trees_all_equal(sparse, dense)
    # -1 is no index of the last class: row 3 has no positive class at all.
    exact = np.log1p(np.exp(logits[3].astype(np.float64)).sum())
    np.testing.assert_allclose(sparse[0][3], exact, rtol=1e-6)
    assert sparse[1][3, 5] > 0


def test_no_indices_is_no_positive_class(rng):
    logits = jnp.array(rng.normal(size=(3, 4)), jnp.float32)
    loss = zlpr_loss_with_integer_labels(logits, jnp.zeros((3, 0), jnp.int32))
    chex.assert_trees_all_equal(loss, zlpr_loss(logits, jnp.zeros((3, 4), bool)))


@pytest.mark.parametrize("index", [6, 7, 2**31 - 1])
def test_an_index_past_the_end_makes_its_row_nan(rng, index):
    logits = rng.normal(size=(3, 6)).astype(np.float32)
    labels = np.array([[1, -1], [0, index], [5, 3]], np.int32)
    good = np.array([[1, -1], [0, -1], [5, 3]], np.int32)

    def run(labels):
        return loss_and_gradient(zlpr_loss_with_integer_labels, logits, labels)

    (loss, gradient), expected = run(labels), run(good)
    assert np.isnan(loss[1])
    assert np.all(np.isnan(gradient[1]))
    for row in (0, 2):
        chex.assert_trees_all_equal(
            (loss[row], gradient[row]), (expected[0][row], expected[1][row])
        )


def test_a_row_that_where_empties_is_zero_whatever_its_indices():
    loss, gradient = loss_and_gradient(
        zlpr_loss_with_integer_labels,
        jnp.full((2, 3), jnp.nan).at[0].set(0.0),
        np.array([[0, -1], [0, 99]]),
        where=jnp.array([[True] * 3, [False] * 3]),
    )
    np.testing.assert_allclose(loss, [np.log(2) + np.log(3), 0.0], rtol=1e-6)
    chex.assert_trees_all_equal(gradient[1], jnp.zeros(3))


def test_a_positive_index_that_where_excludes_is_ignored(rng):
    logits = rng.normal(size=(1, 4)).astype(np.float32)
    where = np.array([[True, False, True, True]])
    loss = zlpr_loss_with_integer_labels(
        jnp.array(logits), jnp.array([[1, 2]]), where=jnp.array(where)
    )
    expected = zlpr_loss(
        jnp.array(logits[:, [0, 2, 3]]), jnp.array([[False, True, False]])
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"]
)
def test_every_integer_dtype_reaches_every_class(rng, dtype):
    # 1000 classes do not fit in 8 bits, the number to which padding is mapped.
    logits = jnp.array(rng.normal(size=(2, 1000)), jnp.float32)
    labels = np.array([[0, 100, 127], [3, 3, 90]])
    expected = zlpr_loss(logits, jnp.array(multi_hot(labels, 1000)))
    loss = zlpr_loss_with_integer_labels(logits, jnp.array(labels, dtype))
    chex.assert_trees_all_equal(loss, expected)
    if not dtype.startswith("u"):
        padded = jnp.array(np.concatenate([labels, [[-1], [-128]]], 1), dtype)
        chex.assert_trees_all_equal(
            zlpr_loss_with_integer_labels(logits, padded), expected
        )


def test_a_large_unsigned_index_is_not_padding():
    loss = zlpr_loss_with_integer_labels(
        jnp.zeros((1, 3)), jnp.array([[2**32 - 1]], jnp.uint32)
    )
    assert np.isnan(loss[0])


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_class_axis_anywhere_index_axis_last(rng, axis):
    logits = rng.normal(size=(3, 4, 5)).astype(np.float32)
    rows = np.delete(logits.shape, axis)
    labels = rng.integers(-1, 3, (*rows, 2))
    threshold = jnp.array(rng.normal(size=tuple(rows)), jnp.float32)
    where = rng.random(logits.shape) < 0.8
    dense = np.moveaxis(multi_hot(labels, logits.shape[axis]), -1, axis)
    options = {"where": jnp.array(where), "threshold": threshold}
    chex.assert_trees_all_equal(
        zlpr_loss_with_integer_labels(
            jnp.array(logits), jnp.array(labels), axis, **options
        ),
        zlpr_loss(jnp.array(logits), jnp.array(dense), axis, **options),
    )


# Fixed shapes, so that each function is compiled once.
ROWS, CLASSES, K = 3, 6, 4
INDICES = hnp.arrays(
    np.int32, (ROWS, K), elements=st.integers(-(2**31), CLASSES + 2)
) | hnp.arrays(np.int32, (ROWS, K), elements=st.integers(-2, CLASSES - 1))
LOGITS = hnp.arrays(np.float32, (ROWS, CLASSES), elements=st.floats(-40, 40, width=32))


@jax.jit
def sparse_loss(logits, labels):
    return zlpr_loss_with_integer_labels(logits, labels)


@jax.jit
def sparse_gradient_of_vmap(logits, labels):
    return jax.grad(
        lambda s: jnp.sum(jax.vmap(zlpr_loss_with_integer_labels)(s, labels))
    )(logits)


@jax.jit
def dense_gradient(logits, labels):
    return jax.grad(lambda s: jnp.sum(zlpr_loss(s, labels)))(logits)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(logits=LOGITS, labels=INDICES)
def test_random_indices_equal_dense_labels(logits, labels):
    invalid = (labels >= CLASSES).any(1)
    dense = multi_hot(np.where(labels >= CLASSES, -1, labels), CLASSES)
    expected = np.asarray(zlpr_loss(jnp.array(logits), jnp.array(dense)))
    loss = np.asarray(sparse_loss(jnp.array(logits), jnp.array(labels)))
    np.testing.assert_array_equal(np.isnan(loss), invalid)
    np.testing.assert_allclose(loss[~invalid], expected[~invalid], rtol=2e-6, atol=1e-6)
    assert np.all(loss[~invalid] >= 0)
    gradient = sparse_gradient_of_vmap(jnp.array(logits), jnp.array(labels))
    np.testing.assert_allclose(
        np.asarray(gradient)[~invalid],
        np.asarray(dense_gradient(jnp.array(logits), jnp.array(dense)))[~invalid],
        rtol=2e-6,
        atol=1e-7,
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(labels=INDICES, seed=st.integers(0, 2**16))
def test_order_and_repetition_do_not_matter(labels, seed):
    rng = np.random.default_rng(seed)
    logits = jnp.array(rng.normal(size=(ROWS, CLASSES)), jnp.float32)
    changed = rng.permuted(labels, axis=1)
    changed = np.where(changed < 0, changed[:, :1], changed)
    same_set = [
        {i for i in a if i >= 0} == {i for i in b if i >= 0}
        for a, b in zip(labels.tolist(), changed.tolist(), strict=True)
    ]
    before = np.asarray(sparse_loss(logits, jnp.array(labels)))
    after = np.asarray(sparse_loss(logits, jnp.array(changed)))
    np.testing.assert_array_equal(before[same_set], after[same_set])
