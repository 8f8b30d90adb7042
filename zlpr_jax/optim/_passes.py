"""Reading an array several times without storing what the readings have in common.

A step of AdaFactor needs the squared gradients twice and the update twice. A CPU should
compute them anew each time, but XLA recognises the common part and stores it: half as
many bytes again. Other devices join the readings, and are left alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact


def recomputed(function: Callable[..., Any], *arrays: Any) -> Callable[[], Any]:
    """Return a function that gives `function(*arrays)`, computed anew at each call.

    Scalars belong into `arrays` too: XLA would store one broadcast of them for all.
    """
    last = arrays

    def compute() -> Any:
        nonlocal last
        last = _apart(last)
        return function(*last)

    return compute


def squared_magnitude(array: Inexact[Array, "..."]) -> Float[Array, "..."]:
    """Return |x|^2, real for complex `array` too."""
    if jnp.iscomplexobj(array):
        return jnp.square(array.real) + jnp.square(array.imag)
    return jnp.square(array)


def _apart(arrays: Any) -> Any:
    return jax.lax.platform_dependent(
        arrays, cpu=jax.lax.optimization_barrier, default=lambda same: same
    )
