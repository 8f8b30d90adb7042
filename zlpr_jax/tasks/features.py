"""Feature vectors of records: scaling, and batches of static shape."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from scipy.sparse import csr_array

from zlpr_jax._typing import PyTree
from zlpr_jax.data.multilabel import MultilabelData, Record, SparseRow
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
    scaling: PyTree,
    features: Float[Array, "B features"] | SparseFeatures,
    dtype: DTypeLike,
) -> Float[Array, "B features"] | SparseFeatures:
    """Apply a `scaling_state` to a batch; sparse features have no shift.

    It is done in float32. The result has `dtype`, that of the parameters: it decides
    what the network computes in.
    """
    if isinstance(features, SparseFeatures):
        scale = jnp.take(scaling["scale"], features.indices, mode="clip")
        return features._replace(values=(features.values * scale).astype(dtype))
    scaled = (features - scaling["shift"][None]) * scaling["scale"][None]
    return scaled.astype(dtype)


def stack_features(
    records: Sequence[Record],
    features: int,
    size: int,
    room: int | np.integer | None = None,
) -> npt.NDArray[np.float32] | SparseFeatures:
    """Features of records as `size` rows: dense or, if sparse and wide, as pairs.

    Args:
        records: Records with features of one kind; a `MultilabelData` is fastest. Its
            dense features are not copied if there are `size` rows of them.
        features: The number of features.
        size: Rows, at least `len(records)`; those too many are zero.
        room: The non-zeros that each row of pairs has room for; `None` for as many as
            these records need.
    """
    if isinstance(records, MultilabelData):
        matrix = records.features
        if isinstance(matrix, tuple):
            raise ValueError("texts are no features: use vectorize(data, tfidf).")
        if isinstance(matrix, np.ndarray):
            if len(matrix) == size:
                return matrix
            more = np.zeros((size - len(matrix), features), np.float32)
            return np.concatenate([matrix, more])
        (counts, indices), values = _entries(matrix), matrix.data
    else:
        rows: list[Any] = [record.features for record in records]
        if rows and not isinstance(rows[0], SparseRow):
            dense = np.zeros((size, features), np.float32)
            np.stack(rows, out=dense[: len(rows)])
            return dense
        counts, indices = _joined([row.indices for row in rows])
        _, values = _joined([row.values for row in rows])
    if features <= DENSE_FEATURES:
        dense = np.zeros((size, features), np.float32)
        dense[np.repeat(np.arange(len(counts)), counts), indices] = values
        return dense
    # NumPy arrays stand for those of jax: a batch is built beside a running step
    numbers: Any = pad_rows(counts, indices, size, np.int32(0), room)
    padded: Any = pad_rows(counts, values, size, np.float32(0), room)
    return SparseFeatures(numbers, padded)


def feature_lengths(records: Sequence[Record]) -> npt.NDArray[np.integer]:
    """Non-zero features of each record, `[N]`: 0 where the features are dense."""
    if isinstance(records, MultilabelData):
        if isinstance(records.features, csr_array):
            return np.diff(records.features.indptr)
        return np.zeros(len(records), np.int64)
    rows = [record.features for record in records]
    counts = [len(row.indices) if isinstance(row, SparseRow) else 0 for row in rows]
    return np.array(counts, np.int64)


def label_rows(
    records: Sequence[Record],
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """How many labels each record has, `[N]`, and all of them in one array."""
    if isinstance(records, MultilabelData):
        return _entries(records.labels)
    return _joined([record.labels for record in records])


def pad_rows(
    counts: npt.NDArray[np.integer],
    entries: npt.NDArray[Any],
    size: int,
    fill: np.generic,
    room: int | np.integer | None = None,
) -> npt.NDArray[Any]:
    """Rows of different lengths as one array `[size, width]` of the dtype of `fill`.

    The width is a power of two from 8 up, so that few of them are compiled.

    Args:
        counts: The length of each row.
        entries: Their entries, row after row.
        size: Rows of the result, at least `len(counts)`.
        fill: What stands where there is no entry.
        room: The length that there must be room for; `None` for the largest of
            `counts`.

    Examples:
        >>> pad_rows(np.array([1, 2]), np.array([3, 1, 2]), 2, np.int32(-1))[:, :3]
        array([[ 3, -1, -1],
               [ 1,  2, -1]], dtype=int32)
    """
    longest = int(counts.max(initial=0) if room is None else room)
    width = 1 << max(3, (longest - 1).bit_length())
    padded = np.full((size, width), fill)
    padded[: len(counts)][np.arange(width) < counts[:, None]] = entries
    return padded


def _entries(
    matrix: csr_array,
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    return np.diff(matrix.indptr), matrix.indices


def _joined(
    rows: Sequence[npt.NDArray[Any]],
) -> tuple[npt.NDArray[np.integer], npt.NDArray[Any]]:
    counts = np.array([len(row) for row in rows], np.int64)
    return counts, np.concatenate(rows) if rows else np.zeros(0, np.int32)
