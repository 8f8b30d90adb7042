"""Batches of records: from a data set as from a list, on the host, with given room."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from scipy.sparse import csr_array

from zlpr_jax.data.multilabel import MultilabelData
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.tasks import extreme, multilabel
from zlpr_jax.tasks.features import DENSE_FEATURES, feature_scaling

LABELS, WIDE = 25, DENSE_FEATURES + 4
KINDS = ["dense", "sparse", "wide", "dense and wide"]


def data_of(kind, rows=40):
    rng = np.random.default_rng(1)
    width = WIDE if "wide" in kind else 30
    features = np.where(rng.random((rows, width)) < 0.3 * 30 / width, 1, 0)
    features = (features * rng.random((rows, width))).astype(np.float32)
    features[5] = 0
    features[7, :13] = 1  # more than eight in a row
    labels = rng.random((rows, LABELS)) < 0.1
    labels[[2, 5]] = False
    labels[3, :17] = True
    return MultilabelData(
        features=features if "dense" in kind else csr_array(features),
        labels=csr_array(labels.astype(np.int8)),
        label_names=tuple(f"l{i}" for i in range(LABELS)),
        ids=tuple(str(i) for i in range(rows)),
        path="test",
    )


def make(name, data, **options):
    config = MLPConfig(features=data.num_features, labels=LABELS, hidden=(16,))
    scaling = feature_scaling(data)
    if name == "multilabel":
        return multilabel.make(config, scaling=scaling, **options)
    counts = np.bincount(data.labels.indices, minlength=LABELS)
    return extreme.make(config, label_counts=counts, rows=len(data), scaling=scaling)


def leaves(batch):
    return jax.tree_util.tree_leaves_with_path(batch)


def assert_equal(batch, other):
    assert jax.tree.structure(batch) == jax.tree.structure(other)
    for (path, found), (_, expected) in zip(leaves(batch), leaves(other), strict=True):
        assert found.dtype == expected.dtype, path
        np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("name", ["multilabel", "extreme"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_gives_what_its_records_do(name, kind):
    data = data_of(kind)
    task = make(name, data)
    rng = np.random.default_rng(0)
    # padded or not, with a repeated record, only the empty record, none
    for chosen, size in ((rng.integers(0, 40, 9), 9), (range(12), 16), ([5], 1)):
        part = data.take(chosen)
        assert_equal(task.batch(part, size), task.batch(list(part), size))
    for _, leaf in leaves(task.batch(part, 1)):
        assert type(leaf) is np.ndarray, "built beside a running step, without jax"


@pytest.mark.parametrize("name", ["multilabel", "extreme"])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_process_without_a_record_builds_the_same_shapes(name, kind):
    data = data_of(kind)
    task = make(name, data)
    room = () if task.lengths is None else (task.lengths(data).max(axis=0),)
    expected = task.batch(data.take(range(8)), 8, *room)
    for records in ([], data.take([])):
        batch = task.batch(records, 8, *room)
        assert not batch["where"].any()
        for (_, found), (_, like) in zip(leaves(batch), leaves(expected), strict=True):
            assert (found.shape, found.dtype) == (like.shape, like.dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths(kind):
    data = data_of(kind)
    labels = data.labels.toarray().sum(axis=1)
    pairs = np.zeros(40, int)
    if kind == "wide":
        pairs = (data.features.toarray() != 0).sum(axis=1)
    for records in (data, list(data)):
        found = make("extreme", data).lengths(records)
        np.testing.assert_array_equal(found, np.stack([pairs, labels], axis=1))
        dense = make("multilabel", data)
        assert (dense.lengths is not None) == ("wide" in kind)
        if dense.lengths is not None:
            np.testing.assert_array_equal(dense.lengths(records), pairs)


@pytest.mark.parametrize("name", ["multilabel", "extreme"])
def test_rows_have_the_room_that_is_asked_for(name):
    data = data_of("wide")
    task = make(name, data)
    short = data.take(np.flatnonzero(task.lengths(data).reshape(40, -1).max(1) < 8)[:4])
    lengths = np.array([100, 40]) if name == "extreme" else np.int64(100)
    exact, roomy = task.batch(short, 4), task.batch(short, 4, lengths)
    assert exact["features"].indices.shape == (4, 8)
    assert roomy["features"].indices.shape == (4, 128)
    np.testing.assert_array_equal(
        roomy["features"].values[:, :8], exact["features"].values
    )
    assert not roomy["features"].values[:, 8:].any()
    if name == "extreme":
        assert roomy["labels"].shape == (4, 64)
        assert (roomy["labels"][:, 8:] == -1).all()
    # record 7 has more non-zeros, 3 more labels
    with pytest.raises(ValueError, match="assign"):
        task.batch(data.take([3, 7]), 2, 0 * lengths)


def test_label_matrix_of_a_data_set():
    data = data_of("dense")
    expected = data.labels.toarray() > 0
    for records in (data, list(data)):
        matrix = multilabel.label_matrix(records, LABELS)
        np.testing.assert_array_equal(matrix, expected, strict=True)


def test_texts_are_not_stacked():
    data = dataclasses.replace(data_of("dense", 8), features=("a",) * 8)
    task = multilabel.make(MLPConfig(features=30, labels=LABELS))
    with pytest.raises(ValueError, match="use vectorize"):
        task.batch(data, 8)


def products(jaxpr):
    """The operands' dtypes of every matrix product, also inside loops and calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(str(value.aval.dtype) for value in equation.invars)
        inner = list(jaxprs_in_params(equation.params))
        # of a choice by platform the last is that of all but the CPU, which lacks some
        for part in inner[-1:] if equation.primitive.name == "cond" else inner:
            yield from products(part)


