"""Positions inside of attention: rotary, and relative ones without T x T x d arrays."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Places(NamedTuple):
    """The positions of queries and of keys.

    Attributes:
        queries: `[B, T]`; `None` for 0, ..., T - 1 in every row.
        keys: `[B, S]`; `None` for 0, ..., S - 1 in every row.

    A table with a row for each position is then sliced instead of looked up, so `None`
    is worth giving where it is true.
    """

    queries: Int[Array, "B T"] | None = None
    keys: Int[Array, "B S"] | None = None


def at_least_float32(x: Float[Array, "..."]) -> np.dtype:
    """The dtype of logits and angles that come from `x`."""
    return np.promote_types(x.dtype, np.float32)


def rotate(
    x: Float[Array, "B T H d"], positions: Int[Array, "B T"] | None = None
) -> Float[Array, "B T H d"]:
    """Turn the pair (2i, 2i + 1) of each head by `position * 10000^(-2i / d)`.

    The inner product of a turned query and a turned key depends on the difference of
    their positions alone.

    Args:
        x: Queries or keys, d even.
        positions: `None` for 0, ..., T - 1.

    Returns:
        An array of the same shape and dtype; the angles are float32 at least.

    Raises:
        ValueError: If d is odd.

    Examples:
        >>> import jax.numpy as jnp
        >>> turned = rotate(jnp.array([[[[1.0, 0.0]]]]), jnp.array([[1]]))
        >>> [round(float(value), 4) for value in turned[0, 0, 0]]  # cos 1, sin 1
        [0.5403, 0.8415]

    References:
        Su et al., "RoFormer", https://arxiv.org/abs/2104.09864, equation 34.
    """
    width = x.shape[-1]
    if width % 2:
        raise ValueError(f"rotary positions need heads of an even width, got {width}.")
    dtype = at_least_float32(x)
    rates = (10000 ** (-np.arange(0, width, 2) / width)).astype(dtype)
    if positions is None:
        positions = jnp.arange(x.shape[1])[None]
    angles = positions.astype(dtype)[..., None, None] * rates[None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    pairs = x.astype(dtype).reshape(*x.shape[:-1], width // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def relative_table(distance: int, width: int) -> Float[np.ndarray, "offsets d"]:
    """Sinusoids for the offsets -distance, ..., distance: sin and cos alternate.

    The offset -distance has those of 0, as in the program that the published weights of
    NEZHA were trained with; the paper writes those of the offset itself.

    Raises:
        ValueError: If the width is odd.
    """
    if width % 2:
        raise ValueError(
            f"relative positions need heads of an even width, got {width}."
        )
    rows = np.arange(2 * distance + 1)[:, None]
    angles = rows / 10000 ** (np.arange(0, width, 2) / width)[None]
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(-1, width)


def relative_logits(
    queries: Float[Array, "B T H d"], distance: int, size: int, places: Places
) -> Float[Array, "B H T {size}"]:
    """Give `q_i a_ij` with `a_ij = A[clip(j - i, -distance, distance)]`.

    Args:
        queries: `[B, T, H, d]`.
        distance: Offsets beyond it count as it.
        size: Number of keys S.
        places: Positions. Where both are given, or neither, queries and keys are the
            same tokens and the offset is that of their order: tokens of one segment
            have consecutive positions, and others do not see each other.

    Returns:
        Unscaled logits, float32 at least.
    """
    table = relative_table(distance, queries.shape[-1]).astype(queries.dtype)
    logits = jnp.einsum(
        "bthd,od->bhto",
        queries,
        table,
        preferred_element_type=at_least_float32(queries),
    )
    if _same_tokens(places):
        return _by_order(logits, distance, size)
    offset = _offsets(places, distance, size)
    return jnp.take_along_axis(logits, offset[:, None], axis=-1)


def relative_values(
    probabilities: Float[Array, "#B H T S"], distance: int, width: int, places: Places
) -> Float[Array, "#B T H {width}"]:
    """Give `sum_j p_ij a_ij`, with `a_ij` as in `relative_logits`.

    Args:
        probabilities: `[B, H, T, S]`; B may be 1 where they are the same in all rows.
        distance: Offsets beyond it count as it.
        width: Of a head.
        places: Positions.
    """
    size = probabilities.shape[-1]
    table = relative_table(distance, width).astype(probabilities.dtype)
    if _same_tokens(places):
        # adding up by offsets is the transpose of looking up by offsets
        shape = (*probabilities.shape[:-1], len(table))
        like = jax.ShapeDtypeStruct(shape, probabilities.dtype)
        look_up = functools.partial(_by_order, distance=distance, size=size)
        (sums,) = jax.linear_transpose(look_up, like)(probabilities)
        return jnp.einsum("bhto,od->bthd", sums, table)
    looked_up = jnp.asarray(table)[_offsets(places, distance, size)]
    return jnp.einsum("bhts,btsd->bthd", probabilities, looked_up)


def _same_tokens(places: Places) -> bool:
    return (places.queries is None) == (places.keys is None)


def _offsets(places: Places, distance: int, size: int) -> Int[Array, "B T S"]:
    queries, keys = places.queries, places.keys
    assert queries is not None
    if keys is None:
        keys = jnp.arange(size, dtype=queries.dtype)[None]
    offset = keys[:, None, :] - queries[:, :, None]
    return jnp.clip(offset, -distance, distance) + distance


def _by_order(
    logits: Float[Array, "B H T offsets"], distance: int, size: int
) -> Float[Array, "B H T {size}"]:
    """Look up the offset j - i in row i, without indices."""
    return _skew(_clipped(logits, distance, size), size)


def _clipped(
    logits: Float[Array, "B H T offsets"], distance: int, size: int
) -> Float[Array, "B H T all"]:
    """From the offsets -distance, ..., distance to 1 - T, ..., S - 1."""
    length = logits.shape[2]
    most = max(distance, size - 1, length - 1)
    wide = [(0, 0)] * 3 + [(most - distance, most - distance)]
    edges = jnp.pad(logits, wide, mode="edge")
    return edges[..., most + 1 - length : most + size]


def _skew(
    logits: Float[Array, "B H T offsets"], size: int
) -> Float[Array, "B H T {size}"]:
    """Shift row i by i: entry j of row i is taken from offset j - i.

    Flattened and with one column more, every row begins one entry later.
    """
    *outer, length, width = logits.shape
    flat = jnp.pad(logits, [(0, 0)] * 3 + [(0, 1)]).reshape(*outer, -1)
    # the first row's offset 0 is at length - 1
    start = length - 1
    flat = flat[..., start : start + length * width]
    return flat.reshape(*outer, length, width)[..., :size]
