"""Two masked reductions over the same array, in one pass.

As two reductions each first writes its masked copy of the array, on a CPU at least. For
the loss and its gradient on 256 rows of 65,536 classes that was 128 MiB of temporary
memory instead of none, and 1.8 times the time.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_Sum = tuple[Array, Array]


def pair_max(
    values: Float[Array, "*shape"],
    first: Bool[Array, "*shape"],
    second: Bool[Array, "*shape"],
    axes: tuple[int, ...],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`max(0, values)` over each of two sets of entries, a constant to derivatives."""
    values = jax.lax.stop_gradient(values)
    zero = jnp.zeros((), values.dtype)
    one, two = jax.lax.reduce(
        (jnp.where(first, values, 0), jnp.where(second, values, 0)),
        (zero, zero),
        lambda x, y: (jnp.maximum(x[0], y[0]), jnp.maximum(x[1], y[1])),
        axes,
    )
    return one, two


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def pair_sum(
    values: Float[Array, "*shape"],
    first: Bool[Array, "*shape"],
    second: Bool[Array, "*shape"],
    axes: tuple[int, ...],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The sum over each of two sets of entries.

    Each partial sum carries the rounding error it has made: a reduction of several
    operands adds in sequence on a CPU, and plain float32 sums of 3 million equal
    numbers were 3 % off. The rule for derivatives is that of the two plain sums, so all
    modes and orders of differentiation work.
    """
    zero = jnp.zeros((), values.dtype)
    no_error = jnp.zeros_like(values)
    one, one_error, two, two_error = jax.lax.reduce(
        (jnp.where(first, values, 0), no_error, jnp.where(second, values, 0), no_error),
        (zero, zero, zero, zero),
        lambda x, y: _add(x[:2], y[:2]) + _add(x[2:], y[2:]),
        axes,
    )
    return _corrected(one, one_error), _corrected(two, two_error)


@pair_sum.defjvp
def _pair_sum_jvp(
    axes: tuple[int, ...], primals: tuple[Array, ...], tangents: tuple[Any, ...]
) -> tuple[_Sum, _Sum]:
    values, first, second = primals
    tangent = tangents[0]  # booleans have none: float0 placeholders
    return pair_sum(values, first, second, axes), (
        jnp.sum(jnp.where(first, tangent, 0), axis=axes),
        jnp.sum(jnp.where(second, tangent, 0), axis=axes),
    )


def _add(x: _Sum, y: _Sum) -> _Sum:
    """Add two (sum, error) pairs: Knuth's exact TwoSum of the sums."""
    total = x[0] + y[0]
    of_y = total - x[0]
    error = (x[0] - (total - of_y)) + (y[0] - of_y)
    return total, x[1] + y[1] + error


def _corrected(
    total: Float[Array, "*batch"], error: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    # The error of an infinite sum is inf - inf.
    return jnp.where(jnp.isfinite(total), total + error, total)