@pytest.mark.parametrize("kind", ["dense", "wide"])
@pytest.mark.parametrize("name", ["multilabel", "bce", "extreme"])
def test_computes_in_the_dtype_of_the_parameters(name, kind):
    data = data_of(kind)
    options = {"objective": multilabel.BCE} if name == "bce" else {}
    task = make("extreme" if name == "extreme" else "multilabel", data, **options)
    params, state = task.init(jax.random.key(0))
    batch, key = task.batch(data, 40), jax.random.key(1)

    def loss_of(params, batch):
        low = jax.tree.map(lambda array: array.astype(jnp.bfloat16), params)
        return task.loss(low, state, batch, key)

    both = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    traced = both.trace(params, batch)
    assert set(products(traced.jaxpr.jaxpr)) == {("bfloat16", "bfloat16")}
    (loss, (new_state, metrics)), grads = traced.lower().compile()(params, batch)
    assert {x.dtype for x in jax.tree.leaves((loss, metrics))} == {jnp.dtype("f4")}
    before, after = (jax.tree.map(jnp.result_type, s) for s in (state, new_state))
    assert before == after
    for grad in jax.tree.leaves(grads):
        assert bool(jnp.isfinite(grad).all())
        assert bool(grad.any())
    exact, _ = jax.jit(task.loss)(params, state, batch, key)
    np.testing.assert_allclose(loss, exact, rtol=0.02)


def test_scaling_is_done_in_float32():
    """A column of large numbers close together survives narrow parameters."""
    data = data_of("dense")
    data.features[:, 0] = 5000 + np.arange(40)
    task = make("multilabel", data)
    params, state = task.init(jax.random.key(0))
    batch, predict = task.batch(data, 40), jax.jit(task.predict)
    low = jax.tree.map(lambda array: array.astype(jnp.bfloat16), params)
    exact, rounded = (predict(p, state, batch) for p in (params, low))
    error = np.abs(np.asarray(rounded, np.float32) - exact)
    assert error.max() < 0.05 * np.abs(exact).max()
