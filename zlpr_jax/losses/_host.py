"""Scores and labels as NumPy arrays, for what is fitted on the host."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from zlpr_jax import _checks


def host_scores(function: str, logits: Array | np.ndarray) -> np.ndarray:
    """`logits` in the dtype in which `zlpr_predict` compares them.

    Raises:
        TypeError: if `logits` is traced, or not floating point.
        ValueError: if a score is NaN.
    """
    _check_concrete(function, "logits", logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(
            f"logits must be floating point, got {logits.dtype}: convert with "
            "logits.astype(np.float32)."
        )
    scores = np.asarray(logits)
    scores = scores.astype(np.float64 if scores.itemsize > 4 else np.float32)
    missing = int(np.isnan(scores).sum())
    if missing:
        raise ValueError(
            f"logits must not be NaN, got {missing} of {scores.size}: look for the "
            "step that made them, or leave these rows out."
        )
    return scores


def hard_labels(
    function: str, labels: Array | np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """`labels` as booleans.

    Raises:
        TypeError: if `labels` is traced, or neither boolean nor integer.
        ValueError: if the shape is not `shape`, or a label neither 0 nor 1.
    """
    _check_concrete(function, "labels", labels)
    _checks.check_shape("labels", labels.shape, shape, "that of logits")
    truth = np.asarray(labels)
    if truth.dtype != np.bool_ and not jnp.issubdtype(truth.dtype, jnp.integer):
        raise TypeError(
            f"labels must be boolean or integers 0 and 1, got {truth.dtype}: compare "
            "first, for example labels > 0.5."
        )
    if ((truth != 0) & (truth != 1)).any():
        raise ValueError(
            f"labels must be 0 or 1, got values from {truth.min()} to {truth.max()}: "
            "turn lists of label indices into a 0/1 array [N, C] first."
        )
    return truth.astype(bool)


def soft_labels(
    function: str, labels: Array | np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """`labels` in float64.

    Raises:
        TypeError: if `labels` is traced or complex.
        ValueError: if the shape is not `shape`, or a label outside [0, 1].
    """
    _check_concrete(function, "labels", labels)
    _checks.check_shape("labels", labels.shape, shape, "that of logits")
    if jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise TypeError(f"labels must be real, got {labels.dtype}: take labels.real.")
    truth = np.asarray(labels).astype(np.float64)
    if not ((truth >= 0) & (truth <= 1)).all():
        raise ValueError(
            f"labels must lie in [0, 1], got values from {truth.min():g} to "
            f"{truth.max():g}: divide counts by their totals first."
        )
    return truth


def _check_concrete(function: str, name: str, array: Array | np.ndarray) -> None:
    if not _checks.is_concrete(array):
        raise TypeError(
            f"{function} runs on the host and needs the values of {name}, got a traced "
            "array: call it outside jax.jit, jax.vmap and jax.grad."
        )
