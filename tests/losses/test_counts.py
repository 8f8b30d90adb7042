"""Metric counts against scikit-learn and a NumPy oracle."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score

from zlpr_jax.losses import (
    LabelCounts,
    label_counts,
    macro_f1,
    micro_f1,
    one_error,
    precision_at_k,
)


@pytest.fixture
def data(rng):
    logits = rng.normal(size=(40, 7)).astype(np.float32)
    labels = rng.random((40, 7)) < 0.3
    labels[:, 2] = False  # a label that never occurs
    logits[:, 3] = -1.0  # one that is never predicted
    labels[:, 4] = False
    logits[:, 4] = -1.0  # one with neither: 0/0
    labels[5] = False  # a row without labels
    return logits, labels


def sklearn_f1(labels, predictions, average):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f1_score(labels, predictions, average=average, zero_division=0)


def oracle_top(logits, labels, k, rows=None):
    """Hits in the first k of a stable descending order, and the rows."""
    hits = count = 0
    for i in range(len(logits)):
        if rows is None or rows[i]:
            top = sorted(range(logits.shape[1]), key=lambda c: (-logits[i, c], c))[:k]
            hits += sum(bool(labels[i, c]) for c in top)
            count += 1
    return hits, count


def test_f1_matches_scikit_learn(data):
    logits, labels = data
    counts = label_counts(jnp.array(logits > 0), jnp.array(labels))
    assert counts.true_positives.shape == (7,)
    for function, average in ((micro_f1, "micro"), (macro_f1, "macro")):
        expected = sklearn_f1(labels, logits > 0, average)
        assert 0 < expected < 1
        np.testing.assert_allclose(function(counts), expected, rtol=1e-6)


def test_nothing_to_find_and_nothing_found_is_zero():
    empty = jnp.zeros((3, 2), bool)
    counts = label_counts(empty, empty)
    assert micro_f1(counts) == 0
    assert macro_f1(counts) == 0
    with jax.debug_nans(True):
        jax.jit(micro_f1)(counts)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_precision_at_k(data, k):
    logits, labels = data
    hits, rows = oracle_top(logits, labels, k)
    result = precision_at_k(jnp.array(logits), jnp.array(labels), k=k)
    assert tuple(map(int, result)) == (hits, k * rows)


def test_one_error_counts_rows_without_labels(data):
    logits, labels = data
    hits, rows = oracle_top(logits, labels, 1)
    errors, count = one_error(jnp.array(logits), jnp.array(labels))
    assert (int(errors), int(count)) == (rows - hits, rows)
    none = one_error(jnp.ones((2, 3)), jnp.zeros((2, 3), bool))
    assert tuple(map(int, none)) == (2, 2)


def test_ties_go_to_the_first():
    labels = jnp.array([[True, False, False], [False, True, True]])
    errors, _ = one_error(jnp.zeros((2, 3)), labels)
    assert int(errors) == 1


def test_counts_add_over_batches_with_padded_rows(data):
    logits, labels = data
    s, y = np.pad(logits, ((0, 8), (0, 0))), np.pad(labels, ((0, 8), (0, 0)))
    s[40:], y[40:] = np.nan, True
    real = np.arange(48) < 40

    @jax.jit
    def count(s, y, where):
        return (
            label_counts(s > 0, y, where=where),
            precision_at_k(s, y, where=where, k=3),
            one_error(s, y, where=where),
        )

    batches = [
        count(*(jnp.array(x[i : i + 16]) for x in (s, y, real))) for i in (0, 16, 32)
    ]
    total = batches[0]
    for batch in batches[1:]:
        total = jax.tree.map(jnp.add, total, batch)
    whole = count(jnp.array(logits), jnp.array(labels), jnp.ones(40, bool))
    chex.assert_trees_all_equal(total, whole)
    expected = sklearn_f1(labels, logits > 0, "micro")
    np.testing.assert_allclose(micro_f1(total[0]), expected, rtol=1e-6)
    hits, rows = oracle_top(logits, labels, 3)
    assert tuple(map(int, total[1])) == (hits, 3 * rows)


def test_where_of_single_entries(data, rng):
    logits, labels = data
    where = rng.random(labels.shape) < 0.7
    where[3] = False
    counts = label_counts(
        jnp.array(logits > 0), jnp.array(labels), where=jnp.array(where)
    )
    for c in range(7):
        kept = where[:, c]
        predicted, true = (logits > 0)[kept, c], labels[kept, c]
        assert int(counts.true_positives[c]) == (predicted & true).sum()
        assert int(counts.false_positives[c]) == (predicted & ~true).sum()
        assert int(counts.false_negatives[c]) == (~predicted & true).sum()
    masked = np.where(where, logits, -np.inf)
    hits, rows = oracle_top(masked, labels & where, 2, where.any(1))
    junk = np.where(where, logits, np.nan)
    result = precision_at_k(
        jnp.array(junk), jnp.array(labels), where=jnp.array(where), k=2
    )
    assert tuple(map(int, result)) == (hits, 2 * rows)
    assert rows == 39


@pytest.mark.parametrize("axis", [0, 1, (0, 2), (2, 1)])
def test_axis_is_moveaxis(rng, axis):
    logits = rng.normal(size=(3, 4, 5)).astype(np.float32)
    labels = rng.random(logits.shape) < 0.4
    axes = sorted([axis] if isinstance(axis, int) else axis)
    rest = [a for a in range(3) if a not in axes]

    def rows(x):
        x = np.transpose(x, rest + axes)
        return jnp.array(x.reshape(int(np.prod(x.shape[: len(rest)])), -1))

    s, y = jnp.array(logits), jnp.array(labels)
    counts = label_counts(s > 0, y, axis)
    assert counts.true_positives.shape == tuple(logits.shape[a] for a in axes)
    chex.assert_trees_all_equal(
        jax.tree.map(jnp.ravel, counts), label_counts(rows(logits) > 0, rows(labels))
    )
    chex.assert_trees_all_equal(
        precision_at_k(s, y, axis, k=2), precision_at_k(rows(logits), rows(labels), k=2)
    )
    chex.assert_trees_all_equal(
        one_error(s, y, axis), one_error(rows(logits), rows(labels))
    )


def test_counts_sum_over_devices(data):
    logits, labels = (jnp.array(x.reshape(8, 5, 7)) for x in data)

    def count(s, y):
        return jax.lax.psum(label_counts(s > 0, y), "devices")

    summed = jax.pmap(count, axis_name="devices")(logits, labels)
    whole = label_counts(jnp.array(data[0] > 0), jnp.array(data[1]))
    chex.assert_trees_all_equal(
        jax.tree.map(lambda x: np.asarray(x)[0], summed),
        jax.tree.map(np.asarray, whole),
    )


def test_large_counts_do_not_overflow():
    big = jnp.full(4, 2**30, jnp.int32)
    counts = LabelCounts(big, big, big)
    np.testing.assert_allclose(micro_f1(counts), 0.5, rtol=1e-6)
    np.testing.assert_allclose(macro_f1(counts), 0.5, rtol=1e-6)


def test_one_row_and_vmap(data):
    logits, labels = (jnp.array(x) for x in data)
    mapped = jax.vmap(lambda s, y: one_error(s, y))(logits, labels)
    whole = one_error(logits, labels)
    chex.assert_trees_all_equal(jax.tree.map(jnp.sum, mapped), whole)
