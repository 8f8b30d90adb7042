"""ZLPR losses, decisions and metric counts: pure functions on arrays.

Every loss is `(logits, labels, axis=-1, where=None, *, ...) -> unreduced loss`. The
arithmetic and the result are at least float32, and the gradient has the dtype of the
logits.
"""

from zlpr_jax.losses._counts import (
    LabelCounts,
    Ratio,
    label_counts,
    macro_f1,
    micro_f1,
    one_error,
    precision_at_k,
)
from zlpr_jax.losses._decision import zlpr_predict, zlpr_probabilities
from zlpr_jax.losses._integer import zlpr_loss_with_integer_labels
from zlpr_jax.losses._zlpr import zlpr_loss

__all__ = [
    "LabelCounts",
    "Ratio",
    "label_counts",
    "macro_f1",
    "micro_f1",
    "one_error",
    "precision_at_k",
    "zlpr_loss",
    "zlpr_loss_with_integer_labels",
    "zlpr_predict",
    "zlpr_probabilities",
]
