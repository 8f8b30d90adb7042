"""The Kozachenko-Leonenko estimate of entropy from nearest neighbours."""

import functools
import math
import operator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from zlpr_jax._checks import check_boolean, check_floating, check_shape
from zlpr_jax._typing import AxisName

# Dimensions that one fused loop over the pairs sums up: the pairs are then never held.
UNROLLED = 128
# Pairs of samples looked at together where the block size is left open.
PAIRS = 2**22

Metric = Literal["euclidean", "chebyshev"]


def knn_entropy(
    samples: Float[Array, "N d"],
    k: int = 1,
    *,
    metric: Metric = "euclidean",
    block_size: int | None = None,
    axis_name: AxisName | None = None,
    where: Bool[Array, " N"] | None = None,
) -> Float[Array, ""]:
    r"""Estimate the joint differential entropy that samples were drawn from, in nats.

    $$\hat H = \psi(N) - \psi(k) + \log V_d + \frac d N \sum_i \log \varepsilon_i$$

    where epsilon_i is the distance from sample i to its k-th nearest neighbour and V_d
    the volume of the unit ball. The gradient reaches both ends of every distance;
    which sample is whose neighbour is constant. It follows the scale exactly: H(aZ) =
    H(Z) + d log a, and the inner product of samples and gradient is d.

    The estimate is biased upwards where d is large, or where a density ends abruptly,
    and can be gamed: points that are optimised reach estimates above the entropy of any
    distribution of their moments.
    So compare with `gaussian_knn_entropy` at the same N, d and k, on samples that were
    not optimised.

    Memory is that of `block_size * N` distances at most, and time that of N^2: pairs
    are computed anew for each of the k neighbours and in no backward pass.

    Args:
        samples: `[N, d]`, floating point. Arithmetic is float32 at least.
        k: Which neighbour, in `[1, N - 1]`. A larger one has less variance, more bias.
        metric: Of the distances; the estimated quantity is the same.
        block_size: Samples whose neighbours are looked for together, >= 1. By default
            so many that there are about four million pairs.
        axis_name: Mesh axes of `jax.shard_map` or `jax.pmap` over which the samples
            are split: each device gets the entropy of them all. As for any loss of
            data-parallel training, the gradient of parameters is the mean over devices.
        where: `[N]`, which samples count; the others may be NaN.

    Returns:
        The entropy, a scalar. Samples that equal one another count with the smallest
        distance that their dtype resolves at their size, and give no gradient. Not
        finite where a sample is not; NaN if `where` leaves fewer than k + 1.

    Raises:
        TypeError: If samples are not floating point, k is no integer, or `where` is
            not boolean.
        ValueError: If a shape, k, the metric or the block size is out of range.

    Examples:
        >>> z = jax.random.normal(jax.random.key(0), (4096, 2))
        >>> round(float(knn_entropy(z)), 2), round(math.log(2 * math.pi * math.e), 2)
        (2.82, 2.84)

    References:
        Kozachenko and Leonenko, "Sample estimate of the entropy of a random vector",
        Problems of Information Transmission 23, 1987.
        Kraskov, Stoegbauer and Grassberger, "Estimating mutual information", Physical
        Review E 69, 2004, equation 20.
    """
    k = _check(samples, k, metric, block_size)
    if where is not None:
        check_boolean("where", where)
        check_shape("where", where.shape, samples.shape[:1], "one for each sample")
    samples = samples.astype(np.promote_types(samples.dtype, np.float32))
    rows, dim = samples.shape
    count = jnp.ones((rows,), bool) if where is None else where
    samples = jnp.where(count[:, None], samples, 0)

    # -- Unit scale, by a power of two, so that nothing is rounded
    largest = jnp.abs(jax.lax.stop_gradient(samples)).max()
    if axis_name is not None:
        largest = jax.lax.pmax(largest, axis_name)
    _, exponent = jnp.frexp(largest)
    exponent = jnp.clip(exponent, -125, 125)
    samples = samples * jnp.ldexp(jnp.ones((), samples.dtype), -exponent)

    # -- The neighbour of every sample of this device among those of all
    everything, everyone, first = samples, count, 0
    if axis_name is not None:
        everything = jax.lax.all_gather(samples, axis_name, tiled=True)
        everyone = jax.lax.all_gather(count, axis_name, tiled=True)
        first = jax.lax.axis_index(axis_name) * rows
    if not 1 <= k < len(everything):
        raise ValueError(
            f"k must lie in [1, {len(everything) - 1}] for {len(everything)} samples, "
            f"got {k}: give more samples, or a smaller k."
        )
    find = functools.partial(
        _neighbours,
        everything=jax.lax.stop_gradient(everything),
        everyone=everyone,
        k=k,
        metric=metric,
    )
    if block_size is None:
        block_size = max(1, PAIRS // len(everything))
    neighbour = _by_blocks(
        find, jax.lax.stop_gradient(samples), first + jnp.arange(rows), block_size
    )

    # -- Their distances
    difference = jnp.abs(samples - everything[neighbour])
    smallest = float(jnp.finfo(samples.dtype).eps)
    if metric == "euclidean":
        square = jnp.maximum(jnp.square(difference).sum(-1), smallest**2)
        logs, volume = jnp.log(square) / 2, _log_ball(dim)
    else:
        logs = jnp.log(jnp.maximum(difference.max(-1), smallest))
        volume = dim * math.log(2)
    total = jnp.where(count, logs, 0).sum()
    number = count.sum().astype(samples.dtype)
    if axis_name is not None:
        total, number = jax.lax.psum((total, number), axis_name)
    scale = exponent.astype(samples.dtype) * math.log(2)
    digamma = jax.scipy.special.digamma
    constant = digamma(number) - digamma(jnp.asarray(k, samples.dtype)) + volume
    entropy = constant + dim * (total / number + scale)
    return jnp.where(number > k, entropy, jnp.nan)


def _check(samples: Array, k: int, metric: str, block_size: int | None) -> int:
    check_floating("samples", samples)
    if samples.ndim != 2 or samples.shape[1] < 1:
        raise ValueError(
            f"samples must have the shape [N, d], got {samples.shape}: one row for "
            "each sample."
        )
    try:
        k = operator.index(k)
    except TypeError:
        raise TypeError(f"k must be an int, got {k!r}.") from None
    if metric not in ("euclidean", "chebyshev"):
        raise ValueError(f"metric must be euclidean or chebyshev, got {metric!r}.")
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be >= 1, got {block_size}.")
    return k


def _log_ball(dim: int) -> float:
    """The logarithm of the volume of the unit ball."""
    return dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)


