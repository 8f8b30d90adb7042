"""How a second moment is held: entry by entry, or as the means of its rows and columns.

Both are linear in the squared gradient, which is what lets one moving average serve
them: the average of the statistics is the statistic of the average.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Inexact

from zlpr_jax._checks import is_concrete
from zlpr_jax.optim._arrays import Scalar


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

    def shapes(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the shapes of the moment of a parameter."""
        return [shape]

    def reduce(self, square: Callable[[], Array]) -> Float[Array, "..."]:
        """Return what is kept of the array that `square` gives: all of it."""
        return square()

    def divisors(self, moment: Any, eps: Scalar | None) -> Float[Array, "..."]:
        """Return what `divide` needs of the moment."""
        del eps
        return moment

    def divide(
        self, numerator: Inexact[Array, "..."], divisors: Any, eps: Scalar | None
    ) -> Inexact[Array, "..."]:
        """Return numerator / (sqrt(moment) + eps); None is an eps of exactly 0."""
        return _quotient(numerator, jnp.sqrt(divisors), eps)


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
        held = getattr(like, "sharding", None)
        if (
            is_concrete(like)
            and isinstance(held, NamedSharding)
            and isinstance(held.mesh, Mesh)
        ):
            # Outside of `jit` the moments would land on one device.
            entries = (*held.spec, *[None] * (like.ndim - len(held.spec)))
            moments = (
                jnp.zeros(shape, dtype, device=NamedSharding(held.mesh, P(*spec)))
                for shape, spec in zip(
                    self.shapes(like.shape), self.shapes(entries), strict=True
                )
            )
            return FactoredMoment(*moments)
        shapes = jax.eval_shape(
            lambda x: self.reduce(lambda: x.real.astype(dtype)), like
        )
        return jax.tree.map(jnp.zeros_like, shapes)

    def shapes(self, shape: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Return what rows and columns keep of a parameter's shape, or of its spec."""
        return [
            tuple(size for axis, size in enumerate(shape) if axis not in averaged)
            for averaged in (self.col_axes, self.row_axes)
        ]

    def reduce(self, square: Callable[[], Array]) -> FactoredMoment:
        """Return the row and column means of the array that `square` gives."""
        return FactoredMoment(
            row=jnp.mean(square(), axis=self.col_axes),
            col=jnp.mean(square(), axis=self.row_axes),
        )

    def divisors(self, moment: Any, eps: Scalar | None) -> FactoredMoment:
        """Return the roots of rows and columns, inverted where no eps joins them."""
        row = jnp.expand_dims(moment.row, self.col_axes)
        col = jnp.expand_dims(moment.col, self.row_axes)
        mean = jnp.mean(row, axis=self.row_axes, keepdims=True)
        # Dividing before multiplying, and taking each root by itself, keeps gradients
        # of 1e-12 in range: the product row x col would be 1e-48, which is 0.
        roots = jnp.sqrt(row / jnp.where(mean > 0, mean, 1.0)), jnp.sqrt(col)
        if eps is None:
            roots = (_quotient(jnp.ones_like(root), root, None) for root in roots)
        return FactoredMoment(*roots)

    def divide(
        self, numerator: Inexact[Array, "..."], divisors: Any, eps: Scalar | None
    ) -> Inexact[Array, "..."]:
        """Return numerator / (sqrt(moment) + eps); None is an eps of exactly 0."""
        row, col = divisors
        if eps is not None:
            return _quotient(numerator, row * col, eps)
        # Rows first: a gradient over the root of its row's mean is never large.
        dtype = numerator.dtype
        return numerator * row.astype(dtype) * col.astype(dtype)


def _quotient(
    numerator: Inexact[Array, "..."], root: Float[Array, "..."], eps: Scalar | None
) -> Inexact[Array, "..."]:
    """Divide, with 0 where the denominator is 0: no gradient has reached that entry."""
    if eps is not None:
        root = root + jnp.asarray(eps).astype(root.dtype)
    known = root > 0
    quotient = numerator / jnp.where(known, root, 1.0).astype(numerator.dtype)
    return jnp.where(known, quotient, jnp.zeros_like(quotient))
