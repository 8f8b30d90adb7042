"""A linear layer whose input may be rows of (index, value) pairs."""

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


class SparseLinear(nnx.Linear):
    """`nnx.Linear` that also takes `SparseFeatures`, without ever making them dense.

    For a row with the pairs (i, v) the output is `sum_i v * kernel[i] + bias`: an
    embedding bag. Memory and time grow with the non-zeros, not with the features.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = SparseLinear(4, 2, rngs=nnx.Rngs(0))
        >>> rows = SparseFeatures(jnp.array([[3, 1]]), jnp.array([[2.0, 1.0]]))
        >>> dense = jnp.array([[0.0, 1.0, 0.0, 2.0]])
        >>> bool(jnp.allclose(layer(rows), layer(dense), atol=1e-6))
        True
    """

    def __call__(
        self, inputs: Float[Array, "B features"] | SparseFeatures
    ) -> Float[Array, "B width"]:
        """Apply the layer to a dense or a sparse batch."""
        if not isinstance(inputs, SparseFeatures):
            return super().__call__(inputs)
        indices, values = inputs
        rows = jnp.take(self.kernel[...], indices, axis=0, mode="clip")
        output = jnp.einsum("bk,bkd->bd", values, rows)
        return output if self.bias is None else output + self.bias[...][None]
