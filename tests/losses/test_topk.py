"""The k best classes, block by block, against `jax.lax.top_k` of all scores."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zlpr_jax.losses import predict_topk


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(1, 30),
    k=st.integers(1, 30),
    block_size=st.one_of(st.none(), st.integers(1, 40)),
    masked=st.booleans(),
)
def test_top_k_of_all_scores(seed, classes, k, block_size, masked):
    k = min(k, classes)
    rng = np.random.default_rng(seed)
    hidden = jnp.array(rng.integers(-2, 3, (3, 2)), jnp.float32)  # ties everywhere
    kernel = jnp.array(rng.integers(-2, 3, (2, classes)), jnp.float32)
    bias = jnp.array(rng.integers(-1, 2, classes), jnp.float32)
    where = jnp.array(rng.random(classes) < 0.5) if masked else None
    scores, best = predict_topk(
        hidden, kernel, k, bias=bias, where=where, block_size=block_size
    )
    everything = hidden @ kernel + bias[None]
    if where is not None:
        everything = jnp.where(where[None], everything, -jnp.inf)
    expected, places = jax.lax.top_k(everything, k)
    places = jnp.where(expected == -jnp.inf, -1, places)
    chex.assert_trees_all_equal((scores, best), (expected, places.astype(jnp.int32)))


@pytest.mark.parametrize("block_size", [None, 4])
def test_masked_classes_may_hold_nan(block_size):
    kernel = jnp.array([[1.0, jnp.nan, 3.0, 2.0, jnp.inf]])
    where = jnp.array([True, False, True, True, False])
    scores, best = predict_topk(
        jnp.ones((2, 1)), kernel, 4, where=where, block_size=block_size
    )
    np.testing.assert_array_equal(best, [[2, 3, 0, -1]] * 2)
    np.testing.assert_array_equal(scores, [[3, 2, 1, -np.inf]] * 2)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_row_axes_and_dtypes(rng, shape):
    hidden = jnp.array(rng.normal(size=(*shape, 4)), jnp.bfloat16)
    kernel = jnp.array(rng.normal(size=(4, 10)), jnp.float32)
    scores, best = predict_topk(hidden, kernel, 3, block_size=4)
    assert scores.shape == best.shape == (*shape, 3)
    assert (scores.dtype, best.dtype) == (jnp.float32, jnp.int32)
    wide = hidden.astype(jnp.float32) @ kernel.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(scores, jax.lax.top_k(wide, 3)[0], rtol=1e-5)


def test_jit_vmap_and_memory(rng):
    hidden = jnp.array(rng.normal(size=(6, 4)), jnp.float32)
    kernel = jnp.array(rng.normal(size=(4, 50)), jnp.float32)
    together = predict_topk(hidden, kernel, 3, block_size=16)
    alone = jax.vmap(lambda row: predict_topk(row, kernel, 3, block_size=16))(hidden)
    chex.assert_trees_all_close(together, alone, rtol=1e-6)

    shape = jax.ShapeDtypeStruct
    rows, width, classes = 512, 64, 100_003
    lowered = jax.jit(predict_topk, static_argnums=2).lower(
        shape((rows, width), jnp.float32), shape((width, classes), jnp.float32), 10
    )
    used = lowered.compile().memory_analysis().temp_size_in_bytes
    assert used < rows * classes * 4 / 4
