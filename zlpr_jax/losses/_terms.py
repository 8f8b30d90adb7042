"""The two log-sum-exps of ZLPR, each with its zero class inside.

Forward mode, reverse mode and Hessians all work through both kernels. Three choices
are common to them:

* the zero class is the `exp(-peak)` of each sum, never a concatenated column: a column
  doubles the temporary memory and, on class-sharded logits, costs collectives;
* the peak is at least 0 (the zero class) and at most the largest finite number, so
  that an infinite entry gives an infinite loss, and not `inf - inf`;
* an excluded entry is replaced *before* the arithmetic and selected away *after* it.
  One of the two is not enough: the gradient of the other would be `0 * nan`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

from zlpr_jax import _checks
from zlpr_jax.losses import _pairs


def compute_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of the arithmetic: that of the logits, but at least float32."""
    dtype = jnp.dtype(dtype)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def batch_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` without the class axes."""
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def scores_above_threshold(
    logits: Float[Array, "*shape"],
    threshold: float | int | Float[Array, "..."] | None,
    axes: tuple[int, ...],
) -> Float[Array, "*shape"]:
    """`logits - threshold` in the dtype of the arithmetic.

    With a threshold class of score `s0` the loss is that of `s - s0`, exactly, so a
    threshold needs no kernel of its own.
    """
    dtype = compute_dtype(logits.dtype)
    scores = logits.astype(dtype)
    if threshold is None:
        return scores
    if isinstance(threshold, (float, int)):
        return scores - threshold
    _checks.check_floating("threshold", threshold)
    threshold = threshold.astype(dtype)
    if threshold.ndim == 0:
        return scores - threshold
    _checks.check_shape(
        "threshold",
        threshold.shape,
        batch_shape(logits.shape, axes),
        "that of logits without the class axes; a scalar is allowed too",
    )
    return scores - jnp.expand_dims(threshold, axes)


def hard_terms(
    scores: Float[Array, "*shape"],
    positive: Bool[Array, "*shape"],
    where: Bool[Array, "*shape"] | None,
    axes: tuple[int, ...],
) -> Float[Array, "..."]:
    """`log(1 + sum_N exp(s)) + log(1 + sum_P exp(-s))`.

    Every entry belongs to one of the two sums, so one exponential an entry is enough.
    """
    negative = ~positive
    if where is not None:
        scores = jnp.where(where, scores, 0)
        positive, negative = positive & where, negative & where
    signed = jnp.where(positive, -scores, scores)
    peak_positive, peak_negative = (
        _bounded(peak) for peak in _pairs.pair_max(signed, positive, negative, axes)
    )
    peaks = jnp.where(
        positive,
        jnp.expand_dims(peak_positive, axes),
        jnp.expand_dims(peak_negative, axes),
    )
    sum_positive, sum_negative = _pairs.pair_sum(
        jnp.exp(signed - peaks), positive, negative, axes
    )
    return (peak_positive + jnp.log(jnp.exp(-peak_positive) + sum_positive)) + (
        peak_negative + jnp.log(jnp.exp(-peak_negative) + sum_negative)
    )


def soft_terms(
    scores: Float[Array, "*shape"],
    labels: Float[Array, "*shape"],
    where: Bool[Array, "*shape"] | None,
    axes: tuple[int, ...],
) -> Float[Array, "..."]:
    """`log(1 + sum (1-t) exp(s)) + log(1 + sum t exp(-s))`, for labels in [0, 1].

    The weight joins the exponent as `log t`. Multiplying instead would underflow where
    the largest score has weight zero, and `logsumexp(b=...)` has a wrong derivative
    there.
    """
    # A label that rounding took past 0 or 1 counts as 0 or 1; one further out, or NaN,
    # reaches the logarithm and makes its row NaN.
    slack = 4 * float(jnp.finfo(labels.dtype).eps)
    labels = labels.astype(scores.dtype)
    return _soft_term(scores, 1 - labels, where, axes, slack) + _soft_term(
        -scores, labels, where, axes, slack
    )


def poison(
    loss: Float[Array, "*batch"], invalid: Bool[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Make the rows with a wrong label NaN, their gradient included."""
    return loss * jnp.where(invalid, jnp.nan, 1.0).astype(loss.dtype)


def _soft_term(
    exponents: Float[Array, "*shape"],
    weights: Float[Array, "*shape"],
    where: Bool[Array, "*shape"] | None,
    axes: tuple[int, ...],
    slack: float,
) -> Float[Array, "..."]:
    """`log(1 + sum w exp(x))`."""
    # Below the smallest normal number the logarithm may be -inf (subnormals are
    # flushed) and its derivative inf.
    tiny = float(jnp.finfo(weights.dtype).tiny)
    present = ~((weights < tiny) & (weights >= -slack))
    if where is not None:
        present = present & where
    exponents = jnp.where(present, exponents, 0) + jnp.log(
        jnp.where(present, weights, 1)
    )
    # The loss does not depend on the peak, so neither does its derivative.
    candidates = jnp.where(present, jax.lax.stop_gradient(exponents), 0)
    peak = _bounded(jnp.max(candidates, axis=axes, initial=0))
    # An absent entry is exp(0 - peak) here: finite, since the peak is at least 0.
    powers = jnp.exp(exponents - jnp.expand_dims(peak, axes))
    total = jnp.sum(jnp.where(present, powers, 0), axis=axes)
    return peak + jnp.log(jnp.exp(-peak) + total)


def _bounded(peak: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """An infinite peak would give `inf - inf`; under a finite one the sum is inf."""
    return jnp.minimum(peak, float(jnp.finfo(peak.dtype).max))
