"""Checks of static facts, raised at trace time: expected, received, what to do."""

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.core import Tracer


def is_concrete(value: object) -> bool:
    """Whether `value` is known now, so that its range can be checked."""
    return not isinstance(value, Tracer)


def check_floating(name: str, array: jax.Array) -> None:
    """Raise `TypeError` unless `array` holds real floating-point numbers."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point, got {array.dtype}: "
            f"convert with {name}.astype(jnp.float32)."
        )


def check_shape(
    name: str, shape: Sequence[int], expected: Sequence[int], of: str
) -> None:
    """Raise `ValueError` unless `shape` equals `expected`, the shape of `of`."""
    if tuple(shape) != tuple(expected):
        raise ValueError(
            f"{name} must have the shape {tuple(expected)} ({of}), got {tuple(shape)}: "
            "nothing is broadcast silently; use jnp.broadcast_to if that is meant."
        )


def check_integer(name: str, array: jax.Array, remedy: str) -> None:
    """Raise `TypeError` unless `array` holds integers (booleans are not integers)."""
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {array.dtype}: {remedy}")


def check_boolean(name: str, array: jax.Array) -> None:
    """Raise `TypeError` unless `array` is boolean."""
    if array.dtype != jnp.bool_:
        raise TypeError(
            f"{name} must be boolean, got {array.dtype}: compare first, "
            f"for example {name} == 1."
        )


def canonical_axes(axis: int | Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """The axes that `axis` names in `shape`, non-negative and in increasing order.

    Raises:
        TypeError: if an axis is not an integer.
        ValueError: if there is none, one is out of range, or one is named twice.
    """
    named = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if not named:
        raise ValueError(
            "axis must name at least one axis, got (): pass axis=-1 for the last."
        )
    ndim, axes = len(shape), []
    for one in named:
        try:
            index = operator.index(one)
        except TypeError:
            raise TypeError(
                f"axis must be an int or a sequence of ints, got {axis!r}: "
                "pass axis=-1 for the last axis."
            ) from None
        if not -ndim <= index < ndim:
            raise ValueError(
                f"axis must lie in [{-ndim}, {ndim}) for the shape {tuple(shape)}, "
                f"got {index}: name an axis of that array."
            )
        axes.append(index % ndim)
    if len(set(axes)) != len(axes):
        raise ValueError(
            f"axis must name each axis once, got {tuple(named)} for the shape "
            f"{tuple(shape)}: remove the repeated one."
        )
    return tuple(sorted(axes))


def check_interval(name: str, value: object, interval: str, hint: str) -> None:
    """Raise unless the number `value` lies in `interval`, such as `"(0, 1]"`.

    A traced value cannot be looked at, and passes.
    """
    if not is_concrete(value):
        return
    try:
        if isinstance(value, str):  # float() would read it
            raise TypeError
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a number in {interval}, got {value!r}: {hint}"
        ) from None
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(f"{name} must lie in {interval}, got {number:g}: {hint}")
