"""ZLPR for labels given as class indices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from zlpr_jax import _checks
from zlpr_jax._typing import AxisName
from zlpr_jax.losses import _indices, _mesh, _terms


def zlpr_loss_with_integer_labels(
    logits: Float[Array, "*shape"],
    labels: Integer[Array, "*rows K"],
    axis: int = -1,
    where: Bool[Array, "*shape"] | None = None,
    *,
    threshold: float | int | Float[Array, "..."] | None = None,
    axis_name: AxisName | None = None,
) -> Float[Array, "*rows"]:
    r"""ZLPR with the positive classes given as indices.

    With scores `s` and the *set* P of classes that the indices of a row name,

    $$
    L = \log\Big(1 + \sum_{i \notin P} e^{s_i}\Big)
      + \log\Big(1 + \sum_{j \in P} e^{-s_j}\Big).
    $$

    The same numbers as `zlpr_loss` on the multi-hot labels. The negative sum is taken
    over the negative classes, and not as the sum over all classes minus the positive
    ones: that difference cancels as soon as a positive logit is large, and its gradient
    then has the wrong sign.

    Args:
        logits: scores, floating point, any shape that has the class axis. See
            `zlpr_loss` for infinite ones.
        labels: class indices, integers. The K indices of a row lie along the *last*
            axis, wherever the class axis of `logits` is; the axes before it are those
            of `logits` without the class axis. A negative index is padding. A repeated
            index counts once. An index past the last class makes its row NaN (the
            gradient too), unless the row is empty under `where`. K may be 0.
        axis: the class axis of `logits`, a single integer.
        where: entries that count, of the shape of `logits`; the others may hold
            anything, NaN included, get a zero gradient, and are ignored where an index
            names them. A row without any is 0; a row that is all padding is not: it has
            no positive class.
        threshold: score of the threshold class in place of 0: a scalar, or one a row
            (the shape of `logits` without the class axis). The loss of `s - threshold`.
        axis_name: the mesh axis, or axes, that the classes are split over, inside
            `shard_map` or `pmap`. `logits` and `where` are then this device's part,
            `labels` holds global indices, and the loss is that of all classes, the same
            on all of those devices.
            They exchange two maxima and two sums a row, and nothing for the gradient.
            A number of classes that the devices do not divide is padded, and the tail
            masked by `where`. Where replication is not tracked (`pmap`,
            `shard_map(check_vma=False)`) take the gradient inside the mapped function;
            only reverse mode works there.

    Returns:
        One loss a row, not reduced: the shape of `logits` without the class axis. The
        arithmetic and the result have the dtype of `logits`, but at least float32; the
        gradient has the dtype of `logits`.

    Raises:
        TypeError: if `logits` or `threshold` is not floating point, `labels` is not
            integer, `where` is not boolean or `axis` is not an integer.
        ValueError: if a shape is not as above, or `axis` is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import zlpr_loss_with_integer_labels
        >>> logits = jnp.array([[2.0, -1.0, -3.0], [0.0, 0.0, 0.0]])
        >>> labels = jnp.array([[0, -1], [-1, -1]])  # {0} and {}
        >>> print(zlpr_loss_with_integer_labels(logits, labels).round(4))
        [0.4759 1.3863]

    References:
        Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022,
        https://arxiv.org/abs/2208.02955
    """
    _checks.check_floating("logits", logits)
    _checks.check_integer(
        "labels",
        labels,
        "pass class indices, or give multi-hot and soft labels to zlpr_loss.",
    )
    if isinstance(axis, Sequence):
        raise TypeError(
            f"axis must be a single int, got {axis!r}: flatten the class axes into "
            "one, or give multi-hot labels to zlpr_loss."
        )
    axes = _checks.canonical_axes(axis, logits.shape)
    rows = _terms.batch_shape(logits.shape, axes)
    _indices.check_rows(labels, rows, "logits without the class axis")
    if where is not None:
        _checks.check_boolean("where", where)
        _checks.check_shape("where", where.shape, logits.shape, "that of logits")
    scores = _terms.scores_above_threshold(logits, threshold, axes, axis_name)
    num_classes = logits.shape[axes[0]]
    local, invalid = _indices.local_classes(labels, num_classes, axis_name)
    if where is not None:
        invalid = invalid & _mesh.any_over(jnp.any(where, axis=axes), axis_name)
    positive = jnp.moveaxis(_multi_hot(local, num_classes), -1, axes[0])
    loss = _terms.hard_terms(scores, positive, where, axes, axis_name)
    return _terms.poison(loss, invalid)


def _multi_hot(
    local: Int[Array, "*rows K"], num_classes: int
) -> Bool[Array, "*rows C"]:
    """The classes named in each row; an index of `num_classes` names none."""

    def one_row(indices: Int[Array, " K"]) -> Bool[Array, " C"]:
        empty = jnp.zeros(num_classes, dtype=jnp.bool_)
        return empty.at[indices].set(True, mode="drop")

    # vmap, not flattened rows: the scatter keeps its batch axes, and so their sharding.
    scatter = one_row
    for _ in range(local.ndim - 1):
        scatter = jax.vmap(scatter)
    return scatter(local)
