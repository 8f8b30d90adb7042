"""Walking parameter trees whose leaves may be boxed arrays, such as `nnx.Variable`."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zlpr_jax._typing import PyTree

Scalar: TypeAlias = float | int | Float[Array, ""]
"""A hyperparameter: a Python number, or an array when it is injected or traced."""


ScalarOrSchedule: TypeAlias = Scalar | Callable[..., Any]
"""A hyperparameter, or a function of the number of steps taken that gives it."""

NO_PARAMS = (
    "You are using a transformation that requires the current value of parameters, "
    "but you are not passing `params` when calling `update`."
)
"""The text that optax raises with, so that users find it where they look for it."""


def is_array_like(node: object) -> bool:
    """Whether `node` is an array, the description of one, or a box around one."""
    return hasattr(node, "shape")


def unbox(leaf: Any) -> Any:
    """Return the one array of a leaf of a parameter tree; `None` has none."""
    arrays = jax.tree.leaves(leaf)
    return arrays[0] if arrays else None


def rebox(leaf: Any, array: Array) -> Any:
    """Put `array` where the array of `leaf` was."""
    return jax.tree.map(lambda _: array, leaf)


def path_name(path: Sequence[Any]) -> str:
    """Write a path of tree keys as a "/"-joined string."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def map_arrays(function: Callable[..., Any], tree: PyTree, *others: PyTree) -> PyTree:
    """Map `function(path, array, *arrays)` over the arrays of `tree`.

    Boxes keep their place, and a leaf that is `None` stays `None`: a transformation may
    be given gradients for some of the parameters only.
    """
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: node is None or is_array_like(node)
    )
    columns = [treedef.flatten_up_to(other) for other in others]
    results = []
    for index, (path, leaf) in enumerate(paths_and_leaves):
        if leaf is None:
            results.append(None)
            continue
        rest = [unbox(column[index]) for column in columns]
        results.append(rebox(leaf, function(path_name(path), unbox(leaf), *rest)))
    return treedef.unflatten(results)


def mirror(function: Callable[..., Any], params: PyTree) -> PyTree:
    """Map `function(path, array)` over `params` into a tree of bare results.

    The boxes are dropped: a box may carry the sharding of the parameter, and a moment
    of another rank cannot inherit it.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(path_name(path), unbox(leaf)),
        params,
        is_leaf=is_array_like,
    )


def check_same_shape(what: str, path: str, array: Any, of: str, other: Any) -> None:
    """Raise `ValueError` where one array would be broadcast against another."""
    if array.shape != other.shape:
        raise ValueError(
            f"the {what} of {path!r} must have the shape {other.shape} of its {of}, "
            f"got {array.shape}: pass trees like the parameters that init saw."
        )


def real_dtype(path: str, dtype: Any) -> Any:
    """Return the dtype of a squared gradient: float32, or float64 for 64-bit leaves."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"the parameter {path!r} must be floating point, got {jnp.dtype(dtype)}: "
            "leave it out with optax.masked or optax.partition."
        )
    wide = jnp.finfo(dtype).dtype == jnp.dtype("float64")
    return jnp.dtype("float64") if wide else jnp.dtype("float32")


def wide_dtype(path: str, dtype: Any) -> Any:
    """Return the dtype in which a leaf of `dtype` is computed with."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.dtype(dtype)
    return real_dtype(path, dtype)


def scaled(array: Array, factor: Any) -> Array:
    """Return `factor * array` in the dtype of `array`, whatever that of `factor`."""
    wide = wide_dtype("", array.dtype)
    return (array.astype(wide) * jnp.asarray(factor).astype(wide)).astype(array.dtype)
