"""Clipping and scaling by the root mean square of each array."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Inexact

from zlpr_jax._checks import check_interval
from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import (
    NO_PARAMS,
    Scalar,
    check_same_shape,
    map_arrays,
    scaled,
    wide_dtype,
)
from zlpr_jax.optim._factoring import Factoring, check_factoring
from zlpr_jax.optim._passes import squared_magnitude


def clip_by_block_rms(
    threshold: Scalar = 1.0, *, factoring: Factoring | None = None
) -> optax.GradientTransformationExtraArgs:
    """Scale an array of updates down where its root mean square passes a threshold.

    u <- u / max(1, RMS(u) / threshold), RMS(u) = sqrt(mean(u^2))

    Args:
        threshold: Largest root mean square left alone, above 0.
        factoring: Gives the axes with the role `"batch"`, whose slices are clipped
            independently; None takes each array as one block.

    Returns:
        An optax transformation without state.

    Raises:
        ValueError: If `threshold` is concrete and not above 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> clip = clip_by_block_rms(1.0)
        >>> grads = {"large": jnp.array([4.0, -4.0]), "small": jnp.array([0.5])}
        >>> updates, _ = clip.update(grads, clip.init(grads))
        >>> updates["large"].tolist(), updates["small"].tolist()
        ([1.0, -1.0], [0.5])

    References:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235, section 6.
    """
    check_interval("threshold", threshold, "(0, inf)", "1.0 is usual.")
    check_factoring(factoring)

    def clip(path: str, update: Array) -> Array:
        wide = update.astype(wide_dtype(path, update.dtype))
        rms = block_rms(wide, block_axes(factoring, path, update.shape))
        return scaled(update, shrink_factor(rms, threshold))

    def transform(updates: PyTree, params: PyTree) -> PyTree:
        del params
        return map_arrays(clip, updates)

    return optax.with_extra_args_support(optax.stateless(transform))


def scale_by_parameter_rms(
    min_scale: Scalar = 1e-3,
    max_scale: Scalar | None = None,
    *,
    factoring: Factoring | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiply an array of updates by the root mean square of its parameters.

    u <- u min(max(RMS(p), min_scale), max_scale), RMS(p) = sqrt(mean(p^2))

    Args:
        min_scale: Smallest factor, at least 0, so that parameters can leave 0.
        max_scale: Largest factor, above 0; None for no limit.
        factoring: Gives the axes with the role `"batch"`, whose slices are scaled
            independently; None takes each array as one block.

    Returns:
        An optax transformation without state, which needs the parameters.

    Raises:
        ValueError: If a concrete setting is outside its range, or the parameters are
            not passed to `update`.

    Examples:
        >>> import jax.numpy as jnp
        >>> scale = scale_by_parameter_rms()
        >>> params = jnp.array([3.0, -3.0])
        >>> updates, _ = scale.update(jnp.ones(2), scale.init(params), params)
        >>> updates.tolist()
        [3.0, 3.0]

    References:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235, section 8.
    """
    check_interval("min_scale", min_scale, "[0, inf)", "1e-3 is usual.")
    check_factoring(factoring)
    if max_scale is not None:
        check_interval("max_scale", max_scale, "(0, inf)", "None sets no limit.")

    def scale(path: str, update: Array, param: Array) -> Array:
        check_same_shape("parameter", path, param, "update", update)
        wide = param.astype(wide_dtype(path, param.dtype))
        rms = block_rms(wide, block_axes(factoring, path, param.shape))
        rms = jnp.maximum(rms, jnp.asarray(min_scale).astype(rms.dtype))
        if max_scale is not None:
            rms = jnp.minimum(rms, jnp.asarray(max_scale).astype(rms.dtype))
        return scaled(update, rms)

    def transform(updates: PyTree, params: PyTree) -> PyTree:
        if params is None:
            raise ValueError(NO_PARAMS)
        return map_arrays(scale, updates, params)

    return optax.with_extra_args_support(optax.stateless(transform))


def block_axes(
    factoring: Factoring | None, path: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the axes of one block: those that do not separate independent arrays."""
    batch = () if factoring is None else factoring.batch_axes(path, shape)
    return tuple(axis for axis in range(len(shape)) if axis not in batch)


def block_rms(
    array: Inexact[Array, "..."], axes: tuple[int, ...]
) -> Float[Array, "..."]:
    """Return the root mean square over `axes`, which are kept for broadcasting."""
    return jnp.sqrt(jnp.mean(squared_magnitude(array), axis=axes, keepdims=True))


def shrink_factor(rms: Float[Array, "..."], threshold: Scalar) -> Float[Array, "..."]:
    """Return min(1, threshold / RMS), which is 0 where a square has overflown."""
    return 1.0 / jnp.maximum(rms / jnp.asarray(threshold).astype(rms.dtype), 1.0)
