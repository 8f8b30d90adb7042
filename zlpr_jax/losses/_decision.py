"""From the scores of a model trained with ZLPR to labels and probabilities."""

import jax
from jaxtyping import Array, Bool, Float

from zlpr_jax import _checks
from zlpr_jax.losses import _terms


def zlpr_predict(
    logits: Float[Array, "*shape"],
    threshold: float | int | Float[Array, "..."] = 0.0,
) -> Bool[Array, "*shape"]:
    r"""The predicted label set: the classes whose score exceeds the threshold.

    $$ \hat y_i = [s_i > s_0] $$

    With $s_0 = 0$, or the `threshold` of the loss, this is the rule the loss is trained
    for. It is not the rule "probability above one half": for labels that exclude one
    another the scores cross 0 at a smaller probability, the more classes the smaller
    (0.44 with 3 classes, 0.22 with 100).

    Args:
        logits: scores, floating point, any shape.
        threshold: a scalar, or an array with as many axes as `logits`, each of length 1
            or that of `logits`: `t[:, None]` for one a row, `t[None, :]` for one a
            class.

    Returns:
        Booleans of the shape of `logits`. A NaN score is not predicted.

    Raises:
        TypeError: if `logits` or `threshold` is not floating point.
        ValueError: if `threshold` has another shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import zlpr_predict
        >>> print(zlpr_predict(jnp.array([2.0, 0.0, -3.0])))
        [ True False False]

    References:
        Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022,
        https://arxiv.org/abs/2208.02955
    """
    _checks.check_floating("logits", logits)
    dtype = _terms.compute_dtype(logits.dtype)
    if not isinstance(threshold, (float, int)):
        _checks.check_floating("threshold", threshold)
        fits = threshold.ndim == logits.ndim and all(
            size in (1, full)
            for size, full in zip(threshold.shape, logits.shape, strict=True)
        )
        if threshold.ndim and not fits:
            raise ValueError(
                f"threshold must be a scalar, or have the {logits.ndim} axes of logits "
                f"{logits.shape}, each of length 1 or that of logits, got "
                f"{threshold.shape}: insert the missing axes, as in threshold[:, None] "
                "for one threshold a row."
            )
        threshold = threshold.astype(dtype)
    return logits.astype(dtype) > threshold


def zlpr_probabilities(
    logits: Float[Array, "*shape"],
    scale: float | int | Float[Array, ""] = 2.0,
) -> Float[Array, "*shape"]:
    r"""Probabilities from scores, to be calibrated before they are believed.

    $$ p_i = \sigma(\mathrm{scale} \cdot s_i) $$

    For *soft* labels `t` the loss of a row is smallest at
    $s = \frac12 \mathrm{logit}(t)$, so that $\sigma(2s) = t$. For *hard* labels drawn
    at random this does not hold, since the loss is not linear in the labels: with
    independent labels of probability 0.3 the best constant score gives $\sigma(2s)$ =
    0.155, 0.276 and 0.300 for 1, 20 and 1000 classes (and $\sigma(s)$ = 0.300, 0.382,
    0.395); with 1000 classes of probability 0.002 it gives 0.00004. For probabilities,
    fit `scale` (temperature) on held-out data. For labels, use `zlpr_predict`.

    Args:
        logits: scores, floating point, any shape.
        scale: inverse temperature, a scalar above 0.

    Returns:
        Values in [0, 1] of the shape of `logits`, in its dtype but at least float32.

    Raises:
        TypeError: if `logits` or `scale` is not floating point.
        ValueError: if `scale` is not a scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import zlpr_probabilities
        >>> print(zlpr_probabilities(jnp.array([0.0, 1.0, -jnp.inf])) > 0.7)
        [False True False]

    References:
        Su, "Multi-label cross entropy with soft labels" (in Chinese), 2022,
        https://kexue.fm/archives/9064
    """
    _checks.check_floating("logits", logits)
    dtype = _terms.compute_dtype(logits.dtype)
    if not isinstance(scale, (float, int)):
        _checks.check_floating("scale", scale)
        _checks.check_shape("scale", scale.shape, (), "a scalar")
        scale = scale.astype(dtype)
    return jax.nn.sigmoid(scale * logits.astype(dtype))
