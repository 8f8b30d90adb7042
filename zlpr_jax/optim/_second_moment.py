"""The one transformation behind Adam, AdaFactor and AdaX: v <- v + w_t (g^2 - v)."""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Inexact, Int

from zlpr_jax._checks import check_interval
from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import (
    Scalar,
    mirror,
    path_name,
    real_dtype,
    rebox,
    squared_magnitude,
    unbox,
    wide_dtype,
)
from zlpr_jax.optim._decay import Decay
from zlpr_jax.optim._factoring import Factoring
from zlpr_jax.optim._momentum import absent, average
from zlpr_jax.optim._storage import DenseStorage, FactoredMoment, FactoredStorage

Moment: TypeAlias = Float[Array, "..."] | FactoredMoment


class SecondMomentState(NamedTuple):
    """State of `scale_by_second_moment`.

    Attributes:
        count: Number of steps taken, which stops at its largest value.
        mu: First moments, like the parameters; None without a first moment.
        nu: Second moments, normalised, like the parameters: an array, or a
            `FactoredMoment` where the parameter is factored.
    """

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    mu: PyTree
    nu: PyTree


def scale_by_second_moment(
    decay: Decay,
    *,
    factoring: Factoring | None = None,
    eps: Scalar = 0.0,
    eps_sq: Scalar = 0.0,
    b1: Scalar = 0.0,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Divide gradients by the root of their second moment.

    m_t = b1 m_{t-1} + (1 - b1) g_t,
    v_t = v_{t-1} + w_t (g_t^2 + eps_sq - v_{t-1}),
    u_t = m_t / (sqrt(v_t) + eps)

    The moments are float32 (float64 for 64-bit parameters) whatever the dtype of the
    gradients, and the updates have the dtype of the gradients. Where the denominator
    is 0 the update is 0.

    Args:
        decay: Gives w_t: `power_decay`, `adam_decay`, `adax_decay` or `capped`.
        factoring: Which second moments to hold as row and column means; None holds
            every entry.
        eps: Added to the root of the normalised second moment; at least 0.
        eps_sq: Added to the squared gradient; at least 0.
        b1: Decay of the first moment in [0, 1), without bias correction. The Python
            number 0 keeps no first moment.
        mu_dtype: Dtype of the first moment; None for that of the second.

    Returns:
        An optax transformation whose state is a `SecondMomentState`.

    Raises:
        ValueError: If a concrete setting is outside its range.
        TypeError: If `decay` has no method `weight`, or a parameter is not floating
            point.

    Example:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.optim import Factoring, power_decay
        >>> rms = scale_by_second_moment(power_decay(), factoring=Factoring(min_dim=2))
        >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
        >>> state = rms.init(params)
        >>> state.nu["kernel"].row.shape, state.nu["kernel"].col.shape
        ((2,), (3,))
        >>> updates, state = rms.update(params, state)
        >>> updates["bias"].tolist()
        [1.0, 1.0, 1.0]

    References:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235.
        Li et al., "AdaX: Adaptive Gradient Descent with Exponential Long Term Memory",
        arXiv:2004.09740.
    """
    if not isinstance(decay, Decay):
        raise TypeError(
            f"decay must have a method weight(step), got {decay!r}: "
            "build it with power_decay, adam_decay or adax_decay."
        )
    check_interval("eps", eps, "[0, inf)", "0 leaves it out.")
    check_interval("eps_sq", eps_sq, "[0, inf)", "0 leaves it out.")
    check_interval("b1", b1, "[0, 1)", "0 leaves the first moment out.")

    def storage(path: str, shape: tuple[int, ...]) -> DenseStorage | FactoredStorage:
        return DenseStorage() if factoring is None else factoring.storage(path, shape)

    def init(params: PyTree) -> SecondMomentState:
        def first(path: str, param: Any) -> Array:
            dtype = wide_dtype(path, param.dtype) if mu_dtype is None else mu_dtype
            return jnp.zeros_like(param, dtype=dtype)

        def second(path: str, param: Any) -> Moment:
            dtype = real_dtype(path, param.dtype)
            return storage(path, param.shape).zeros(param, dtype)

        return SecondMomentState(
            count=jnp.zeros((), jnp.int32),
            mu=None if absent(b1) else mirror(first, params),
            nu=mirror(second, params),
        )

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, SecondMomentState]:
        del params, extra_args
        count = jnp.asarray(optax.safe_increment(state.count))
        weight = decay.weight(count)

        # The state decides the structure: a gradient may be boxed, or None.
        paths_and_moments, treedef = jax.tree_util.tree_flatten_with_path(
            state.nu, is_leaf=lambda node: isinstance(node, FactoredMoment)
        )
        grads = treedef.flatten_up_to(updates)
        firsts = [None] * len(grads)
        if state.mu is not None:
            firsts = treedef.flatten_up_to(state.mu)

        results = []
        for (path, nu), mu, boxed in zip(paths_and_moments, firsts, grads, strict=True):
            grad = unbox(boxed)
            if grad is None:
                results.append((boxed, mu, nu))
                continue
            dtype = jax.tree.leaves(nu)[0].dtype
            held = storage(path_name(path), grad.shape)
            # A float16 gradient of 300 overflows when it is squared.
            wide = grad if jnp.iscomplexobj(grad) else grad.astype(dtype)
            square = squared_magnitude(wide) + jnp.asarray(eps_sq).astype(dtype)
            nu = _blend(nu, held.reduce(square), weight.astype(dtype))
            mu = None if mu is None else average(mu, wide, b1)
            step = _divide(
                wide if mu is None else mu.astype(wide.dtype),
                held.root(nu) + jnp.asarray(eps).astype(dtype),
            )
            results.append((rebox(boxed, step.astype(grad.dtype)), mu, nu))

        steps, firsts, seconds = zip(*results, strict=True) if results else ((),) * 3
        return treedef.unflatten(steps), SecondMomentState(
            count=count,
            mu=None if state.mu is None else treedef.unflatten(firsts),
            nu=treedef.unflatten(seconds),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _blend(old: Moment, new: Moment, weight: Float[Array, ""]) -> Moment:
    """Return old + weight (new - old), which is exact where the two are equal."""
    return jax.tree.map(lambda v, s: v + weight * (s - v), old, new)


def _divide(
    numerator: Inexact[Array, "..."], denominator: Float[Array, "..."]
) -> Inexact[Array, "..."]:
    """Divide, with 0 where the denominator is 0: no gradient has reached that entry."""
    known = denominator > 0
    quotient = numerator / jnp.where(known, denominator, 1.0).astype(numerator.dtype)
    return jnp.where(known, quotient, jnp.zeros_like(quotient))
