"""Mesh axes inside `shard_map` and `pmap`: sums over devices and their derivatives.

`shard_map` tracks, in the type of an array, over which mesh axes it varies, and so
derives the sums that a backward pass needs. `pmap`, and `shard_map(check_vma=False)`,
track nothing, and there the derivative of `psum` is a `psum` once more: the gradient
comes out multiplied by the number of devices. The functions below give the gradient of
the one loss that all devices compute, in both.
"""

from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from zlpr_jax._typing import AxisName, PyTree

Tree = TypeVar("Tree", bound=PyTree)


def varying_axes(*arrays: Array | None) -> frozenset[str]:
    """The mesh axes over which at least one of the arrays is known to vary."""
    axes: frozenset[str] = frozenset()
    for array in arrays:
        if array is not None:
            axes |= jax.typeof(array).manual_axis_type.varying
    return axes


def check_not_explicit(**arrays: Array | None) -> None:
    """Raise unless the layout of the arrays is left to XLA, or to `shard_map`."""
    for name, array in arrays.items():
        if array is None:
            continue
        spec = jax.typeof(array).sharding.spec
        if any(part is not None for part in spec):
            raise ValueError(
                f"{name} is split over explicit mesh axes, {spec}, which a loop over "
                "blocks does not support: call this inside jax.shard_map, or make the "
                "mesh with axis_types of jax.sharding.AxisType.Auto."
            )


def cast_varying(tree: Tree, axes: frozenset[str]) -> Tree:
    """Let every array vary over `axes`, as the carry of a scan over such data must."""

    def cast(array: Array) -> Array:
        missing = axes - varying_axes(array)
        if not missing:
            return array
        return jax.lax.pcast(array, tuple(sorted(missing)), to="varying")

    return jax.tree.map(cast, tree)


def match_cotangent(
    cotangent: Array, primal: Array, axis_name: AxisName | None = None
) -> Array:
    """Sum a cotangent over the axes that its primal is replicated over.

    Args:
        cotangent: of one device.
        primal: what it belongs to.
        axis_name: axes over which `primal` is replicated, in case nothing is tracked.
    """
    surplus = varying_axes(cotangent) - varying_axes(primal)
    if axis_name is not None and not is_tracked(cotangent, axis_name):
        surplus |= _names(axis_name)
    if surplus:
        cotangent = jax.lax.psum(cotangent, tuple(sorted(surplus)))
    return cast_varying(cotangent, varying_axes(primal))


def is_tracked(value: Array, axis_name: AxisName) -> bool:
    """Whether `value` is known to vary over one of the axes."""
    return bool(varying_axes(value) & _names(axis_name))


def any_over(value: Array, axis_name: AxisName | None) -> Array:
    """Whether a boolean is true on any device."""
    if axis_name is None:
        return value
    return jax.lax.pmax(value.astype(jnp.int32), axis_name) > 0


def replicate(value: Array, axis_name: AxisName | None, beside: Array) -> Array:
    """`value`, the same on all devices, where it meets `beside`, which differs.

    The cotangents of all devices add up.
    """
    if axis_name is None or is_tracked(beside, axis_name):
        return value
    return _untracked_copy(value, axis_name)


def side_by_side(value: Array, axis_name: AxisName) -> Array:
    """The `[N, k]` of all devices in their order, `[N, devices * k]` on each of them.

    By a sum, not by a gather, whose result would count as different on each device.
    """
    rows, width = value.shape
    places = jnp.zeros((rows, width * jax.lax.axis_size(axis_name)), value.dtype)
    places = cast_varying(places, varying_axes(value))
    column = jax.lax.axis_index(axis_name) * width
    places = jax.lax.dynamic_update_slice_in_dim(places, value, column, axis=1)
    return jax.lax.psum(places, axis_name)


def first_class(num_classes: int, axis_name: AxisName) -> Array:
    """The global index of the first of `num_classes` classes on this device."""
    return jax.lax.axis_index(axis_name) * num_classes


def total_classes(num_classes: int, axis_name: AxisName | None) -> int:
    """The number of classes on all devices together."""
    if axis_name is None:
        return num_classes
    return num_classes * jax.lax.axis_size(axis_name)


def _names(axis_name: AxisName) -> frozenset[str]:
    return frozenset((axis_name,) if isinstance(axis_name, str) else axis_name)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _untracked_copy(value: Array, axis_name: AxisName) -> Array:
    return value


_untracked_copy.defvjp(
    lambda value, axis_name: (value, None),
    lambda axis_name, _, cotangent: (jax.lax.psum(cotangent, axis_name),),
)
