"""Two reductions over arrays of one shape, in one pass on a CPU.

As two reductions each first writes its operand there. For the loss and its gradient on
256 rows of 65,536 classes that was 128 MiB of temporary memory instead of none, and
took longer. Other devices fuse two plain sums by themselves.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LANES = 16


def pair_max(
    first: Float[Array, "*shape"], second: Float[Array, "*shape"], axes: tuple[int, ...]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`max(0, values)` of each array."""
    zero = jnp.zeros((), first.dtype)
    one, two = jax.lax.reduce((first, second), (zero, zero), _max_of_each, axes)
    return one, two


def pair_sum(
    first: Float[Array, "*shape"], second: Float[Array, "*shape"], axes: tuple[int, ...]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The sum of each array, of numbers >= 0, accurate for millions of them.

    A reduction of several operands adds in sequence on a CPU: plain float32 sums of 3
    million equal numbers, such as untrained scores are, were 3 % off. So every sum
    carries what its last rounding lost (Kahan).
    """
    zero = jnp.zeros((), first.dtype)
    none = jnp.zeros_like(first)
    operands = (first, none, second, none)
    one, _, two, _ = jax.lax.reduce(operands, (zero,) * 4, _add_each_exactly, axes)
    return one, two


def lane_sum(
    first: Float[Array, "*rows size"], second: Float[Array, "*rows size"]
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    """The sum of each array over the last axis, a multiple of `LANES` long.

    Six times as fast as `pair_sum` on a CPU: additions that do not wait for each other
    become vector instructions, and with them the exponentials before. As accurate,
    since only `LANES` numbers are added in sequence; a plain sum, which adds in a tree,
    does the rest.
    """
    lanes = tuple(
        array.reshape(*array.shape[:-1], array.shape[-1] // LANES, LANES)
        for array in (first, second)
    )
    zero = jnp.zeros((), first.dtype)
    one, two = jax.lax.reduce(lanes, (zero, zero), _add_each, (first.ndim,))
    return jnp.sum(one, axis=-1), jnp.sum(two, axis=-1)


# Named functions: with a lambda each call outside jit would compile its reduction anew.


def _max_of_each(x: tuple[Array, ...], y: tuple[Array, ...]) -> tuple[Array, ...]:
    return jnp.maximum(x[0], y[0]), jnp.maximum(x[1], y[1])


def _add_each(x: tuple[Array, ...], y: tuple[Array, ...]) -> tuple[Array, ...]:
    return x[0] + y[0], x[1] + y[1]


def _add_each_exactly(x: tuple[Array, ...], y: tuple[Array, ...]) -> tuple[Array, ...]:
    return _add_exactly(*x[:2], *y[:2]) + _add_exactly(*x[2:], *y[2:])


def _add_exactly(total: Array, lost: Array, value: Array, value_lost: Array):
    value = value + (lost + value_lost)
    higher = total + value
    # The loss of an infinite sum would be inf - inf.
    lost = jnp.where(jnp.isfinite(higher), value - (higher - total), 0)
    return higher, lost
