"""Flax NNX modules and the bridge to pure functions. Needs the extra `nn`."""

from zlpr_jax.nn._attention import (
    Attention,
    DotProductScores,
    Memory,
    Scores,
    causal_mask,
    masked_softmax,
    segment_mask,
)
from zlpr_jax.nn._bridge import Functional, functionalize
from zlpr_jax.nn._norm import ConditionalLayerNorm, LayerNorm
from zlpr_jax.nn._positions import Places, rotate
from zlpr_jax.nn._sparse import SparseFeatures, sparse_linear
from zlpr_jax.nn._synthesizers import (
    DenseScores,
    FactorizedDenseScores,
    FactorizedRandomScores,
    FixedRandomScores,
    RandomScores,
)
from zlpr_jax.nn._transformer import Block, Stack

__all__ = [
    "Attention",
    "Block",
    "ConditionalLayerNorm",
    "DenseScores",
    "DotProductScores",
    "FactorizedDenseScores",
    "FactorizedRandomScores",
    "FixedRandomScores",
    "Functional",
    "LayerNorm",
    "Memory",
    "Places",
    "RandomScores",
    "Scores",
    "SparseFeatures",
    "Stack",
    "causal_mask",
    "functionalize",
    "masked_softmax",
    "rotate",
    "segment_mask",
    "sparse_linear",
]
