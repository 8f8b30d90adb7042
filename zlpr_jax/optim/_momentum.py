"""The moving average of the updates, held as bare arrays."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Inexact, Int, UInt32

from zlpr_jax._checks import check_interval
from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import (
    Scalar,
    check_same_shape,
    map_arrays,
    mirror,
    wide_dtype,
)


class MomentumState(NamedTuple):
    """State of `average_updates`.

    Attributes:
        mu: The moving averages, like the parameters.
        count: Number of steps taken, from which the random bits of stochastic
            rounding follow; None without it.
    """

    mu: PyTree
    count: Any = None


def absent(setting: Any) -> bool:
    """Whether a setting is left out: None, or the Python number 0.

    An array never is, even one that holds 0: the structure of the state must not
    depend on a value that may be traced.
    """
    return setting is None or (isinstance(setting, float | int) and setting == 0)


def average(
    old: Inexact[Array, "..."],
    new: Inexact[Array, "..."],
    share: Scalar,
    key: Array | None = None,
) -> Inexact[Array, "..."]:
    """Return (1 - share) old + share new, computed as `new` and held as `old`.

    With a `key` the result is rounded stochastically, from float32 to bfloat16.
    """
    weight = jnp.asarray(share).astype(new.dtype)
    wide = old.astype(new.dtype)
    wide = wide + weight * (new - wide)
    return wide.astype(old.dtype) if key is None else _round_at_random(wide, key)


def check_dtype(name: str, dtype: Any, stochastic: bool) -> None:
    """Raise if the setting `name` is no dtype of an average, or cannot be rounded so.

    Raises:
        TypeError: If it is not floating point.
        ValueError: If it has no stochastic rounding.
    """
    if dtype is not None and not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"{name} must be floating point, got {jnp.dtype(dtype)}: "
            "jnp.bfloat16 is the usual way to save memory."
        )
    if stochastic and (dtype is None or jnp.dtype(dtype) != jnp.bfloat16):
        raise ValueError(
            f"stochastic_rounding needs {name}=jnp.bfloat16, got {dtype}: other dtypes "
            "are rounded to the nearest number."
        )


def held_dtype(path: str, param: Any, name: str, dtype: Any) -> Any:
    """Return the dtype of the average of one array: `dtype`, or the wide one."""
    wide = wide_dtype(path, param.dtype)
    if dtype is None:
        return wide
    if jnp.issubdtype(wide, jnp.complexfloating) != jnp.issubdtype(
        dtype, jnp.complexfloating
    ):
        raise TypeError(
            f"the parameter {path!r} is {param.dtype}, and an average in {name}="
            f"{jnp.dtype(dtype)} cannot hold it: leave {name} out, or split the "
            "parameters with optax.partition."
        )
    return dtype


def rounding_key(count: Int[Array, ""], index: int) -> UInt32[Array, ""]:
    """Return what tells one array at one step from all others, the same in each run."""
    return _scrambled(count.astype(jnp.uint32) + _scrambled(jnp.uint32(index)))


def _round_at_random(
    wide: Inexact[Array, "..."], key: UInt32[Array, ""]
) -> Inexact[Array, "..."]:
    """Round to bfloat16, up or down with the probability that keeps the mean.

    bfloat16 is the upper half of float32: adding a random lower half carries into the
    upper one with the right probability.
    """
    position = jnp.zeros(wide.shape, jnp.uint32)
    for axis, size in enumerate(wide.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, wide.shape, axis)
        position = position * jnp.uint32(size) + along
    # `jax.random.bits` would take ten times as long as all the rest of the step.
    noise = _scrambled(position + key) >> 16
    bits = jax.lax.bitcast_convert_type(wide.astype(jnp.float32), jnp.uint32)
    upper = ((bits + noise) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    # The carry would make an infinity of the largest numbers, and another NaN of NaN.
    return jnp.where(jnp.isfinite(rounded), rounded, wide.astype(jnp.bfloat16))


def _scrambled(numbers: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Map integers to integers, one to one, so that neighbours look independent."""
    numbers = numbers * jnp.uint32(0x9E3779B1)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        numbers = (numbers ^ (numbers >> shift)) * jnp.uint32(factor)
    return numbers ^ (numbers >> 16)


def average_updates(
    decay: Scalar, dtype: Any = None, *, stochastic_rounding: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Replace updates by their exponential moving average, without bias correction.

    m_t = decay m_{t-1} + (1 - decay) u_t

    Held in bfloat16, which has 8 significant bits, an average stops where its changes
    fall below 1/512 of it. Rounding stochastically keeps it moving, in the mean by the
    exact amount, and is the same in every run.

    Args:
        decay: Share of the old average kept at each step, in [0, 1).
        dtype: Dtype of the average; None for float32 (float64 for 64-bit parameters).
        stochastic_rounding: Whether to round up or down at random, with the probability
            that keeps the mean, instead of to the nearest number; `dtype` has to be
            bfloat16.

    Returns:
        An optax transformation.

    Raises:
        ValueError: If `decay` is concrete and outside [0, 1), stochastic rounding is
            asked of another dtype than bfloat16, or updates have other shapes than the
            parameters that `init` saw.
        TypeError: If `dtype` is not floating point, or real for a complex parameter.

    Examples:
        >>> import jax.numpy as jnp
        >>> momentum = average_updates(0.75)
        >>> momentum.update(jnp.ones(2), momentum.init(jnp.ones(2)))[0].tolist()
        [0.25, 0.25]
    """
    check_interval("decay", decay, "[0, 1)", "0.9 is usual.")
    check_dtype("dtype", dtype, stochastic_rounding)

    def init(params: PyTree) -> MomentumState:
        def zeros(path: str, param: Any) -> Array:
            return jnp.zeros_like(param, dtype=held_dtype(path, param, "dtype", dtype))

        count = jnp.zeros((), jnp.int32) if stochastic_rounding else None
        return MomentumState(mirror(zeros, params), count)

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, MomentumState]:
        del params, extra_args
        count, indices = state.count, itertools.count()
        if stochastic_rounding:
            count = jnp.asarray(optax.safe_increment(count))

        def step(path: str, mu: Array, update: Array | None) -> Array:
            key = rounding_key(count, next(indices)) if stochastic_rounding else None
            if update is None:
                return mu
            check_same_shape("update", path, update, "average", mu)
            wide = update.astype(wide_dtype(path, update.dtype))
            return average(mu, wide, 1 - decay, key)

        mu = map_arrays(step, state.mu, updates)
        updates = map_arrays(lambda _, u, m: m.astype(u.dtype), updates, mu)
        return updates, MomentumState(mu, count)

    return optax.GradientTransformationExtraArgs(init, update)
