"""ZLPR of the spans of a text, without the scores of all of them."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from zlpr_jax import _checks
from zlpr_jax.losses import _logs, _mesh, _terms

# Scores of one tile, over all rows: 4 MiB of float32.
_TILE_SCORES = 2**20

# query, key, starts and ends of distinct labelled spans (L where there is none), where.
_Arrays: TypeAlias = tuple[Array, Array, Array, Array, Array | None]


def zlpr_span_loss(
    query: Float[Array, "*rows L D"],
    key: Float[Array, "*rows L D"],
    spans: Integer[Array, "*rows K 2"],
    *,
    where: Bool[Array, "*rows L"] | None = None,
    causal: bool = True,
    block_size: int | None = None,
) -> Float[Array, "*rows"]:
    r"""ZLPR of the span scores `query @ key^T`, which are never held as a whole.

    The classes of a row are its spans: all pairs (i, j) of a start and an end. With
    $s_{ij} = q_i \cdot k_j$ and the *set* P of the labelled spans,

    $$
    L = \log\Big(1 + \sum_{(i,j) \notin P} e^{s_{ij}}\Big)
      + \log\Big(1 + \sum_{(i,j) \in P} e^{-s_{ij}}\Big),
    $$

    and the spans with a score above 0 are the prediction. For GlobalPointer `rows` is
    (batch, types).

    The scores are computed in square tiles, forward and once more backward; the memory
    beyond the gradients is that of a few tiles. With `causal`, tiles below the diagonal
    are left out.

    Scores are not scaled: divide `query` by sqrt(D) if you want that. A bias for each
    start and each end, as in Efficient GlobalPointer, is two more features: append
    `[bias_i, 1]` to `query` and `[1, bias_j]` to `key`.

    Args:
        query: the starts, floating point `[*rows, L, D]`.
        key: the ends, of the shape and dtype of `query`.
        spans: pairs (start, end) of positions in [0, L), both included, integers
            `[*rows, K, 2]`. A pair with a negative entry is padding. A repeated pair
            counts once. A pair with an entry past the last position makes its row NaN
            (the gradient too), as does one with start > end if `causal`. K may be 0.
        where: positions that count, `[*rows, L]`; a span counts if both of its
            positions do. The others may hold anything, NaN included, get a zero
            gradient, and are ignored where a label names them. A row without any is 0,
            whatever its labels; a row that is all padding is not.
        causal: whether only the spans with start <= end count.
        block_size: positions along each side of a tile; more than L is L. None chooses:
            the tiles of all rows take about 4 MiB, or an eighth of `query` if that is
            more. It cannot see rows that `jax.vmap` adds: pass them as axes instead.

    Returns:
        One loss a row, not reduced, `[*rows]`. The arithmetic and the result have the
        dtype of `query`, but at least float32; the gradients have the dtype of `query`.
        Reverse-mode differentiation only (`jax.custom_vjp`): `jvp` raises.

    Raises:
        TypeError: if `query` or `key` is not floating point or their dtypes differ,
            `spans` is not integer, `where` not boolean or `block_size` not an int.
        ValueError: if a shape is not as above, `block_size` is below 1, or an array is
            split over explicit mesh axes outside of `shard_map`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import zlpr_span_loss
        >>> query = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> key = jnp.array([[-1.0, 2.0], [3.0, -2.0], [0.0, -2.0]])
        >>> spans = jnp.array([[0, 1], [-1, -1]])  # the score 3; padding
        >>> print(zlpr_span_loss(query, key, spans, block_size=2).round(4))
        1.0688

    References:
        Su et al., "Global Pointer: Novel Efficient Span-based Approach for Named Entity
        Recognition", 2022, https://arxiv.org/abs/2208.03054

        Su, "GlobalPointer: a uniform way to do nested and flat NER" (in Chinese), 2021,
        https://kexue.fm/archives/8373

        Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022,
        https://arxiv.org/abs/2208.02955
    """
    _check(query, key, spans, where, block_size)
    _mesh.check_not_explicit(query=query, key=key, spans=spans)
    *rows, length, _ = query.shape
    if length == 0:
        return jnp.zeros(rows, _terms.compute_dtype(query.dtype))
    size = min(block_size or _default_block_size(query.shape), length)
    arrays = (query, key, spans, where)
    # Its transpose is the sum over the devices that share one array but not another.
    arrays = _mesh.cast_varying(arrays, _mesh.varying_axes(*arrays))
    return _all_rows(size, causal, *arrays)


# Under jit, as an eager call would compile its loop anew each time.
@partial(jax.jit, static_argnums=(0, 1))
def _all_rows(size: int, causal: bool, *arrays: Any) -> Float[Array, "*rows"]:
    def row(query: Array, key: Array, spans: Array, where: Array | None) -> Any:
        starts, ends, wrong = _distinct(spans, len(query), where, causal)
        return _row(size, causal, (query, key, starts, ends, where)), wrong

    # Flattened rows would lose the sharding of the batch axes.
    for _ in range(arrays[0].ndim - 2):
        row = jax.vmap(row)
    return _terms.poison(*row(*arrays))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _row(size: int, causal: bool, arrays: _Arrays) -> Float[Array, ""]:
    return _forward(size, causal, arrays)[0]


def _forward(size: int, causal: bool, arrays: _Arrays) -> tuple[Array, tuple]:
    query, key, starts, ends, _ = arrays
    dtype = _terms.compute_dtype(query.dtype)
    queries = query.at[starts].get(mode="fill", fill_value=0).astype(dtype)
    keys = key.at[ends].get(mode="fill", fill_value=0).astype(dtype)
    signed = jnp.where(starts < len(query), -jnp.sum(queries * keys, 1), -jnp.inf)
    peak = _logs.bounded(jnp.max(signed, initial=0))
    powers = jnp.exp(signed - peak)
    total = jnp.exp(-peak) + jnp.sum(powers)
    positive, weights = peak + jnp.log(total), powers / total

    def step(start: _Side, end: _Side, counted: Array, scores: Array, carry: tuple):
        peak, total, lost = carry
        scores = jnp.where(counted, scores, -jnp.inf)
        scores = scores.at[start.labels, end.labels].set(-jnp.inf, mode="drop")
        higher = jnp.maximum(peak, _logs.bounded(jnp.max(scores)))
        scale = jnp.exp(peak - higher)
        # Kahan's sum: thousands of equal parts added in sequence would drift.
        total, part = scale * total, jnp.sum(jnp.exp(scores - higher)) + scale * lost
        larger = total + part
        lost = jnp.where(jnp.isfinite(larger), part - (larger - total), 0)
        return higher, larger, lost

    zero = jnp.zeros((), dtype)  # exp(0) is the zero class
    peak, total, _ = _over_tiles(step, size, causal, arrays, (zero, zero + 1, zero))
    return positive + (peak + jnp.log(total)), (arrays, weights, peak, total)


def _backward(size: int, causal: bool, residuals: tuple, cotangent: Array) -> tuple:
    arrays, weights, peak, total = residuals

    def step(start: _Side, end: _Side, counted: Array, scores: Array, carry: tuple):
        # Not exp(scores - log-sum-exp): that one is rounded, by 5e-4 at 1e4.
        powers = jnp.exp(jnp.where(counted, scores, -jnp.inf) - peak)
        gradient = jnp.where(counted, cotangent / total * powers, 0)
        labelled = gradient.at[start.labels, end.labels]
        gradient = labelled.set(-cotangent * weights, mode="drop")
        # Not in the dtype of the vectors: float16 cannot hold 1e-8.
        queries, keys = (x.vectors.astype(gradient.dtype) for x in (start, end))
        to_query = jnp.einsum("ij,jd->id", gradient, keys)
        to_key = jnp.einsum("ij,id->jd", gradient, queries)
        return start.add(carry[0], to_query), end.add(carry[1], to_key)

    zeros = jnp.zeros(arrays[0].shape, cotangent.dtype)
    gradients = _over_tiles(step, size, causal, arrays, (zeros, zeros))
    return ((*(x.astype(arrays[0].dtype) for x in gradients), None, None, None),)


_row.defvjp(_forward, _backward)


class _Side(NamedTuple):
    """A block of positions, as starts or as ends."""

    first: Int[Array, ""]
    vectors: Float[Array, "size D"]  # 0 where masked
    counted: Bool[Array, " size"]  # unmasked, and in no earlier block
    labels: Int[Array, " K"]  # of the labelled spans; size or more if elsewhere

    def add(self, total: Float[Array, "L D"], part: Float[Array, "size D"]) -> Array:
        part = part + jax.lax.dynamic_slice_in_dim(total, self.first, len(part))
        return jax.lax.dynamic_update_slice_in_dim(total, part, self.first, 0)


def _side(vectors: Array, labels: Array, where: Array | None, block: Array, size: int):
    # The last block is moved back to end at the last position: nothing is padded.
    first = jnp.minimum(block * size, len(vectors) - size)
    vectors = jax.lax.dynamic_slice_in_dim(vectors, first, size)
    counted = first + jnp.arange(size, dtype=jnp.int32) >= block * size
    if where is not None:
        where = jax.lax.dynamic_slice_in_dim(where, first, size)
        vectors = jnp.where(where[:, None], vectors, 0)
        counted = counted & where
    # JAX wraps a negative index round, and drops only one past the end.
    labels = jnp.where(labels >= block * size, labels - first, size)
    return _Side(first, vectors, counted, labels)


def _over_tiles(
    step: Callable, size: int, causal: bool, arrays: _Arrays, carry: tuple
) -> tuple:
    """Fold `step` over the tiles; if causal, over those on and above the diagonal."""
    query, key, starts, ends, where = arrays
    dtype = _terms.compute_dtype(query.dtype)
    blocks = -(-len(query) // size)
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (size, size), a) for a in (0, 1))

    def body(_: Int[Array, ""] | int, state: tuple):
        i, j, carry = state
        start = _side(query, starts, where, i, size)
        end = _side(key, ends, where, j, size)
        counted = start.counted[:, None] & end.counted[None]
        if causal:
            counted = counted & (start.first + row <= end.first + column)
        scores = jnp.einsum(
            "id,jd->ij", start.vectors, end.vectors, preferred_element_type=dtype
        )
        carry = step(start, end, counted, scores, carry)
        i = jnp.where(j + 1 == blocks, i + 1, i)
        return i, jnp.where(j + 1 < blocks, j + 1, i if causal else 0), carry

    number = blocks * (blocks + 1) // 2 if causal else blocks**2
    zero = jnp.zeros((), jnp.int32)
    carry = _mesh.cast_varying(carry, _mesh.varying_axes(*arrays))
    return jax.lax.fori_loop(0, number, body, (zero, zero, carry))[2]


def _distinct(
    spans: Integer[Array, "K 2"],
    length: int,
    where: Bool[Array, " L"] | None,
    causal: bool,
) -> tuple[Int[Array, " K"], Int[Array, " K"], Bool[Array, ""]]:
    """Starts and ends of the spans that count, each once; whether one is wrong."""
    # A narrow integer may be unable to hold the length.
    if jnp.iinfo(spans.dtype).bits < 32:
        spans = spans.astype(jnp.int32)
    named = jnp.all(spans >= 0, axis=1)
    wrong = named & jnp.any(spans >= length, axis=1)
    named = named & ~wrong
    spans = jnp.where(named[:, None], spans, length).astype(jnp.int32)
    if where is not None:
        inside = where.at[spans].get(mode="fill", fill_value=False)
        named = named & jnp.all(inside, axis=1)
        wrong = wrong & jnp.any(where)
    if causal:
        backwards = spans[:, 0] > spans[:, 1]
        wrong = wrong | (named & backwards)
        named = named & ~backwards
    spans = jnp.where(named[:, None], spans, length)
    starts, ends = jax.lax.sort((spans[:, 0], spans[:, 1]), num_keys=2)
    same = (starts == jnp.roll(starts, 1)) & (ends == jnp.roll(ends, 1))
    repeated = same & (jnp.arange(len(spans)) > 0)
    starts, ends = (jnp.where(repeated, length, x) for x in (starts, ends))
    return starts, ends, jnp.any(wrong)


def _default_block_size(shape: tuple[int, ...]) -> int:
    *rows, length, features = shape
    scores = max(_TILE_SCORES // max(math.prod(rows), 1), length * features // 8)
    blocks = -(-length // max(math.isqrt(scores), 8))
    # The same size for all, or the last block would repeat much of the one before.
    return 8 * -(-length // (8 * blocks))


def _check(
    query: Array, key: Array, spans: Array, where: Array | None, block_size: int | None
) -> None:
    _checks.check_floating("query", query)
    _checks.check_floating("key", key)
    if query.dtype != key.dtype:
        raise TypeError(
            f"key must have the dtype of query, {query.dtype}, got {key.dtype}: cast "
            "one of them, for example key.astype(query.dtype)."
        )
    if query.ndim < 2:
        remedy = "pass a vector of D features for each of L positions."
        raise ValueError(f"query must be [..., L, D], got {query.shape}: {remedy}")
    _checks.check_shape("key", key.shape, query.shape, "that of query")
    pairs = "pass pairs (start, end) of positions, with -1 for padding."
    _checks.check_integer("spans", spans, pairs)
    if spans.ndim < 2:
        raise ValueError(f"spans must be [..., K, 2], got {spans.shape}: {pairs}")
    expected = (*query.shape[:-2], spans.shape[-2], 2)
    _checks.check_shape("spans", spans.shape, expected, "the rows of query, K, 2")
    if where is not None:
        _checks.check_boolean("where", where)
        _checks.check_shape("where", where.shape, query.shape[:-1], "one a position")
    side = "pass the number of positions along each side of a tile, such as 128."
    if isinstance(block_size, bool) or not isinstance(block_size, int | None):
        raise TypeError(f"block_size must be an int, got {block_size!r}: {side}")
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}: {side}")
