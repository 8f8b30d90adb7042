"""Entropy of samples, as pure functions of arrays; jax only."""

from zlpr_jax.estimators._gaussian import (
    Radius,
    gaussian_entropy_bound,
    gaussian_knn_entropy,
    gaussian_radius,
    radius_statistics,
)
from zlpr_jax.estimators._knn_entropy import knn_entropy

__all__ = [
    "Radius",
    "gaussian_entropy_bound",
    "gaussian_knn_entropy",
    "gaussian_radius",
    "knn_entropy",
    "radius_statistics",
]