def _by_blocks(
    find, samples: Float[Array, "N d"], index: Int[Array, " N"], block_size: int
) -> Int[Array, " N"]:
    rows = len(samples)
    blocks = -(-rows // block_size)
    if blocks == 1:
        return find(samples, index)

    # A block takes every so manyth row: where rows are split over devices, all of them
    # work on each block.
    def split(x: Array) -> Array:
        wide = [(0, blocks * block_size - rows)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, wide).reshape(block_size, blocks, *x.shape[1:]).swapaxes(0, 1)

    found = jax.lax.map(lambda block: find(*block), (split(samples), split(index)))
    return found.swapaxes(0, 1).reshape(-1)[:rows]


def _neighbours(
    samples: Float[Array, "B d"],
    index: Int[Array, " B"],
    *,
    everything: Float[Array, "N d"],
    everyone: Bool[Array, " N"],
    k: int,
    metric: Metric,
) -> Int[Array, " B"]:
    """The k-th nearest of all samples to each of a block, itself left out.

    The nearest, then the nearest of those behind it, and so on: each time distances are
    computed in the loop that takes their minimum, which is faster than to hold them and
    much faster than XLA's `top_k` on a CPU.
    """
    number = jnp.arange(len(everything), dtype=index.dtype)[None, :]
    allowed = everyone[None, :] & (number != index[:, None])

    def next_behind(_, last):
        distance, neighbour = last
        found = _distances(samples, everything, metric)
        behind = (found > distance[:, None]) | (
            (found == distance[:, None]) & (number > neighbour[:, None])
        )
        found = jnp.where(allowed & behind, found, jnp.inf)
        neighbour = jnp.argmin(found, axis=1).astype(index.dtype)
        return found.min(axis=1), neighbour

    # derived from the samples, so that inside of shard_map it varies as they do
    start = -jnp.ones_like(samples[:, 0]), -jnp.ones_like(index)
    return jax.lax.fori_loop(0, k, next_behind, start)[1]


def _distances(
    samples: Float[Array, "B d"], everything: Float[Array, "N d"], metric: Metric
) -> Float[Array, "B N"]:
    """Distances, the Euclidean ones squared.

    From differences: the usual |x|^2 - 2xy + |y|^2 loses the digits that matter here.
    """

    def add(total: Array, x: Array, y: Array) -> Array:
        difference = x[:, None] - y[None, :]
        if metric == "euclidean":
            return total + jnp.square(difference)
        return jnp.maximum(total, jnp.abs(difference))

    columns, others = samples.T, everything.T
    total = jnp.zeros_like(columns[0])[:, None] + jnp.zeros_like(others[:1])
    if len(columns) <= UNROLLED:
        for x, y in zip(columns, others, strict=True):
            total = add(total, x, y)
        return total
    return jax.lax.scan(lambda t, xy: (add(t, *xy), None), total, (columns, others))[0]
