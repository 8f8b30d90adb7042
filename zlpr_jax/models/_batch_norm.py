"""Batch normalisation of the codes of an autoencoder."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from zlpr_jax._typing import AxisName

# Per step, for the running mean and variance of the codes: an average over the last 10
# batches or so. A longer one falls behind the encoder, and remembers where it began:
# 4 % of them are left after 30 steps, where with 0.99 it would be 74 %.
MOMENTUM = 0.9
# Added to the variance of the codes. It has to be small against any that the encoder
# may choose, since only the normalised codes are trained: 1e-5, the usual one, would
# make codes with standard deviation 0.01 too small by 5 %. It only keeps a dimension
# without variance finite.
EPSILON = 1e-8


class BatchNorm(nnx.Module):
    """Batch normalisation without scale and bias, over devices too.

    `nnx.BatchNorm` takes the mean of the devices' means, which is that of the batch
    only where all of them have as many real rows.
    """

    def __init__(self, width: int, axis_name: AxisName | None):
        self.axis_name = axis_name
        self.mean = nnx.BatchStat(jnp.zeros(width))
        self.var = nnx.BatchStat(jnp.ones(width))

    def __call__(
        self, x: Float[Array, "N d"], *, training: bool, where: Bool[Array, " N"] | None
    ) -> Float[Array, "N d"]:
        """Normalise, in training by the statistics of the rows of `where`."""
        mean, var = self.mean[...], self.var[...]
        if training:
            real = jnp.ones((len(x),), bool) if where is None else where
            number = self._total(real.astype(x.dtype))

            def average(rows: Array) -> Array:
                return self._total(jnp.where(real[:, None], rows, 0)) / number

            mean = average(x)
            var = average(jnp.square(x - mean[None]))
            for running, new in ((self.mean, mean), (self.var, var)):
                running[...] = MOMENTUM * running[...] + (1 - MOMENTUM) * new
        return (x - mean[None]) * jax.lax.rsqrt(var + EPSILON)[None]

    def _total(self, rows: Float[Array, "N ..."]) -> Float[Array, "..."]:
        total = rows.sum(0)
        return total if self.axis_name is None else jax.lax.psum(total, self.axis_name)
