"""sparse_linear: a padded batch of pairs gives what the dense batch gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from zlpr_jax.nn import SparseFeatures, sparse_linear


@pytest.fixture
def layer():
    return nnx.Linear(20, 5, rngs=nnx.Rngs(0))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((6, 20)) < 0.3, rng.normal(size=(6, 20)), 0)
    dense[2] = 0  # a row without any feature
    width = int((dense != 0).sum(1).max())
    indices = np.zeros((6, width), np.int32)
    values = np.zeros((6, width), np.float32)
    for row in range(6):
        nonzero = np.flatnonzero(dense[row])
        indices[row, : len(nonzero)] = nonzero
        values[row, : len(nonzero)] = dense[row, nonzero]
    return dense, SparseFeatures(jnp.asarray(indices), jnp.asarray(values))


def test_agrees_with_float64(layer, batch):
    dense, rows = batch
    kernel = np.asarray(layer.kernel[...], np.float64)
    np.testing.assert_allclose(
        sparse_linear(layer, rows), dense @ kernel, rtol=1e-5, atol=1e-6
    )


def test_gradient_agrees_with_dense(layer, batch):
    dense, rows = batch

    x = jnp.asarray(dense, jnp.float32)
    graph, state = nnx.split(layer)
    sparse, full = (
        jax.grad(lambda state: (apply(nnx.merge(graph, state)) ** 2).sum())(state)
        for apply in (lambda layer: sparse_linear(layer, rows), lambda layer: layer(x))
    )
    np.testing.assert_allclose(
        sparse["kernel"][...], full["kernel"][...], rtol=1e-5, atol=1e-5
    )


def test_a_repeated_index_adds_up(layer):
    twice = SparseFeatures(jnp.array([[4, 4]]), jnp.array([[1.0, 2.0]]))
    once = SparseFeatures(jnp.array([[4]]), jnp.array([[3.0]]))
    np.testing.assert_allclose(
        sparse_linear(layer, twice), sparse_linear(layer, once), rtol=1e-6
    )


def test_no_dense_batch_in_the_program(layer, batch):
    _, rows = batch
    program = str(jax.make_jaxpr(lambda rows: sparse_linear(layer, rows))(rows))
    assert "f32[6,20]" not in program


def test_an_index_outside_is_loud(layer):
    rows = SparseFeatures(jnp.array([[20]]), jnp.array([[1.0]]))
    assert bool(jnp.isnan(sparse_linear(layer, rows)).all())
