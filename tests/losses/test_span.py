"""The loss on spans: tiles, masks, labels, transforms, memory."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zlpr_jax.losses import zlpr_loss, zlpr_span_loss

ROWS, L, D, K = (2, 3), 11, 4, 5


def losses_and_gradients(query, key, spans, where, cotangent, **options):
    def loss(query, key):
        return zlpr_span_loss(query, key, spans, where=where, **options)

    losses, pull = jax.vjp(loss, query, key)
    return losses, pull(cotangent)


# Most of the time of these tests is that of the compiler.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
compiled = quick_jit(losses_and_gradients, static_argnames=("causal", "block_size"))


def run(query, key, spans, where=None, cotangent=None, **options):
    """The losses, and the gradients of query and key."""
    where = np.ones(query.shape[:-1], bool) if where is None else where
    if cotangent is None:
        cotangent = np.ones(query.shape[:-2], np.float32)
    options = {"causal": True, "block_size": 4} | options
    arrays = map(jnp.asarray, (query, key, spans, where, cotangent))
    return compiled(*arrays, **options)


def oracle_row(query, key, spans, where, causal):
    """The equation and its derivative, span by span, in float64."""
    query, key = (np.asarray(x, np.float64) for x in (query, key))
    to_query, to_key = np.zeros_like(query), np.zeros_like(key)
    labelled = {(i, j) for i, j in np.asarray(spans).tolist() if min(i, j) >= 0}
    score = {
        (i, j): query[i] @ key[j]
        for i in range(len(query))
        for j in range(len(key))
        if where[i] and where[j] and (i <= j or not causal)
    }
    loss = 0.0
    for sign, chosen in ((1, score.keys() - labelled), (-1, score.keys() & labelled)):
        exponents = [0.0] + [sign * score[span] for span in sorted(chosen)]
        term = np.logaddexp.reduce(exponents)
        loss += term
        for i, j in chosen:
            weight = sign * np.exp(sign * score[i, j] - term)
            to_query[i] += weight * key[j]
            to_key[j] += weight * query[i]
    return loss, to_query, to_key


def oracle(query, key, spans, where=None, causal=True):
    where = np.ones(query.shape[:-1], bool) if where is None else np.asarray(where)
    rows = [
        oracle_row(query[row], key[row], spans[row], where[row], causal)
        for row in np.ndindex(query.shape[:-2])
    ]
    loss, *gradients = (np.array(x) for x in zip(*rows, strict=True))
    shape = query.shape
    return loss.reshape(shape[:-2]), tuple(x.reshape(shape) for x in gradients)


def errors(result, expected):
    """Largest difference over the largest number: of the loss, and per gradient."""
    return [
        np.max(np.abs(np.asarray(x, np.float64) - y)) / np.max(np.abs(y))
        for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True)
    ]


def leaves(*trees):
    return (jax.tree.leaves(jax.device_get(tree)) for tree in trees)


def make(rng, causal=True, length=L):
    """Vectors and labels with padding, duplicates and a row without labels."""
    query, key = (
        np.asarray(1.5 * rng.normal(size=(*ROWS, length, D)), np.float32) for _ in "qk"
    )
    spans = rng.integers(0, length, (*ROWS, K, 2)).astype(np.int32)
    if causal:
        spans.sort(axis=-1)
    spans[:, :, 3] = spans[:, :, 1]
    spans[0, 1, 2] = [-1, 3]
    spans[1, 0, 0] = [3, -100]
    spans[1, 2] = -1
    return query, key, spans


@pytest.fixture
def data(rng):
    return make(rng)


@pytest.fixture
def where(rng):
    where = rng.random((*ROWS, L)) < 0.7
    where[0, 0, 7:] = False  # as padding is
    return where


@pytest.mark.parametrize(
    ("block_size", "causal"), [(1, True), (4, True), (L, True), (4, False)]
)
def test_equals_the_equation(rng, where, block_size, causal):
    query, key, spans = make(rng, causal)
    for mask in (None, where):
        result = run(query, key, spans, mask, causal=causal, block_size=block_size)
        assert max(errors(result, oracle(query, key, spans, mask, causal))) < 5e-6


def test_float64(data, where):
    exact = oracle(*data, where)
    with jax.enable_x64(True):
        query, key = (x.astype(np.float64) for x in data[:2])
        spans = data[2].astype(np.int64)
        result = run(query, key, spans, where, np.ones(ROWS))
        assert {x.dtype for x in jax.tree.leaves(result)} == {np.dtype("float64")}
        assert max(errors(result, exact)) < 1e-12
        # Wide indices do not widen the result.
        narrow = jax.eval_shape(
            losses_and_gradients, *data[:2], spans, where, np.ones(ROWS, np.float32)
        )
        assert {x.dtype for x in jax.tree.leaves(narrow)} == {np.dtype("float32")}


def dense_loss(query, key, spans):
    """The loss on all scores, with the lower triangle masked."""
    scores = jnp.einsum("...id,...jd->...ij", query, key)
    labels = np.zeros(scores.shape, bool)
    for position in np.ndindex(spans.shape[:-1]):
        if spans[position].min() >= 0:
            labels[(*position[:-1], *spans[position])] = True
    triangle = np.broadcast_to(np.triu(np.ones(scores.shape[-2:], bool)), labels.shape)
    return zlpr_loss(scores, jnp.array(labels), (-2, -1), jnp.array(triangle))


def test_equals_the_dense_loss_on_the_triangle(rng):
    query, key, spans = make(rng, length=37)

    @quick_jit
    def both(query, key):
        results = []
        for loss in (zlpr_span_loss, dense_loss):
            labels = spans if loss is dense_loss else jnp.array(spans)
            losses, pull = jax.vjp(lambda q, k: loss(q, k, labels), query, key)
            results.append((losses, pull(jnp.ones_like(losses))))
        return results

    assert max(errors(*both(query, key))) < 5e-6


def test_a_tile_is_at_most_all_positions(data):
    def program(block_size):
        return str(
            jax.make_jaxpr(partial(zlpr_span_loss, block_size=block_size))(*data)
        )

    assert program(L) == program(L + 1) == program(10**9) == program(None)


def test_large_scores_do_not_cancel_and_infinite_ones_are_loud(data):
    query, key, spans = (np.zeros_like(x) for x in data)
    query[..., 0, 0] = [[1e4, 1e4, -1e4], [np.inf, np.inf, -np.inf]]
    key[..., 0] = 1
    where = np.zeros((*ROWS, L), bool)
    where[..., :2] = True
    spans[..., 0, :] = [[[0, 0], [-1, -1], [0, 0]], [[0, 1], [-1, -1], [0, 0]]]
    spans[..., 1:, :] = -1
    loss, (gradient, _) = run(query, key, spans, where, block_size=1)
    inf, log2 = np.inf, np.log(2)
    exact = [[1e4, 1e4 + log2, 1e4 + log2], [inf, inf, inf]]
    np.testing.assert_allclose(loss, exact, rtol=2e-7)
    np.testing.assert_allclose(gradient[0, :, 0, 0], [1.0, 1.0, -1.0], rtol=1e-6)
    assert np.all(np.isfinite(gradient[:, :, 1:]))


def test_thousands_of_tiles_do_not_drift():
    query, key = np.full((160, 1), 0.3, np.float32), np.full((160, 1), -1, np.float32)
    spans = np.zeros((0, 2), np.int32)
    loss, (gradient, _) = run(query, key, spans, block_size=1)
    total = 160 * 161 / 2 * np.exp(-np.float64(query[0, 0]))
    np.testing.assert_allclose(loss, np.log1p(total), rtol=2e-7)
    exact = -160 / (160 * 161 / 2) * total / (1 + total)
    np.testing.assert_allclose(gradient[0], exact, rtol=1e-6)


def test_order_and_repetition_do_not_matter(data):
    query, key, spans = data
    changed = spans[:, :, [3, 0, 4, 1, 2]]
    padding = changed.min(axis=-1, keepdims=True) < 0
    changed = np.where(padding, spans[:, :, [1]], changed)
    chex.assert_trees_all_equal(run(query, key, changed), run(query, key, spans))


def test_no_spans_is_padding_only(data):
    query, key, spans = data
    loss = quick_jit(zlpr_span_loss)(query, key, spans[:, :, :0])
    exact, _ = oracle(query, key, np.full_like(spans, -1))
    np.testing.assert_allclose(loss, exact, rtol=1e-6)


@pytest.mark.parametrize(
    "span", [(0, L), (L, L), (L, 0), (5, 3), (0, 2**31 - 1), (2**31 - 1, 2**31 - 1)]
)
def test_a_wrong_label_makes_its_row_nan(data, span):
    query, key, spans = data
    expected = run(query, key, spans)
    spans[1, 2, 3] = span
    for x, y in zip(*leaves(run(query, key, spans), expected), strict=True):
        assert np.all(np.isnan(x[1, 2]))
        np.testing.assert_array_equal(x[0], y[0])
        np.testing.assert_array_equal(x[1, :2], y[1, :2])


def test_a_negative_entry_is_padding_beside_anything(data):
    query, key, spans = data
    expected = run(query, key, spans)
    spans[1, 2] = [(-1, 99), (99, -1), (-1, 0), (-(2**31), 3), (3, -1)]
    chex.assert_trees_all_equal(run(query, key, spans), expected)


def test_narrow_and_unsigned_indices():
    # Of int8, L itself does not exist; and 2^32 - 1 is not -1.
    query = key = np.cos(np.arange(260, dtype=np.float32)).reshape(2, 130, 1)
    loss = quick_jit(zlpr_span_loss)
    spans = np.array([[[3, 100], [0, -1]], [[0, 127], [-128, 0]]])
    exact, _ = oracle(query, key, spans)
    np.testing.assert_allclose(
        loss(query, key, spans.astype(np.int8)), exact, rtol=1e-6
    )
    wide = np.array([[[3, 100]], [[0, 2**32 - 1]]], np.uint32)
    one, wrong = loss(query, key, wide)
    np.testing.assert_allclose(one, exact[0], rtol=1e-6)
    assert np.isnan(wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_excluded_positions_hold_anything(data, where, bad):
    query, key, spans = data
    where[0, 0, 7:] = where[1, 1] = False
    spans[0, 0, [0, 4]] = [2, 10]  # from a position that counts to one that does not
    exact = oracle(query, key, spans, where)
    query[~where], key[~where] = bad, -bad
    # Wrong, but at an excluded position, or in a row without any.
    spans[0, 0, 4] = [10, 9]
    spans[1, 1] = 99
    result = run(query, key, spans, where)
    assert max(errors(result, exact)) < 5e-6
    assert result[0][1, 1] == 0
    assert all(np.all(np.asarray(x)[~where] == 0) for x in result[1])


def test_rows_do_not_leak(data):
    query, key, spans = data
    before = run(query, key, spans)
    query[1, 1] *= -3
    spans[1, 1] = -1
    for x, y in zip(*leaves(before, run(query, key, spans)), strict=True):
        same = np.all(x.reshape(6, -1) == y.reshape(6, -1), axis=1)
        assert same.tolist() == [True] * 4 + [False] + [True]


def test_every_row_takes_its_own_cotangent(data, where):
    weights = np.array([[0.0, 1.0, -2.0], [1e3, 1e-3, 0.5]], np.float32)
    _, plain = run(*data, where)
    _, weighted = run(*data, where, weights)
    for row in np.ndindex(ROWS):
        for x, y in zip(plain, weighted, strict=True):
            exact = weights[row] * x[row]
            np.testing.assert_allclose(y[row], exact, atol=2e-6 * abs(weights[row]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(rng, dtype):
    # 8256 spans with a weight that float16 would lose each.
    query, key = (jnp.array(rng.uniform(0.1, 0.3, (128, D)), dtype) for _ in "qk")
    spans = np.array([[3, 5], [-1, -1]])
    loss, gradients = run(query, key, spans, None, np.float32(1e-3), block_size=64)
    exact, slopes = oracle(query, key, spans)
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, exact, rtol=1e-6)
    rounding = float(jnp.finfo(dtype).eps)
    for x, y in zip(gradients, slopes, strict=True):
        assert x.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(x, np.float64), 1e-3 * y, rtol=rounding, atol=6e-8
        )


def test_transforms(data, where):
    """The gradient of a checkpoint of vmaps is that of rows; jvp is refused."""
    expected = run(*data, where)

    def loss(query, key, spans, where):
        return zlpr_span_loss(query, key, spans, where=where, block_size=4)

    @quick_jit
    @partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def step(*arrays):
        moved = (jnp.moveaxis(x, 0, 1) for x in arrays)
        losses = jax.checkpoint(jax.vmap(jax.vmap(loss), 1))(*moved)
        return losses.sum(), losses

    (_, losses), gradients = step(*data, where)
    assert max(errors((losses, gradients), expected)) < 5e-6

    row = [jnp.array(x[0, 0]) for x in (*data, where)]
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jit(lambda x: jax.jvp(lambda x: loss(x, *row[1:]), [x], [x]))(row[0])


def test_jit_is_eager(data, where):
    arrays = (*data, where, np.ones(ROWS, np.float32))
    eager = losses_and_gradients(*map(jnp.array, arrays), block_size=4)
    assert max(errors(eager, run(*data, where))) < 5e-6


@pytest.fixture
def batch(rng):
    """As `data`, and masks, with an axis for eight devices."""
    parts = [make(rng) for _ in range(8)]
    arrays = (np.stack(x) for x in zip(*parts, strict=True))
    return (*arrays, rng.random((8, *ROWS, L)) < 0.8)


def total(query, key, spans, where):
    return jnp.sum(zlpr_span_loss(query, key, spans, where=where, block_size=4))


def expected_of(batch):
    loss, gradients = zip(*(run(*one) for one in zip(*batch, strict=True)), strict=True)
    return np.array(loss).sum((1, 2)), tuple(
        map(np.array, zip(*gradients, strict=True))
    )


def test_pmap(batch):
    mapped = jax.pmap(jax.value_and_grad(total, argnums=(0, 1)))(*batch)
    assert max(errors(jax.device_get(mapped), expected_of(batch))) < 5e-6


def test_shard_map_with_a_shared_key(batch):
    query, key, spans, where = batch
    key = key[0]
    split, shared = P("data"), P()

    @quick_jit
    @partial(
        jax.shard_map,
        mesh=Mesh(np.array(jax.devices()[:8]), ("data",)),
        in_specs=(split, shared, split, split),
        out_specs=(shared, (split, shared)),
    )
    def mapped(query, key, spans, where):
        def loss(query, key):
            return jax.lax.psum(total(query[0], key, spans[0], where[0]), "data")

        return jax.value_and_grad(loss, argnums=(0, 1))(query, key)

    loss, gradients = expected_of((query, np.stack([key] * 8), spans, where))
    exact = loss.sum(), (gradients[0], gradients[1].sum(0))
    assert max(errors(jax.device_get(mapped(query, key, spans, where)), exact)) < 5e-6


def test_a_sharded_batch_stays_where_it_is():
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:8]), ("data",)), P("data"))
    arguments = [
        jax.ShapeDtypeStruct((8, 2, *shape), dtype, sharding=sharding)
        for shape, dtype in (
            ((L, D), np.float32),
            ((L, D), np.float32),
            ((K, 2), np.int32),
            ((L,), np.bool_),
            ((), np.float32),
        )
    ]
    text = compiled.lower(*arguments, block_size=4).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert collective not in text


def shapes(*rows, length):
    vectors = jax.ShapeDtypeStruct((*rows, length, 64), np.float32)
    spans = jax.ShapeDtypeStruct((*rows, 32, 2), np.int32)
    return vectors, vectors, spans, None, jax.ShapeDtypeStruct(rows, np.float32)


def test_memory_is_an_eighth_of_the_scores():
    step = compiled.lower(*shapes(4, 16, length=1024))
    scores = 4 * 16 * 1024**2 * 4
    assert step.compile().memory_analysis().temp_size_in_bytes <= scores // 8


def intermediates(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from intermediates(inner)


def test_neither_all_scores_nor_flat_indices():
    # 50 * 8192^2 is more than 2^31.
    arguments = shapes(1, 50, length=8192)
    loss, gradients = jax.eval_shape(losses_and_gradients, *arguments)
    assert loss.shape == (1, 50)
    assert [x.shape for x in gradients] == [(1, 50, 8192, 64)] * 2
    assert "8192x8192" not in jax.jit(losses_and_gradients).lower(*arguments).as_text()
    jaxpr = jax.make_jaxpr(losses_and_gradients)(*arguments)
    sizes = [x.size for x in intermediates(jaxpr.jaxpr)]
    assert len(sizes) > 50
    assert max(sizes) == 50 * 8192 * 64


def test_label_values_do_not_recompile(data):
    query, key, spans = data

    @quick_jit
    @chex.assert_max_traces(n=1)
    def step(query, key, spans):
        return zlpr_span_loss(query, key, spans, block_size=4)

    chex.clear_trace_counter()
    for labels in (spans, np.full_like(spans, -1), spans[::-1], np.zeros_like(spans)):
        step(query, key, labels)


def test_debug_nans_is_clean(data, where):
    query, key, spans = data
    query, key = 50 * query, 50 * key
    where[1, 1] = False
    with jax.debug_nans(True):
        for labels in (spans, np.full_like(spans, -1)):
            run(query, key, labels, where)
