"""The moving average of the updates, held as bare arrays."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Inexact

from zlpr_jax._checks import check_interval
from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import (
    Scalar,
    map_arrays,
    mirror,
    wide_dtype,
)


class MomentumState(NamedTuple):
    """State of `average_updates`: the moving averages, like the parameters."""

    mu: PyTree


def absent(setting: Any) -> bool:
    """Whether a setting is left out: None, or the Python number 0.

    An array never is, even one that holds 0: the structure of the state must not
    depend on a value that may be traced.
    """
    return setting is None or (isinstance(setting, float | int) and setting == 0)


def average(
    old: Inexact[Array, "..."], new: Inexact[Array, "..."], decay: Scalar
) -> Inexact[Array, "..."]:
    """Return decay old + (1 - decay) new, computed as `new` and held as `old`."""
    weight = jnp.asarray(1 - decay).astype(new.dtype)
    wide = old.astype(new.dtype)
    # A low-precision average is rounded here and nowhere else, so that another way of
    # rounding has one place to go.
    return (wide + weight * (new - wide)).astype(old.dtype)


def average_updates(
    decay: Scalar, dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Replace updates by their exponential moving average, without bias correction.

    m_t = decay m_{t-1} + (1 - decay) u_t

    Args:
        decay: Share of the old average kept at each step, in [0, 1).
        dtype: Dtype of the average; None for float32 (float64 for 64-bit parameters).

    Returns:
        An optax transformation.

    Raises:
        ValueError: If `decay` is concrete and outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> momentum = average_updates(0.75)
        >>> momentum.update(jnp.ones(2), momentum.init(jnp.ones(2)))[0].tolist()
        [0.25, 0.25]
    """
    check_interval("momentum", decay, "[0, 1)", "0.9 is usual.")

    def init(params: PyTree) -> MomentumState:
        def zeros(path: str, param: Any) -> Array:
            held = wide_dtype(path, param.dtype) if dtype is None else dtype
            return jnp.zeros_like(param, dtype=held)

        return MomentumState(mirror(zeros, params))

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, MomentumState]:
        del params, extra_args

        def step(path: str, mu: Array, update: Array | None) -> Array:
            if update is None:
                return mu
            return average(mu, update.astype(wide_dtype(path, update.dtype)), decay)

        mu = map_arrays(step, state.mu, updates)
        updates = map_arrays(lambda _, u, m: m.astype(u.dtype), updates, mu)
        return updates, MomentumState(mu)

    return optax.GradientTransformationExtraArgs(init, update)
