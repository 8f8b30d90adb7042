"""Feature vectors of records: scaling, and batches of static shape."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float

from zlpr_jax._typing import PyTree
from zlpr_jax.data.multilabel import MultilabelData, SparseRow
from zlpr_jax.data.tfidf import Tfidf
from zlpr_jax.nn import SparseFeatures

# Below this width a dense batch is faster than a gather, and not large either.
DENSE_FEATURES = 4096


def vectorize(data: MultilabelData, tfidf: Tfidf | None) -> MultilabelData:
    """Turn texts into sparse TF-IDF features; other features stay as they are."""
    if tfidf is None or not isinstance(data.features, tuple):
        return data
    return dataclasses.replace(data, features=tfidf.transform(data.features))


def feature_scaling(data: MultilabelData) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale per feature that suit the network, from the training rows.

    Numbers in a dense column become zero mean and unit variance. A column of zeros and
    ones, and every column of a sparse matrix, keeps its zeros: standardising it would
    turn a word that occurs once into the loudest feature of all. Sparse values above 1
    are divided by their largest. One common factor then brings the mean square of a row
    to the number of features, which is what the initialisation expects.

    Returns:
        `(shift, scale)`, float32 `[features]`, for `(x - shift) * scale`.
    """
    features = data.features
    if isinstance(features, tuple):
        raise ValueError("texts have no columns to scale: use vectorize(data, tfidf).")
    if isinstance(features, np.ndarray):
        binary = ((features == 0) | (features == 1)).all(axis=0)
        shift = np.where(binary, 0, features.mean(axis=0, dtype=np.float64))
        deviation = features.std(axis=0, dtype=np.float64)
        # a constant column carries nothing: multiply it by zero
        flat = deviation <= 1e-6 * np.maximum(1, np.abs(shift))
        scale = np.where(flat, 0, 1 / np.where(flat, 1, deviation))
        scale = np.where(binary, 1, scale)
        square = (((features - shift) * scale) ** 2).sum() / len(features)
    else:
        shift = np.zeros(data.num_features)
        largest = abs(features).max(axis=0).toarray().ravel()
        scale = 1 / np.maximum(largest, 1)
        square = features.multiply(scale[None]).power(2).sum() / len(data)
    factor = np.sqrt(data.num_features / max(float(square), 1e-12))
    return shift.astype(np.float32), (scale * factor).astype(np.float32)


def scaling_state(
    features: int, scaling: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, Array]:
    """Shift and scale as a task keeps them in its state; `None` changes nothing."""
    shift, scale = scaling or (np.zeros(features), np.ones(features))
    return {
        "shift": jnp.asarray(shift, jnp.float32),
        "scale": jnp.asarray(scale, jnp.float32),
    }


def scale_features(
    scaling: PyTree, features: Float[Array, "B features"] | SparseFeatures
) -> Float[Array, "B features"] | SparseFeatures:
    """Apply a `scaling_state` to a batch; sparse features have no shift."""
    if isinstance(features, SparseFeatures):
        scale = jnp.take(scaling["scale"], features.indices, mode="clip")
        return features._replace(values=features.values * scale)
    return (features - scaling["shift"][None]) * scaling["scale"][None]


def stack_features(
    rows: Sequence[Any], features: int, size: int
) -> npt.NDArray[np.float32] | SparseFeatures:
    """Feature rows of one kind as `size` rows: dense or, if wide, `SparseFeatures`."""
    if not isinstance(rows[0], SparseRow):
        dense = np.zeros((size, features), np.float32)
        np.stack(rows, out=dense[: len(rows)])
        return dense
    if features <= DENSE_FEATURES:
        dense = np.zeros((size, features), np.float32)
        where = np.repeat(np.arange(len(rows)), [len(row.indices) for row in rows])
        indices = np.concatenate([row.indices for row in rows])
        dense[where, indices] = np.concatenate([row.values for row in rows])
        return dense
    indices = pad_rows([row.indices for row in rows], size, np.int32(0))
    values = pad_rows([row.values for row in rows], size, np.float32(0))
    return SparseFeatures(jnp.asarray(indices), jnp.asarray(values))


def pad_rows(
    rows: Sequence[npt.NDArray[Any]], size: int, fill: np.generic
) -> npt.NDArray[Any]:
    """Rows of different lengths as one array `[size, width]` of the dtype of `fill`.

    The width is a power of two from 8 up, so that few of them are compiled.

    Example:
        >>> pad_rows([np.array([3]), np.array([1, 2])], 2, np.int32(-1))[:, :3]
        array([[ 3, -1, -1],
               [ 1,  2, -1]], dtype=int32)
    """
    counts = np.array([len(row) for row in rows])
    width = 1 << max(3, (int(counts.max()) - 1).bit_length())
    padded = np.full((size, width), fill)
    padded[: len(rows)][np.arange(width) < counts[:, None]] = np.concatenate(rows)
    return padded
