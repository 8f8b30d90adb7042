"""Flax NNX modules and the bridge to pure functions. Needs the extra `nn`."""

from zlpr_jax.nn._bridge import Functional, functionalize
from zlpr_jax.nn._sparse import SparseFeatures, SparseLinear

__all__ = ["Functional", "SparseFeatures", "SparseLinear", "functionalize"]
