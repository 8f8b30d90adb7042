"""The learning rate: Adafactor's relative step, and scaling by any rate."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from zlpr_jax._checks import check_interval
from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import Scalar, ScalarOrSchedule, map_arrays, scaled


def relative_step(cap: Scalar = 1e-2, warmup: Scalar | None = None) -> optax.Schedule:
    """Adafactor's schedule of step sizes, relative to the size of the parameters.

    rho_t = min(cap, 1 / sqrt(t)), or min(cap t / warmup, 1 / sqrt(t)) with a warmup

    Args:
        cap: Largest step, above 0.
        warmup: Number of steps, above 0, over which the cap rises from 0 to its value.

    Returns:
        An optax schedule: it takes the number of steps already taken, t - 1.

    Raises:
        ValueError: If a concrete setting is outside its range.

    Examples:
        >>> schedule = relative_step()
        >>> [round(float(schedule(count)), 4) for count in (0, 9_999, 39_999)]
        [0.01, 0.01, 0.005]

    References:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235, section 9.
    """
    check_interval("cap", cap, "(0, inf)", "1e-2 is usual.")
    if warmup is not None:
        check_interval("warmup", warmup, "(0, inf)", "None leaves the warmup out.")

    def schedule(count: Any) -> Float[Array, ""]:
        dtype = jnp.result_type(float)
        step = jnp.asarray(count).astype(dtype) + 1
        highest = jnp.asarray(cap).astype(dtype)
        if warmup is not None:
            rise = step / jnp.asarray(warmup).astype(dtype)
            highest = highest * jnp.minimum(rise, 1.0)
        return jnp.minimum(highest, 1.0 / jnp.sqrt(step))

    return schedule


def check_learning_rate(learning_rate: ScalarOrSchedule) -> None:
    """Raise `ValueError` if a concrete learning rate is negative."""
    if not callable(learning_rate):
        check_interval(
            "learning_rate", learning_rate, "[0, inf)", "the sign is taken care of."
        )


def scale_by_rate(
    learning_rate: ScalarOrSchedule,
) -> optax.GradientTransformation:
    """Multiply updates by the learning rate, whatever the dtype it comes in.

    `optax.scale` multiplies as is, and a float32 rate injected beside bfloat16
    parameters is an error where dtypes are promoted strictly.
    """
    if callable(learning_rate):
        return optax.scale_by_schedule(learning_rate)

    def transform(updates: PyTree, params: PyTree) -> PyTree:
        del params
        return map_arrays(lambda _, u: scaled(u, learning_rate), updates)

    return optax.stateless(transform)
