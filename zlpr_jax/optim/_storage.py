"""How a second moment is held: entry by entry, or as the means of its rows and columns.

Both are linear in the squared gradient, which is what lets one moving average serve
them: the average of the statistics is the statistic of the average.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class FactoredMoment(NamedTuple):
    """The second moment of one array, as its row means and its column means."""

    row: Float[Array, "..."]
    col: Float[Array, "..."]


# Each storage reads only the moments that it made itself.
@dataclass(frozen=True)
class DenseStorage:
    """One number for each entry of the parameter."""

    def zeros(self, like: Any, dtype: Any) -> Float[Array, "..."]:
        """Return the moment of a parameter that has had no gradient."""
        return jnp.zeros_like(like, dtype=dtype)

    def reduce(self, square: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return what is kept of a squared gradient: all of it."""
        return square

    def root(self, moment: Any) -> Float[Array, "..."]:
        """Return the square root of the second moment."""
        return jnp.sqrt(moment)


@dataclass(frozen=True)
class FactoredStorage:
    """Means over the column axes and over the row axes; all other axes are kept.

    The moment is rebuilt as row x col / mean(row), of all products of a row vector and
    a column vector the closest to the dense moment in I-divergence.
    """

    row_axes: tuple[int, ...]
    col_axes: tuple[int, ...]

    def zeros(self, like: Any, dtype: Any) -> FactoredMoment:
        """Return the moment of a parameter that has had no gradient."""
        shapes = jax.eval_shape(lambda x: self.reduce(x.real.astype(dtype)), like)
        return jax.tree.map(jnp.zeros_like, shapes)

    def reduce(self, square: Float[Array, "..."]) -> FactoredMoment:
        """Return the row and column means of a squared gradient."""
        return FactoredMoment(
            row=jnp.mean(square, axis=self.col_axes),
            col=jnp.mean(square, axis=self.row_axes),
        )

    def root(self, moment: Any) -> Float[Array, "..."]:
        """Return the square root of the rebuilt second moment, at full shape."""
        row = jnp.expand_dims(moment.row, self.col_axes)
        col = jnp.expand_dims(moment.col, self.row_axes)
        mean = jnp.mean(row, axis=self.row_axes, keepdims=True)
        # Dividing before multiplying, and taking each root by itself, keeps gradients
        # of 1e-12 in range: the product row x col would be 1e-48, which is 0.
        ratio = row / jnp.where(mean > 0, mean, 1.0)
        return jnp.sqrt(ratio) * jnp.sqrt(col)
