"""The one transformation behind Adam, AdaFactor and AdaX: v <- v + w_t (g^2 - v)."""

import math
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Inexact, Int

from zlpr_jax._checks import check_interval
from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import (
    NO_PARAMS,
    Scalar,
    check_same_shape,
    mirror,
    path_name,
    real_dtype,
    rebox,
    scaled,
    unbox,
    wide_dtype,
)
from zlpr_jax.optim._decay import Decay, check_decay
from zlpr_jax.optim._factoring import Factoring, check_factoring
from zlpr_jax.optim._momentum import (
    absent,
    average,
    check_dtype,
    held_dtype,
    rounding_key,
)
from zlpr_jax.optim._passes import Recomputed, squared_magnitude, with_passes
from zlpr_jax.optim._rms import block_axes, block_rms, shrink_factor
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
    clip: Scalar | None = None,
    b1: Scalar = 0.0,
    mu_dtype: Any = None,
    stochastic_rounding: bool = False,
    l2: Scalar = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Divide gradients by the root of their second moment.

    g_t <- g_t + l2 p_{t-1},
    m_t = b1 m_{t-1} + (1 - b1) g_t,
    v_t = v_{t-1} + w_t (g_t^2 + eps_sq - v_{t-1}),
    u_t = m_t / (sqrt(v_t) + eps)

    The moments are float32 (float64 for 64-bit parameters) whatever the dtype of the
    gradients, and the updates have the dtype of the gradients. Where the denominator
    is 0 the update is 0. A gradient whose square would leave the range of the moment
    (in float32, |g| above 1e19 over the root of the number of entries) counts as the
    largest that stays within it; an infinite one gives NaN. With `clip`, an array whose
    update would be so large that its square is infinite gets none.

    Args:
        decay: Gives w_t: `power_decay`, `adam_decay`, `adax_decay` or `capped`.
        factoring: Which second moments to hold as row and column means; None holds
            every entry.
        eps: Added to the root of the normalised second moment; at least 0.
        eps_sq: Added to the squared gradient; at least 0.
        clip: Largest root mean square of u_t, above 0, as in `clip_by_block_rms` with
            the same `factoring`, but u_t is never stored; None leaves it free.
        b1: Decay of the first moment in [0, 1), without bias correction. The Python
            number 0 keeps no first moment.
        mu_dtype: Dtype of the first moment; None for that of the second.
        stochastic_rounding: Whether to round a bfloat16 first moment at random, as in
            `average_updates`.
        l2: Strength of the penalty added to the gradients; at least 0.

    Returns:
        An optax transformation whose state is a `SecondMomentState`.

    Raises:
        ValueError: If a concrete setting is outside its range, gradients have other
            shapes than the parameters that `init` saw, or the parameters that `l2`
            needs are not passed to `update`.
        TypeError: If `decay` has no method `weight`, or a parameter or `mu_dtype` is
            not floating point.

    Examples:
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
    check_decay(decay)
    check_factoring(factoring)
    check_interval("eps", eps, "[0, inf)", "0 leaves it out.")
    check_interval("eps_sq", eps_sq, "[0, inf)", "0 leaves it out.")
    if clip is not None:
        check_interval("clip", clip, "(0, inf)", "None leaves clipping out.")
    check_interval("b1", b1, "[0, 1)", "0 leaves the first moment out.")
    check_interval("l2", l2, "[0, inf)", "0 leaves it out.")
    check_dtype("mu_dtype", mu_dtype, stochastic_rounding)

    def storage(path: str, shape: tuple[int, ...]) -> DenseStorage | FactoredStorage:
        return DenseStorage() if factoring is None else factoring.storage(path, shape)

    def init(params: PyTree) -> SecondMomentState:
        def first(path: str, param: Any) -> Array:
            dtype = held_dtype(path, param, "mu_dtype", mu_dtype)
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
        del extra_args
        count = jnp.asarray(optax.safe_increment(state.count))
        weight = decay.weight(count)
        settings = _Settings(
            weight=weight,
            eps=None if absent(eps) else eps,
            eps_sq=None if absent(eps_sq) else eps_sq,
            clip=clip,
            share=_after(weight, 1 - b1),
            l2=None if absent(l2) else l2,
        )

        # The state decides the structure: a gradient may be boxed, or None.
        paths_and_moments, treedef = jax.tree_util.tree_flatten_with_path(
            state.nu, is_leaf=lambda node: isinstance(node, FactoredMoment)
        )
        grads = treedef.flatten_up_to(updates)
        firsts = owners = [None] * len(grads)
        if state.mu is not None:
            firsts = treedef.flatten_up_to(state.mu)
        if settings.l2 is not None:
            if params is None:
                raise ValueError(NO_PARAMS)
            owners = treedef.flatten_up_to(params)

        results = []
        for index, (entry, mu, boxed, owner) in enumerate(
            zip(paths_and_moments, firsts, grads, owners, strict=True)
        ):
            path, nu = path_name(entry[0]), entry[1]
            grad, param = unbox(boxed), unbox(owner)
            if grad is None:
                results.append((boxed, mu, nu))
                continue
            held = storage(path, grad.shape)
            _check_fits(path, grad, nu, held)
            if param is not None:
                check_same_shape("parameter", path, param, "gradient", grad)
                param = param.astype(wide_dtype(path, param.dtype))
            step, mu, nu = _step(
                grad,
                param,
                mu,
                nu,
                settings,
                rounding_key(count, index) if stochastic_rounding else None,
                storage=held,
                block=block_axes(factoring, path, grad.shape),
            )
            results.append((rebox(boxed, step), mu, nu))

        steps, firsts, seconds = zip(*results, strict=True) if results else ((),) * 3
        return treedef.unflatten(steps), SecondMomentState(
            count=count,
            mu=None if state.mu is None else treedef.unflatten(firsts),
            nu=treedef.unflatten(seconds),
        )

    return optax.GradientTransformationExtraArgs(init, update)


