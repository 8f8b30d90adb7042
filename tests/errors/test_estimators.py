"""The messages of the estimators."""

import jax
import jax.numpy as jnp
import pytest

from zlpr_jax import estimators

Z = jnp.zeros((5, 2))


@pytest.mark.parametrize(
    ("error", "samples", "options", "message"),
    [
        (TypeError, jnp.zeros((5, 2), int), {}, "samples must be floating.*got int32"),
        (ValueError, Z[0], {}, r"samples must have the shape \[N, d\], got \(2,\)"),
        (ValueError, Z[:, :0], {}, r"got \(5, 0\): one row for each sample"),
        (TypeError, Z, {"k": 1.5}, r"k must be an int, got 1\.5"),
        (ValueError, Z, {"k": 0}, r"k must lie in \[1, 4\] for 5 samples, got 0"),
        (ValueError, Z, {"k": 5}, "got 5: give more samples, or a smaller k"),
        (ValueError, Z, {"metric": "cosine"}, "euclidean or chebyshev, got 'cosine'"),
        (ValueError, Z, {"block_size": 0}, "block_size must be >= 1, got 0"),
        (TypeError, Z, {"where": Z[:, 0]}, "where must be boolean, got float32"),
        (ValueError, Z, {"where": Z[:3, 0] == 0}, r"where must have the shape \(5,\)"),
    ],
)
def test_knn_entropy(error, samples, options, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda z: estimators.knn_entropy(z, **options), samples)


def test_gaussians():
    with pytest.raises(TypeError, match="variances must be floating point, got int32"):
        estimators.gaussian_entropy_bound(jnp.ones(3, int))
    with pytest.raises(TypeError, match="samples must be floating point, got int32"):
        estimators.radius_statistics(jnp.ones((3, 2), int))
    with pytest.raises(ValueError, match="dim must be >= 1, got 0"):
        estimators.gaussian_radius(0)
