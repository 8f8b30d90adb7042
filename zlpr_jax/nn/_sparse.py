"""A linear layer on rows of (index, value) pairs."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


class SparseFeatures(NamedTuple):
    """A batch of sparse rows, padded to the longest.

    Attributes:
        indices: Feature numbers, `[B, nonzeros]`; padding is 0.
        values: Their values, `[B, nonzeros]`; padding is 0, so that it adds nothing.
    """

    indices: Int[Array, "B nonzeros"]
    values: Float[Array, "B nonzeros"]


def sparse_linear(layer: nnx.Linear, rows: SparseFeatures) -> Float[Array, "B width"]:
    """Apply a linear layer to sparse rows, without ever making them dense.

    For a row with the pairs (i, v) the output is `sum v * kernel[i] + bias`: an
    embedding bag. Memory and time grow with the non-zeros, not with the features.

    Args:
        layer: A layer with a kernel `[features, width]`.
        rows: The batch; every index must be below `features`.

    Returns:
        What `layer` gives for the dense batch, `[B, width]`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        >>> rows = SparseFeatures(jnp.array([[3, 1]]), jnp.array([[2.0, 1.0]]))
        >>> dense = jnp.array([[0.0, 1.0, 0.0, 2.0]])
        >>> bool(jnp.allclose(sparse_linear(layer, rows), layer(dense), atol=1e-6))
        True
    """
    # an index outside the kernel gives NaN, as jnp.take does by default
    embeddings = jnp.take(layer.kernel[...], rows.indices, axis=0)
    output = jnp.einsum("bk,bkd->bd", rows.values, embeddings)
    return output if layer.bias is None else output + layer.bias[...][None]
