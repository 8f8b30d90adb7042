"""Layer normalisation, plain and steered by a condition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float


class LayerNorm(nnx.Module):
    """Layer normalisation with float32 statistics, in the dtype of its input.

    The variance is that of the differences from the mean. Flax's default `E[x^2] -
    E[x]^2` loses the digits of tokens far from zero, and its dtype is fixed when the
    module is made.

    Args:
        width: D, of the input.
        epsilon: Added to the variance.
        rngs: Not used; for the signature of modules.
    """

    def __init__(self, width: int, *, epsilon: float = 1e-5, rngs: nnx.Rngs):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Normalise each token, and scale and shift it."""
        y = _normalized(x, self.epsilon)
        scale, bias = (a[...].astype(y.dtype) for a in (self.scale, self.bias))
        return (y * scale[None, None] + bias[None, None]).astype(x.dtype)


class ConditionalLayerNorm(nnx.Module):
    """Layer normalisation whose scale and shift depend on a condition c.

        y = (gamma + W_gamma c) (x - mean) / sqrt(variance + epsilon) + beta + W_beta c

    Both W start at zero, so that it begins as the plain layer normalisation.

    Args:
        width: D, of the input.
        condition: Width C of the condition.
        epsilon: Added to the variance.
        rngs: For initialisation.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> norm = ConditionalLayerNorm(4, 2, rngs=nnx.Rngs(0))
        >>> y = norm(jnp.array([[[1.0, 2.0, 3.0, 4.0]]]), jnp.ones((1, 2)))
        >>> [round(float(value), 2) for value in y[0, 0]]
        [-1.34, -0.45, 0.45, 1.34]

    References:
        Su, "Conditional text generation by conditional layer normalization",
        https://kexue.fm/archives/7124
    """

    def __init__(
        self, width: int, condition: int, *, epsilon: float = 1e-12, rngs: nnx.Rngs
    ):
        zeros, ones = jax.nn.initializers.zeros, jax.nn.initializers.ones
        self.epsilon = epsilon
        # gamma and beta are their biases
        self.scale = nnx.Linear(
            condition, width, kernel_init=zeros, bias_init=ones, rngs=rngs
        )
        self.shift = nnx.Linear(condition, width, kernel_init=zeros, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T D"], condition: Float[Array, "B C"]
    ) -> Float[Array, "B T D"]:
        """Normalise every token of a row by the condition of the row.

        Args:
            x: `[B, T, D]`.
            condition: `[B, C]`.

        Returns:
            `[B, T, D]`, in the dtype of `x`.
        """
        y, condition = _normalized(x, self.epsilon), condition[:, None]
        scale, shift = (f(condition).astype(y.dtype) for f in (self.scale, self.shift))
        return (y * scale + shift).astype(x.dtype)


# The backward pass computes it again: it keeps x alone, of four arrays.
@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
def _normalized(x: Float[Array, "B T D"], epsilon: float) -> Float[Array, "B T D"]:
    """Mean 0 and variance 1 for each token, float32 at least."""
    x = x.astype(np.promote_types(x.dtype, np.float32))
    difference = x - x.mean(-1, keepdims=True)
    variance = jnp.square(difference).mean(-1, keepdims=True)
    return difference * jax.lax.rsqrt(variance + epsilon)
