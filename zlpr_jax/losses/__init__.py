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
from zlpr_jax.losses._divergence import zlpr_divergence, zlpr_symmetric_kl
from zlpr_jax.losses._integer import zlpr_loss_with_integer_labels
from zlpr_jax.losses._linear import zlpr_linear_loss
from zlpr_jax.losses._smoothing import smooth_multi_hot, zlpr_entropy
from zlpr_jax.losses._span import zlpr_span_loss
from zlpr_jax.losses._temperature import fit_temperature
from zlpr_jax.losses._thresholds import (
    example_f1_threshold,
    macro_f1_threshold,
    macro_f1_thresholds,
    micro_f1_threshold,
    micro_f1_thresholds,
)
from zlpr_jax.losses._topk import predict_topk
from zlpr_jax.losses._zlpr import zlpr_loss

__all__ = [
    "LabelCounts",
    "Ratio",
    "example_f1_threshold",
    "fit_temperature",
    "label_counts",
    "macro_f1",
    "macro_f1_threshold",
    "macro_f1_thresholds",
    "micro_f1",
    "micro_f1_threshold",
    "micro_f1_thresholds",
    "one_error",
    "precision_at_k",
    "predict_topk",
    "smooth_multi_hot",
    "zlpr_divergence",
    "zlpr_entropy",
    "zlpr_linear_loss",
    "zlpr_loss",
    "zlpr_loss_with_integer_labels",
    "zlpr_predict",
    "zlpr_probabilities",
    "zlpr_span_loss",
    "zlpr_symmetric_kl",
]
