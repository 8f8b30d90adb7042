"""Multi-label metrics as sums that add over batches, usable inside `jax.jit`.

A metric of a whole split is not the mean of its values on the batches. So each batch
gives counts, the counts are added (`jax.tree.map(jnp.add, a, b)`, or `jax.lax.psum`
over devices), and the quotient is taken once at the end. Counts are int32, hence exact.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from zlpr_jax import _checks
from zlpr_jax._typing import Axis
from zlpr_jax.losses import _terms


class LabelCounts(NamedTuple):
    """Decisions counted for every label: what `micro_f1` and `macro_f1` take.

    Attributes:
        true_positives: rows where the label is predicted and present.
        false_positives: rows where it is predicted and absent.
        false_negatives: rows where it is not predicted and present.
    """

    true_positives: Int[Array, "*labels"]
    false_positives: Int[Array, "*labels"]
    false_negatives: Int[Array, "*labels"]


class Ratio(NamedTuple):
    """A mean in the making: divide once every batch has been added.

    Attributes:
        numerator: the sum.
        denominator: the count.
    """

    numerator: Int[Array, ""]
    denominator: Int[Array, ""]


def label_counts(
    predictions: Bool[Array, "*shape"],
    labels: Bool[Array, "*shape"],
    axis: Axis = -1,
    where: Bool[Array, "..."] | None = None,
) -> LabelCounts:
    """Count true positives, false positives and false negatives of every label.

    Args:
        predictions: predicted labels, as from `zlpr_predict`.
        labels: true labels, of the same shape.
        axis: the class axis or axes; all the others are summed over.
        where: what counts. Of the shape of `labels` without the class axes: whole rows
            (padded ones False). Of the shape of `labels`: single entries.

    Returns:
        Three int32 arrays of the shape of the class axes. They add over batches.

    Raises:
        TypeError: if an array is not boolean or `axis` is not integer.
        ValueError: if a shape is not as above, or `axis` is out of range or repeated.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import label_counts, zlpr_predict
        >>> logits = jnp.array([[1.0, -1.0, 2.0], [3.0, 1.0, -1.0]])
        >>> labels = jnp.array([[True, False, False], [True, True, True]])
        >>> counts = label_counts(zlpr_predict(logits), labels)
        >>> print(counts.true_positives, counts.false_negatives)
        [2 1 0] [0 0 1]
    """
    _checks.check_boolean("predictions", predictions)
    axes = _check_labels(labels, predictions.shape, "that of predictions", axis)
    keep = _entries(where, labels, axes)
    rows = tuple(i for i in range(labels.ndim) if i not in axes)

    def count(entries: Bool[Array, "..."]) -> Int[Array, "..."]:
        return jnp.sum(entries & keep, axis=rows, dtype=jnp.int32)

    return LabelCounts(
        count(predictions & labels),
        count(predictions & ~labels),
        count(~predictions & labels),
    )


def micro_f1(counts: LabelCounts) -> Float[Array, ""]:
    r"""F1 of all decisions together; 0 where there is nothing to find and no find.

    $$ F = \frac{2\,TP}{2\,TP + FP + FN}, \qquad TP = \sum_c TP_c, \ldots $$

    Args:
        counts: from `label_counts`, added over all batches.

    Returns:
        A float32 scalar in [0, 1].

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import LabelCounts, micro_f1
        >>> tp, fp, fn = jnp.array([2, 1]), jnp.array([1, 0]), jnp.array([0, 1])
        >>> print(micro_f1(LabelCounts(tp, fp, fn)))
        0.75

    References:
        scikit-learn, `f1_score(average="micro", zero_division=0)`.
    """
    # To float32 before the sum: int32 could overflow over many labels and rows.
    return _f1(*(jnp.sum(count.astype(jnp.float32)) for count in counts))


def macro_f1(counts: LabelCounts) -> Float[Array, ""]:
    r"""Mean over the labels of the F1 of each; 0/0 counts as 0.

    $$ F = \frac1C \sum_c \frac{2\,TP_c}{2\,TP_c + FP_c + FN_c} $$

    Args:
        counts: from `label_counts`, added over all batches; at least one label.

    Returns:
        A float32 scalar in [0, 1].

    Raises:
        ValueError: if there are no labels.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import LabelCounts, macro_f1
        >>> tp, fp, fn = jnp.array([2, 0]), jnp.array([0, 0]), jnp.array([0, 0])
        >>> print(macro_f1(LabelCounts(tp, fp, fn)))
        0.5

    References:
        scikit-learn, `f1_score(average="macro", zero_division=0)`.
    """
    if counts.true_positives.size == 0:
        raise ValueError(
            "macro_f1 needs the counts of at least one label, got arrays of the shape "
            f"{counts.true_positives.shape}: count over a class axis that is not empty."
        )
    return jnp.mean(_f1(*(count.astype(jnp.float32) for count in counts)))


def precision_at_k(
    logits: Float[Array, "*shape"],
    labels: Bool[Array, "*shape"],
    axis: Axis = -1,
    where: Bool[Array, "..."] | None = None,
    *,
    k: int,
) -> Ratio:
    r"""How many of the k highest scores of a row belong to true labels.

    $$ P@k = \frac{1}{k \cdot \mathrm{rows}} \sum_{\mathrm{rows}}
       |\mathrm{top}_k(s) \cap P| $$

    Args:
        logits: scores, floating point. Of equal ones the first is ranked first; a NaN
            is ranked highest.
        labels: true labels, of the same shape.
        axis: the class axis or axes.
        where: what counts. Of the shape of `labels` without the class axes: whole rows
            (padded ones False). Of the shape of `labels`: single entries, the others
            ranking last; a row without any entry does not count.
        k: how many to look at, from 1 to the number of classes.

    Returns:
        `(sum, count)`: the hits, and k for every row. They add over batches; the
        quotient is the precision.

    Raises:
        TypeError: if `logits` is not floating point, `labels` or `where` not boolean,
            or `axis` not integer.
        ValueError: if a shape is not as above, `k` is out of range, or `axis` is out of
            range or repeated.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import precision_at_k
        >>> logits = jnp.array([[1.0, -1.0, 2.0], [3.0, 1.0, -1.0]])
        >>> labels = jnp.array([[True, False, False], [True, True, True]])
        >>> hits, looked_at = precision_at_k(logits, labels, k=2)
        >>> print(hits, looked_at)
        3 4
    """
    _checks.check_floating("logits", logits)
    axes = _check_labels(labels, logits.shape, "that of logits", axis)
    scores, hits, rows = _ranked_rows(logits, labels, where, axes)
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(
            f"k must lie in [1, {scores.shape[-1]}], the number of classes, got {k}."
        )
    _, top = jax.lax.top_k(scores, k)
    found = jnp.take_along_axis(hits, top, axis=-1)
    return Ratio(jnp.sum(found, dtype=jnp.int32), k * jnp.sum(rows, dtype=jnp.int32))


def one_error(
    logits: Float[Array, "*shape"],
    labels: Bool[Array, "*shape"],
    axis: Axis = -1,
    where: Bool[Array, "..."] | None = None,
) -> Ratio:
    r"""How many rows have a highest score that belongs to no true label.

    $$ \mathrm{one\text{-}error} = \frac{1}{\mathrm{rows}} \sum_{\mathrm{rows}}
       [\arg\max_i s_i \notin P] $$

    The mean is over all rows, so a row without any true label is an error.

    Args:
        logits: scores, floating point. Of equal ones the first is the highest; a NaN is
            higher than any number.
        labels: true labels, of the same shape.
        axis: the class axis or axes; at least one class.
        where: what counts. Of the shape of `labels` without the class axes: whole rows
            (padded ones False). Of the shape of `labels`: single entries, the others
            ranking last; a row without any entry does not count.

    Returns:
        `(sum, count)`: the errors, and the rows. They add over batches; the quotient
        is the one-error.

    Raises:
        TypeError: if `logits` is not floating point, `labels` or `where` not boolean,
            or `axis` not integer.
        ValueError: if a shape is not as above, there are no classes, or `axis` is out
            of range or repeated.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import one_error
        >>> logits = jnp.array([[1.0, -1.0, 2.0], [3.0, 1.0, -1.0]])
        >>> labels = jnp.array([[True, False, False], [True, True, True]])
        >>> errors, rows = one_error(logits, labels)
        >>> print(errors, rows)
        1 2

    References:
        Zhang and Zhou, "A Review on Multi-Label Learning Algorithms", IEEE TKDE 26(8),
        2014.
    """
    hits = precision_at_k(logits, labels, axis, where, k=1)
    return Ratio(hits.denominator - hits.numerator, hits.denominator)


def _f1(
    true_positives: Float[Array, "*labels"],
    false_positives: Float[Array, "*labels"],
    false_negatives: Float[Array, "*labels"],
) -> Float[Array, "*labels"]:
    """`2 tp / (2 tp + fp + fn)`, and 0 for 0/0."""
    decided = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / jnp.where(decided > 0, decided, 1)


def _check_labels(
    labels: Array, shape: tuple[int, ...], of: str, axis: Axis
) -> tuple[int, ...]:
    _checks.check_boolean("labels", labels)
    _checks.check_shape("labels", labels.shape, shape, of)
    return _checks.canonical_axes(axis, shape)


def _entries(
    where: Bool[Array, "..."] | None,
    labels: Bool[Array, "*shape"],
    axes: tuple[int, ...],
) -> Bool[Array, "*shape"]:
    """`where`, of entries or of rows, as a mask of entries."""
    if where is None:
        return jnp.ones_like(labels)
    _checks.check_boolean("where", where)
    rows = _terms.batch_shape(labels.shape, axes)
    if where.shape == labels.shape:
        return where
    if where.shape == rows:
        return jnp.broadcast_to(jnp.expand_dims(where, axes), labels.shape)
    raise ValueError(
        f"where must have the shape {labels.shape} (entries) or {rows} (rows), got "
        f"{where.shape}: nothing is broadcast silently; use jnp.broadcast_to if that "
        "is meant."
    )


def _ranked_rows(
    logits: Float[Array, "*shape"],
    labels: Bool[Array, "*shape"],
    where: Bool[Array, "..."] | None,
    axes: tuple[int, ...],
) -> tuple[Float[Array, "*rows C"], Bool[Array, "*rows C"], Bool[Array, "*rows"]]:
    """Scores and hits with one class axis, the last, and which rows count."""
    keep = _entries(where, labels, axes)
    last = tuple(range(-len(axes), 0))
    rows = _terms.batch_shape(labels.shape, axes)
    size = 1
    for one in axes:
        size *= labels.shape[one]

    def flat(array: Array) -> Array:
        return jnp.moveaxis(array, axes, last).reshape(*rows, size)

    return (
        flat(jnp.where(keep, logits, -jnp.inf)),
        flat(labels & keep),
        jnp.any(keep, axis=axes),
    )
