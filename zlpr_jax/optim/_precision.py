"""Running a chain of transformations in float32 on half-precision gradients."""

from typing import Any

import optax
from jaxtyping import Array

from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import map_arrays, wide_dtype


def in_full_precision(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Run `inner` in at least float32, and return updates in the parameters' dtype.

    Without it each link of a chain would round to bfloat16, and a float32 momentum
    would turn the updates of bfloat16 parameters into float32.

    Args:
        inner: The transformation, usually an `optax.chain`.

    Returns:
        A transformation with the state of `inner`. Where `update` gets no parameters
        the updates have the dtype of the gradients.
    """
    chain = optax.with_extra_args_support(inner)

    def widen(path: str, array: Array) -> Array:
        return array.astype(wide_dtype(path, array.dtype))

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        like = updates if params is None else params
        wide = None if params is None else map_arrays(widen, params)
        results, state = chain.update(
            map_arrays(widen, updates), state, wide, **extra_args
        )
        results = map_arrays(lambda _, u, p: u.astype(p.dtype), results, like)
        return results, state

    return optax.GradientTransformationExtraArgs(chain.init, update)
