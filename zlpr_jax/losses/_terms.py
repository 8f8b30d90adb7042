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

import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

from zlpr_jax import _checks
from zlpr_jax._typing import AxisName
from zlpr_jax.losses import _logs, _mesh


def compute_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of the arithmetic: that of the logits, but at least float32."""
    dtype = jnp.dtype(dtype)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def batch_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` without the class axes."""
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def checked_threshold(
    threshold: float | int | Float[Array, "..."] | None,
    rows: tuple[int, ...],
    dtype: DTypeLike,
) -> Float[Array, "..."]:
    """The threshold as an array of `dtype`: a scalar, or one a row."""
    if threshold is None or isinstance(threshold, (float, int)):
        return jnp.asarray(threshold or 0, dtype)
    _checks.check_floating("threshold", threshold)
    if threshold.ndim:
        _checks.check_shape(
            "threshold",
            threshold.shape,
            rows,
            "that of logits without the class axes; a scalar is allowed too",
        )
    return threshold.astype(dtype)


def scores_above_threshold(
    logits: Float[Array, "*shape"],
    threshold: float | int | Float[Array, "..."] | None,
    axes: tuple[int, ...],
    axis_name: AxisName | None = None,
) -> Float[Array, "*shape"]:
    """`logits - threshold` in the dtype of the arithmetic.

    With a threshold class of score `s0` the loss is that of `s - s0`, exactly, so a
    threshold needs no kernel of its own.
    """
    scores = logits.astype(compute_dtype(logits.dtype))
    if threshold is None:
        return scores
    rows = batch_shape(logits.shape, axes)
    threshold = checked_threshold(threshold, rows, scores.dtype)
    threshold = _mesh.replicate(threshold, axis_name, scores)
    if threshold.ndim:
        threshold = jnp.expand_dims(threshold, axes)
    return scores - threshold


def hard_terms(
    scores: Float[Array, "*shape"],
    positive: Bool[Array, "*shape"],
    where: Bool[Array, "*shape"] | None,
    axes: tuple[int, ...],
    axis_name: AxisName | None = None,
) -> Float[Array, "..."]:
    """`log(1 + sum_N exp(s)) + log(1 + sum_P exp(-s))`."""
    negative = ~positive
    if where is not None:
        scores = jnp.where(where, scores, 0)
        positive, negative = positive & where, negative & where
    entries = _logs.Hard(scores, positive, negative)
    first, second = _logs.log_terms(entries, axes, axis_name)
    return first + second


def soft_terms(
    scores: Float[Array, "*shape"],
    labels: Float[Array, "*shape"],
    where: Bool[Array, "*shape"] | None,
    axes: tuple[int, ...],
    axis_name: AxisName | None = None,
) -> Float[Array, "..."]:
    """`log(1 + sum (1-t) exp(s)) + log(1 + sum t exp(-s))`, for labels in [0, 1]."""
    # A label that rounding took past 0 or 1 counts as 0 or 1; one further out, or NaN,
    # makes its row NaN.
    slack = 4 * float(jnp.finfo(labels.dtype).eps)
    labels = labels.astype(scores.dtype)
    if where is not None:
        scores, labels = jnp.where(where, scores, 0), jnp.where(where, labels, 0)
    first, second = _logs.log_terms(_logs.Soft(scores, labels, where), axes, axis_name)
    wrong = ~((labels >= -slack) & (labels <= 1 + slack))
    wrong = _mesh.any_over(jnp.any(wrong, axis=axes), axis_name)
    return poison(first + second, wrong)


def poison(
    loss: Float[Array, "*batch"], invalid: Bool[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Make the rows with a wrong label NaN, their gradient included."""
    return loss * jnp.where(invalid, jnp.nan, 1.0).astype(loss.dtype)
