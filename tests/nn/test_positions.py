"""Rotary and relative positions against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nn import oracles
from zlpr_jax.nn import Attention, DotProductScores, Places, rotate
from zlpr_jax.nn._positions import relative_logits, relative_table, relative_values

# compiled whole: examples of other shapes are then quick
LOGITS = oracles.jit(relative_logits, static_argnums=(1, 2))
VALUES = oracles.jit(relative_values, static_argnums=(1, 2))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


# -- Rotary


def test_rotation_agrees_with_numpy():
    x = normal(0, 2, 7, 3, 8)
    positions = np.random.default_rng(1).integers(0, 300, (2, 7))
    got = rotate(jnp.float32(x), jnp.asarray(positions, jnp.int32))
    np.testing.assert_allclose(got, oracles.rotated(x, positions), atol=1e-4)
    slots = np.broadcast_to(np.arange(7), (2, 7))
    np.testing.assert_allclose(
        rotate(jnp.float32(x)), oracles.rotated(x, slots), atol=1e-6
    )


def test_products_of_turned_vectors_depend_on_the_difference():
    q, k = (jnp.float32(normal(seed, 1, 1, 1, 16)) for seed in (0, 1))

    def product(i, j):
        return (rotate(q, jnp.array([[i]])) * rotate(k, jnp.array([[j]]))).sum()

    near = product(5, 3)
    for shift in (1, 40):
        np.testing.assert_allclose(product(5 + shift, 3 + shift), near, atol=1e-5)
    assert abs(product(3, 5) - near) > 0.1
    assert abs(product(5, 4) - near) > 0.1


def test_rotation_keeps_the_dtype_and_computes_in_float32():
    x = jnp.float32(normal(0, 1, 100, 1, 8))
    half = rotate(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    # angles in bfloat16 would be wrong by up to 0.25 at position 99
    np.testing.assert_allclose(half.astype(jnp.float32), rotate(x), atol=0.03)


def test_odd_widths():
    odd = jnp.ones((1, 2, 1, 5))
    with pytest.raises(ValueError, match="rotary positions need heads of an even"):
        rotate(odd)
    with pytest.raises(ValueError, match="relative positions need heads of an even"):
        relative_logits(odd, 3, 2, Places())


# -- Relative


def test_table_of_sinusoids():
    table = relative_table(3, 4)
    for row in range(7):  # of the offset row - 3
        slow = row / 100  # 10000^(2/4)
        expected = [np.sin(row), np.cos(row), np.sin(slow), np.cos(slow)]
        np.testing.assert_allclose(table[row], expected, atol=1e-12)


def check_relative(length, size, distance, queries=None, keys=None):
    """Both sides against `a_ij` written out; positions are `[B, T]` and `[B, S]`."""
    d = 4
    places = Places(*(None if p is None else jnp.int32(p) for p in (queries, keys)))
    slots = (np.arange(n)[None].repeat(2, axis=0) for n in (length, size))
    queries, keys = (
        slot if p is None else p for p, slot in zip((queries, keys), slots, strict=True)
    )
    a = oracles.relative_vectors(queries, keys, distance, d)
    q, p = normal(2, 2, length, 3, d), normal(3, 2, 3, length, size)
    logits = LOGITS(jnp.float32(q), distance, size, places)
    expected = np.einsum("bthd,btsd->bhts", q, a)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    values = VALUES(jnp.float32(p), distance, d, places)
    expected = np.einsum("bhts,btsd->bthd", p, a)
    np.testing.assert_allclose(values, expected, atol=1e-4)


@given(length=st.integers(1, 7), size=st.integers(1, 7), distance=st.integers(1, 9))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_relative_positions_by_order(length, size, distance):
    check_relative(length, size, distance)


@given(
    queries=st.lists(st.integers(0, 30), min_size=3, max_size=3),
    start=st.integers(0, 20),
    distance=st.sampled_from([1, 2, 9]),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_relative_positions_of_given_queries(queries, start, distance):
    """As in decoding: queries stand anywhere, keys at 0, ..., S - 1."""
    positions = np.array([queries, np.arange(start, start + 3)])
    check_relative(3, 12, distance, queries=positions)


def test_relative_positions_of_given_tokens():
    """Of consecutive tokens only the order matters."""
    positions = np.array([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]])
    check_relative(5, 5, 2, queries=positions, keys=positions)


def test_relative_positions_past_the_distance_of_nezha():
    check_relative(200, 200, 64)
    check_relative(1, 200, 64, queries=np.array([[199], [20]]))


def test_gradients_of_relative_positions():
    """Both are linear, so the gradient is that of the sum written out."""
    slots = np.arange(9)[None]
    a = oracles.relative_vectors(slots, slots, 2, 4)
    cotangents = jnp.float32(normal(0, 1, 3, 9, 9)), jnp.float32(normal(1, 1, 9, 3, 4))

    def both(q, p):
        logits = relative_logits(q, 2, 9, Places())
        values = relative_values(p, 2, 4, Places())
        return (logits * cotangents[0]).sum() + (values * cotangents[1]).sum()

    of_q, of_p = oracles.jit(jax.grad(both, argnums=(0, 1)))(
        jnp.ones((1, 9, 3, 4)), jnp.ones((1, 3, 9, 9))
    )
    expected = np.einsum("bhts,btsd->bthd", cotangents[0], a)
    np.testing.assert_allclose(of_q, expected, atol=1e-4)
    expected = np.einsum("bthd,btsd->bhts", cotangents[1], a)
    np.testing.assert_allclose(of_p, expected, atol=1e-4)


def largest_array(jaxpr):
    """Elements of the largest array in a jaxpr, those inside of calls included."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [out.aval.size for out in equation.outvars]
        inner = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        )
        for one in inner:
            if hasattr(one, "jaxpr") or hasattr(one, "eqns"):
                sizes.append(largest_array(getattr(one, "jaxpr", one)))
    return max(sizes)


def test_no_array_of_queries_by_keys_by_width():
    length, d = 256, 64
    scores = DotProductScores(d, 1, relative=64, rngs=oracles.rngs())
    attention = Attention(d, 1, [scores], relative=64, rngs=oracles.rngs())

    def ours(x):
        return attention(x).sum()

    def naive(x):
        slots = jnp.arange(length)
        offset = jnp.clip(slots[None] - slots[:, None], -64, 64) + 64
        a = jnp.float32(relative_table(64, d))[offset]
        q, k, v = (layer(x) for layer in (scores.query, scores.key, attention.value))
        logits = (q[:, :, None] * (k[:, None] + a[None])).sum(-1) / 8
        p = jax.nn.softmax(logits, axis=-1)[..., None]
        return attention.output((p * (v[:, None] + a[None])).sum(2)).sum()

    def temporary(function):
        return jax.jit(function).lower(x).compile().memory_analysis().temp_size_in_bytes

    x = jnp.float32(normal(0, 1, length, d))
    np.testing.assert_allclose(oracles.jit(ours)(x), jax.jit(naive)(x), rtol=1e-4)
    for fast, slow in ((ours, naive), (jax.grad(ours), jax.grad(naive))):
        # arrays of T x T, of T x 2T while offsets are shifted, but none of T x T x d
        assert largest_array(jax.make_jaxpr(fast)(x).jaxpr) < 3 * length**2
        assert largest_array(jax.make_jaxpr(slow)(x).jaxpr) == length**2 * d
        assert temporary(fast) < length**2 * d * 4 / 4
