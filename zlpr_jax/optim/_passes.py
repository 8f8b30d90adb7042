"""Reading an array several times without storing what the readings have in common.

A step of AdaFactor needs the squared gradients twice and the update twice. A CPU should
compute them anew each time, but XLA recognises the common part and stores it: half as
many bytes again. Other devices join the readings, and are left alone.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

Recomputed: TypeAlias = Callable[..., Callable[[], Any]]
"""Makes of a function and its arrays one that computes it anew at each call."""


def with_passes(program: Callable[..., Any], *arrays: Any) -> Any:
    """Return `program(recomputed, *arrays)`, with what this device takes for that.

    `recomputed(function, *arrays)` is a function of nothing that computes
    `function(*arrays)` once more at each call. Scalars belong into the arrays too: XLA
    would store one broadcast of them for all calls.
    """
    # One decision for all passes: each costs time to compile.
    return jax.lax.platform_dependent(
        *arrays,
        cpu=lambda *given: program(_apart, *given),
        default=lambda *given: program(_together, *given),
    )


def _apart(function: Callable[..., Any], *arrays: Any) -> Callable[[], Any]:
    last = arrays

    def compute() -> Any:
        nonlocal last
        # Array by array: in `shard_map` they may vary over different axes.
        last = jax.tree.map(jax.lax.optimization_barrier, last)
        return function(*last)

    return compute


def _together(function: Callable[..., Any], *arrays: Any) -> Callable[[], Any]:
    return lambda: function(*arrays)


def squared_magnitude(array: Inexact[Array, "..."]) -> Float[Array, "..."]:
    """Return |x|^2, real for complex `array` too."""
    if jnp.iscomplexobj(array):
        return jnp.square(array.real) + jnp.square(array.imag)
    return jnp.square(array)
