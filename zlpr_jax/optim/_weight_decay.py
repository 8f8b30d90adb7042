"""Weight decay, and the L2 penalty that AdaX adds to its gradients."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import (
    NO_PARAMS,
    ScalarOrSchedule,
    check_same_shape,
    map_arrays,
    scaled,
    wide_dtype,
)


class ScheduledWeightState(NamedTuple):
    """State of `add_parameters` with a schedule: the number of steps taken."""

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]


def add_parameters(
    weight: ScalarOrSchedule, mask: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Add the parameters to the updates: u <- u + weight p.

    Unlike `optax.add_decayed_weights`, the sum is at least float32 and any dtype of
    `weight` will do.

    Args:
        weight: A number, or a schedule of the number of steps taken.
        mask: Tree of booleans like the parameters, or a function that gives it from
            them: where to add. None adds everywhere.

    Returns:
        An optax transformation, which needs the parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> decay = add_parameters(0.5)
        >>> params = jnp.array([2.0])
        >>> decay.update(jnp.zeros(1), decay.init(params), params)[0].tolist()
        [1.0]
    """
    schedule = weight if callable(weight) else None

    def init(params: PyTree) -> Any:
        del params
        if schedule is None:
            return optax.EmptyState()
        return ScheduledWeightState(count=jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        del extra_args
        if params is None:
            raise ValueError(NO_PARAMS)
        now = weight if schedule is None else schedule(state.count)

        def add(path: str, update: Array, param: Array) -> Array:
            check_same_shape("parameter", path, param, "update", update)
            dtype = wide_dtype(path, param.dtype)
            share = scaled(param.astype(dtype), now)
            return (update.astype(dtype) + share).astype(update.dtype)

        if schedule is not None:
            count = jnp.asarray(optax.safe_increment(state.count))
            state = ScheduledWeightState(count=count)
        return map_arrays(add, updates, params), state

    whole = optax.GradientTransformationExtraArgs(init, update)
    return whole if mask is None else optax.masked(whole, mask)
