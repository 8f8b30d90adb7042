"""Flax NNX modules and the bridge to pure functions. Needs the extra `nn`."""

from zlpr_jax.nn._bridge import Functional, functionalize
from zlpr_jax.nn._sparse import SparseFeatures, sparse_linear

__all__ = ["Functional", "SparseFeatures", "functionalize", "sparse_linear"]
