"""Label smoothing and the floor that it puts under the loss."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from zlpr_jax import _checks
from zlpr_jax._typing import Axis
from zlpr_jax.losses import _terms


def zlpr_entropy(
    labels: Float[Array, "*shape"],
    axis: Axis = -1,
    where: Bool[Array, "*shape"] | None = None,
) -> Float[Array, "..."]:
    r"""The smallest value of `zlpr_loss` over the logits, for these soft labels.

    $$ H(t) = \min_s L(s; t) = 2 \log\Big(1 + \sum_i \sqrt{t_i (1 - t_i)}\Big) $$

    reached at $s_i = \frac12 \mathrm{logit}(t_i)$. It is 0 for hard labels. Subtract
    its mean from a training loss with soft labels to see how far there is to go.

    Towards 0 and 1 the slope of the root has no limit. At exactly 0 and 1 the gradient
    is 0, so that hard entries among soft ones do no harm.

    Args:
        labels: soft labels in [0, 1], floating point, any shape that has the class
            axes. A row with a value outside (beyond rounding) is NaN.
        axis: the class axis, or several.
        where: entries that count, of the shape of `labels`; the others may hold
            anything, NaN included, and get a zero gradient. A row without any is 0.

    Returns:
        One value a row, the shape of `labels` without the class axes, in its dtype but
        at least float32; the gradient has the dtype of `labels`.

    Raises:
        TypeError: if `labels` is not floating point, `where` is not boolean or `axis`
            is not integer.
        ValueError: if `where` has another shape, or `axis` is out of range or repeated.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import zlpr_entropy
        >>> print(zlpr_entropy(jnp.array([[0.5, 0.1, 0.9], [1.0, 0.0, 0.0]])).round(4))
        [1.4839 0.    ]

    References:
        Su, "Multi-label cross entropy with soft labels" (in Chinese), 2022,
        https://kexue.fm/archives/9064
    """
    _checks.check_floating("labels", labels)
    axes = _checks.canonical_axes(axis, labels.shape)
    # The same slack as in zlpr_loss.
    slack = 4 * float(jnp.finfo(labels.dtype).eps)
    t = labels.astype(_terms.compute_dtype(labels.dtype))
    wrong = ~((t >= -slack) & (t <= 1 + slack))
    tiny = float(jnp.finfo(t.dtype).tiny)
    soft = (t >= tiny) & (1 - t >= tiny)
    if where is not None:
        _checks.check_boolean("where", where)
        _checks.check_shape("where", where.shape, labels.shape, "that of labels")
        wrong, soft = wrong & where, soft & where
    t = jnp.where(soft, t, 0.5)
    roots = jnp.where(soft, jnp.sqrt(t * (1 - t)), 0)
    entropy = 2 * jnp.log1p(jnp.sum(roots, axis=axes))
    return _terms.poison(entropy, jnp.any(wrong, axis=axes))


def smooth_multi_hot(
    labels: Bool[Array, "*shape"] | Integer[Array, "*shape"],
    positive: float | int,
    negative: float | int = 0.0,
) -> Float[Array, "*shape"]:
    r"""Soft labels from hard ones: 1 becomes `1 - positive`, and 0 `negative`.

    $$ t_i = (1 - \epsilon_+)\, y_i + \epsilon_- (1 - y_i) $$

    Smoothing puts a floor under the loss (`zlpr_entropy`) that grows with the number of
    classes C, since every negative adds $\sqrt{\epsilon_- (1 - \epsilon_-)}$ to the
    sum. For both rates at 0.1:

    | C     | 10   | 100  | 1,000 | 10,000 |
    |-------|------|------|-------|--------|
    | floor | 2.77 | 6.87 | 11.4  | 16.0   |

    So smooth the positives only (`negative=0`, the default), or take `negative` near
    1/C.

    Args:
        labels: booleans, or integers 0 and 1; another integer becomes NaN. Any shape.
        positive: how much a positive loses, in [0, 0.5).
        negative: what a negative gets, in [0, 0.5).

    Returns:
        Float32 values of the shape of `labels`.

    Raises:
        TypeError: if `labels` is floating point or complex, or a rate is no number.
        ValueError: if a rate is outside [0, 0.5).

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import smooth_multi_hot
        >>> print(smooth_multi_hot(jnp.array([True, False]), 0.1, 0.01))
        [0.9  0.01]

    References:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
        CVPR 2016, https://arxiv.org/abs/1512.00567
    """
    if labels.dtype != jnp.bool_:
        _checks.check_integer(
            "labels", labels, "compare first, for example labels > 0.5."
        )
    hint = "from 1/2 on a label would say the opposite; 0 leaves it hard."
    _checks.check_interval("positive", positive, "[0, 0.5)", hint)
    _checks.check_interval("negative", negative, "[0, 0.5)", hint)
    high = jnp.asarray(1 - positive, jnp.float32)
    low = jnp.asarray(negative, jnp.float32)
    if labels.dtype == jnp.bool_:
        return jnp.where(labels, high, low)
    return jnp.where(labels == 1, high, jnp.where(labels == 0, low, jnp.nan))
