"""ZLPR for dense labels: a boolean, 0/1 or soft value for every class."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from zlpr_jax import _checks
from zlpr_jax._typing import Axis, AxisName
from zlpr_jax.losses import _mesh, _terms


def zlpr_loss(
    logits: Float[Array, "*shape"],
    labels: Bool[Array, "*shape"] | Integer[Array, "*shape"] | Float[Array, "*shape"],
    axis: Axis = -1,
    where: Bool[Array, "*shape"] | None = None,
    *,
    threshold: float | int | Float[Array, "..."] | None = None,
    axis_name: AxisName | None = None,
) -> Float[Array, "..."]:
    r"""ZLPR: zero-bounded log-sum-exp and pairwise rank-based loss.

    The multi-label counterpart of softmax cross entropy. With scores `s` and labels `t`
    in [0, 1] (hard labels are the special case t = 1 on the positive classes and t = 0
    on the negative ones),

    $$
    L = \log\Big(1 + \sum_i (1 - t_i) e^{s_i}\Big)
      + \log\Big(1 + \sum_i t_i e^{-s_i}\Big).
    $$

    It pushes every positive score above every negative one and 0 between the two, so
    the classes with `logits > 0` are the prediction (`zlpr_predict`): there is no class
    weight and no threshold to tune. The gradient of a row has an L1 norm below 2
    whatever the number of classes, so learning rates carry over from softmax cross
    entropy rather than from summed binary cross entropy.

    The gradient with respect to soft labels is exact inside (0, 1). At exactly 0 or 1
    it leaves out the term whose weight is zero, and so stays finite. The minimum over
    the logits is 0 for hard labels only: label smoothing has a floor of
    $2\log(1 + \sum_i \sqrt{t_i(1-t_i)})$, which grows with the number of classes.

    Args:
        logits: scores, floating point, any shape that has the class axes. A class with
            the logit -inf is left out if it is negative; if it is positive the loss is
            inf (a wrong label). Likewise inf: free if positive, an inf loss if
            negative.
        labels: of the shape of `logits`. Boolean, or integers 0 and 1: hard labels, the
            cheaper path. Floating point: soft labels in [0, 1]. Values cannot be
            checked at trace time; a row with a label outside [0, 1] (beyond
            rounding), or with another integer, is NaN.
        axis: the class axis, or several: `axis=(-2, -1)` for labels on pairs.
        where: entries that count, of the shape of `logits`; the others may hold
            anything, NaN included, and get a zero gradient. A row without any is 0.
        threshold: score of the threshold class in place of 0: a scalar, or one a row
            (the shape of `logits` without the class axes). The loss of `s - threshold`.
        axis_name: the mesh axis, or axes, that the classes are split over, inside
            `shard_map` or `pmap`. The arrays with a class axis are then this device's
            part, and the loss is that of all classes, the same on all of those devices.
            They exchange two maxima and two sums a row, and nothing for the gradient.
            A number of classes that the devices do not divide is padded, and the tail
            masked by `where`. Where replication is not tracked (`pmap`,
            `shard_map(check_vma=False)`) take the gradient inside the mapped function;
            only reverse mode works there.

    Returns:
        One loss a row, not reduced: the shape of `logits` without the class axes. The
        arithmetic and the result have the dtype of `logits`, but at least float32; the
        gradient has the dtype of `logits`.

    Raises:
        TypeError: if `logits` or `threshold` is not floating point, `labels` is
            complex, `where` is not boolean or `axis` is not integer.
        ValueError: if a shape is not as above, or `axis` is out of range or repeated.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import zlpr_loss
        >>> logits = jnp.array([[2.0, -1.0, -3.0], [0.0, 0.0, 0.0]])
        >>> labels = jnp.array([[True, False, False], [False, False, False]])
        >>> print(zlpr_loss(logits, labels).round(4))
        [0.4759 1.3863]

    References:
        Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022,
        https://arxiv.org/abs/2208.02955

        Su, "Generalising softmax + cross entropy to multi-label classification" (in
        Chinese), 2020, https://kexue.fm/archives/7359
    """
    _checks.check_floating("logits", logits)
    _checks.check_shape("labels", labels.shape, logits.shape, "that of logits")
    if where is not None:
        _checks.check_boolean("where", where)
        _checks.check_shape("where", where.shape, logits.shape, "that of logits")
    axes = _checks.canonical_axes(axis, logits.shape)
    scores = _terms.scores_above_threshold(logits, threshold, axes, axis_name)
    if labels.dtype == jnp.bool_:
        return _terms.hard_terms(scores, labels, where, axes, axis_name)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        loss = _terms.hard_terms(scores, labels != 0, where, axes, axis_name)
        wrong = (labels != 0) & (labels != 1)
        if where is not None:
            wrong = wrong & where
        wrong = _mesh.any_over(jnp.any(wrong, axis=axes), axis_name)
        return _terms.poison(loss, wrong)
    _checks.check_floating("labels", labels)
    return _terms.soft_terms(scores, labels, where, axes, axis_name)
