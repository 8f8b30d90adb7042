"""What estimates and radii are for samples of a Gaussian, to compare others with."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from zlpr_jax._checks import check_floating
from zlpr_jax.estimators._knn_entropy import knn_entropy


class Radius(NamedTuple):
    """Distances of samples from the origin.

    Attributes:
        mean: Their mean.
        std: Their standard deviation.
    """

    mean: Float[Array, ""] | float
    std: Float[Array, ""] | float


def gaussian_entropy_bound(variances: Float[Array, " d"]) -> Float[Array, ""]:
    """The largest joint entropy at these variances, in nats: 1/2 sum log(2 pi e v).

    It is that of independent Gaussians. An estimate may lie above it; see
    `gaussian_knn_entropy`.

    Args:
        variances: `[d]`, of each dimension, > 0.

    Raises:
        TypeError: If they are not floating point.

    Examples:
        >>> round(float(gaussian_entropy_bound(jnp.ones(16))), 2)
        22.7

    References:
        Cover and Thomas, "Elements of Information Theory", theorem 8.6.5.
    """
    check_floating("variances", variances)
    variances = variances.astype(np.promote_types(variances.dtype, np.float32))
    return (jnp.log(variances) + math.log(2 * math.pi * math.e)).sum() / 2


def gaussian_knn_entropy(
    count: int,
    dim: int,
    k: int = 1,
    *,
    key: Key[Array, ""],
    repeats: int = 16,
    metric: Literal["euclidean", "chebyshev"] = "euclidean",
    block_size: int | None = None,
) -> Float[Array, " repeats"]:
    """What `knn_entropy` estimates for independent standard Gaussians.

    The only fair comparison for an estimate of codes of zero mean and unit variance: it
    has the same bias.

    Args:
        count: Samples per estimate, the N of the estimate to compare.
        dim: Its d.
        k: Its k.
        key: Randomness.
        repeats: Estimates.
        metric: As in `knn_entropy`.
        block_size: As in `knn_entropy`.

    Returns:
        The estimates: their mean is the reference, their standard deviation the noise
        of one estimate.

    Examples:
        >>> estimates = gaussian_knn_entropy(256, 16, key=jax.random.key(0))
        >>> bound = gaussian_entropy_bound(jnp.ones(16))
        >>> round(float(estimates.mean() - bound), 1)
        0.7
    """

    def one(key: Array) -> Array:
        samples = jax.random.normal(key, (count, dim))
        return knn_entropy(samples, k, metric=metric, block_size=block_size)

    return jax.lax.map(one, jax.random.split(key, repeats))


def radius_statistics(samples: Float[Array, "N d"]) -> Radius:
    """Mean and standard deviation of the distances from the origin.

    Points that were optimised for a high estimate of entropy lie in a thin shell: their
    mean is that of `gaussian_radius`, their standard deviation a fraction of it.

    Args:
        samples: `[N, d]`.

    Examples:
        >>> z = jax.random.normal(jax.random.key(0), (4096, 16))
        >>> round(float(radius_statistics(z).std), 1), round(gaussian_radius(16).std, 1)
        (0.7, 0.7)
    """
    check_floating("samples", samples)
    samples = samples.astype(np.promote_types(samples.dtype, np.float32))
    radii = jnp.linalg.norm(samples, axis=-1)
    return Radius(radii.mean(), radii.std())


def gaussian_radius(dim: int) -> Radius:
    """The radius of standard Gaussians: a chi distribution.

    Args:
        dim: Dimensions, >= 1.

    Raises:
        ValueError: If `dim` is below 1.
    """
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}.")
    mean = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    return Radius(mean, math.sqrt(dim - mean**2))