class _Settings(NamedTuple):
    """The numbers of one step, which all arrays share; None where one is left out."""

    weight: Float[Array, ""]
    eps: Scalar | None
    eps_sq: Scalar | None
    clip: Scalar | None
    share: Float[Array, ""]
    l2: Scalar | None


# Compiled by itself so that arrays of one shape are traced once.
@partial(jax.jit, static_argnames=("storage", "block"))
def _step(
    *arrays: Any, storage: DenseStorage | FactoredStorage, block: tuple[int, ...]
) -> tuple[Inexact[Array, "..."], Inexact[Array, "..."] | None, Moment]:
    """Return the update of one array, and its moments."""
    return with_passes(partial(_passes_of_step, storage, block), *arrays)


def _passes_of_step(
    storage: DenseStorage | FactoredStorage,
    block: tuple[int, ...],
    recomputed: Recomputed,
    grad: Inexact[Array, "..."],
    param: Inexact[Array, "..."] | None,
    mu: Inexact[Array, "..."] | None,
    nu: Moment,
    settings: _Settings,
    key: Array | None,
) -> tuple[Inexact[Array, "..."], Inexact[Array, "..."] | None, Moment]:
    dtype = jax.tree.leaves(nu)[0].dtype
    # A float16 gradient of 300 overflows when it is squared.
    wide = grad if jnp.iscomplexobj(grad) else grad.astype(dtype)
    terms = (wide, param, settings.l2)
    gradient = recomputed(_with_penalty, *terms)
    reduced = storage.reduce(lambda: squared_magnitude(gradient()))
    nu = _blend(nu, _finite(reduced, settings.eps_sq, wide.size), settings.weight)

    if mu is not None:
        mu = average(mu, _limited(gradient()), settings.share, key)
        numerator = recomputed(lambda mean: mean.astype(wide.dtype), mu)
    else:
        # Clipping takes care of a huge gradient, at less cost.
        limited = _limited if settings.clip is None else lambda same: same
        numerator = recomputed(lambda *of: limited(_with_penalty(*of)), *terms)
    divisors = recomputed(lambda same: same, storage.divisors(nu, settings.eps))

    def quotient() -> Inexact[Array, "..."]:
        return storage.divide(numerator(), divisors(), settings.eps)

    if settings.clip is None:
        return quotient().astype(grad.dtype), mu, nu
    shrink = shrink_factor(block_rms(quotient(), block), settings.clip)
    return scaled(quotient(), shrink).astype(grad.dtype), mu, nu


def _after(weight: Float[Array, ""], share: Scalar) -> Float[Array, ""]:
    """Return `share`, which XLA cannot know before it knows a weight of at most 1.

    A CPU then updates both moments of an array one after the other, the gradient being
    in its cache, and not first all first moments, which would wait for nothing.
    """
    return jnp.where(weight <= 1, jnp.asarray(share).astype(weight.dtype), weight)


def _with_penalty(
    grad: Inexact[Array, "..."],
    param: Inexact[Array, "..."] | None,
    l2: Scalar | None,
) -> Inexact[Array, "..."]:
    if l2 is None or param is None:
        return grad
    return grad + scaled(param, l2)


def _finite(reduced: Moment, eps_sq: Scalar | None, size: int) -> Moment:
    """Return statistics of which sums over all entries are finite, eps_sq added."""

    def limit(mean: Float[Array, "..."]) -> Float[Array, "..."]:
        # The mean of x^2 + eps_sq, added once a row and not once an entry.
        if eps_sq is not None:
            mean = mean + jnp.asarray(eps_sq).astype(mean.dtype)
        most = float(jnp.finfo(mean.dtype).max) / max(size, 1)
        # A comparison, since a minimum costs twice as much on a CPU. It is for NaN too:
        # the update shows it, and the moment need not be lost.
        return jnp.where(mean < most, mean, most)

    return jax.tree.map(limit, reduced)


def _limited(grad: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """Limit entries as `_finite` limits their squares; an infinity becomes NaN."""
    if jnp.iscomplexobj(grad):
        return jax.lax.complex(_limited(grad.real), _limited(grad.imag))
    limit = math.sqrt(float(jnp.finfo(grad.dtype).max) / max(grad.size, 1))
    largest = jnp.sign(grad) * limit + (grad - grad)
    return jnp.where(jnp.abs(grad) < limit, grad, largest)


def _check_fits(
    path: str, grad: Any, nu: Moment, storage: DenseStorage | FactoredStorage
) -> None:
    """Raise `ValueError` where a gradient would be broadcast against the moment."""
    made = [leaf.shape for leaf in jax.tree.leaves(nu)]
    expected = storage.shapes(grad.shape)
    if made != expected:
        raise ValueError(
            f"the gradient of {path!r} has the shape {grad.shape}, which needs second "
            f"moments of the shapes {expected}, but the state has {made}: pass "
            "gradients like the parameters that init saw, or make a new state."
        )


def _blend(old: Moment, new: Moment, weight: Float[Array, ""]) -> Moment:
    """Return old + weight (new - old), which is exact where the two are equal."""

    def blend(v: Float[Array, "..."], s: Float[Array, "..."]) -> Float[Array, "..."]:
        # A weight of 1 forgets: a large v would leave its rounding error.
        v = jnp.where(weight < 1, v, 0)
        return v + weight.astype(v.dtype) * (s - v)

    return jax.tree.map(blend, old, new)
