"""Multi-label classification of feature vectors."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from zlpr_jax._task import Task
from zlpr_jax.data.multilabel import MultilabelData, Record, SparseRow
from zlpr_jax.data.tfidf import Tfidf
from zlpr_jax.losses import label_counts, zlpr_loss, zlpr_predict
from zlpr_jax.models.mlp import MLP, MLPConfig
from zlpr_jax.nn import SparseFeatures, functionalize
from zlpr_jax.tasks.scores import multilabel_scores

# Below this width a dense batch is faster than a gather, and not large either.
DENSE_FEATURES = 4096


def bce_loss(
    logits: Float[Array, "B C"], labels: Bool[Array, "B C"]
) -> Float[Array, " B"]:
    """Binary cross-entropy summed over the labels: the usual alternative to ZLPR."""
    targets = labels.astype(logits.dtype)
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)


# Both decide at s > 0, which for binary cross-entropy is a probability above 0.5.
LOSSES: dict[str, Callable[..., Array]] = {"zlpr": zlpr_loss, "bce": bce_loss}


def make(
    config: MLPConfig,
    *,
    loss: Callable[..., Array] = zlpr_loss,
    scaling: tuple[np.ndarray, np.ndarray] | None = None,
) -> Task:
    """Build the task: an `MLP` over scaled features, trained with `loss`.

    Args:
        config: The network.
        loss: `(logits, labels) -> loss per row`, with boolean labels.
        scaling: Shift and scale per feature (see `feature_scaling`), kept in the task's
            state, so that they are saved with the parameters. `None` leaves the
            features as they are.

    Returns:
        A `Task` over `Record`s; a prediction is the row of logits, float32 `[C]`.
    """
    apply = functionalize(MLP(config, rngs=nnx.Rngs(0))).apply
    shift, scale = scaling or (np.zeros(config.features), np.ones(config.features))

    def init(key):
        model = MLP(config, rngs=nnx.Rngs(key))
        _, params, state = functionalize(model)
        scaling = {
            "shift": jnp.asarray(shift, jnp.float32),
            "scale": jnp.asarray(scale, jnp.float32),
        }
        return params, {"model": state, "scaling": scaling}

    def logits_of(params, state, features, key=None):
        shift, scale = state["scaling"]["shift"], state["scaling"]["scale"]
        if isinstance(features, SparseFeatures):
            scaled = features.values * jnp.take(scale, features.indices, mode="clip")
            features = features._replace(values=scaled)
        else:
            features = (features - shift[None]) * scale[None]
        logits, model_state = apply(params, state["model"], features, key=key)
        return logits, {**state, "model": model_state}

    def batch(records: Sequence[Record], size: int) -> dict[str, Any]:
        labels = np.zeros((size, config.labels), bool)
        labels[: len(records)] = label_matrix(records, config.labels)
        return {
            "features": _stack([record.features for record in records], config, size),
            "labels": labels,
            "where": np.arange(size) < len(records),
        }

    def loss_and_metrics(params, state, batch, key):
        logits, state = logits_of(params, state, batch["features"], key)
        where, labels = batch["where"], batch["labels"]
        rows = jnp.where(where, loss(logits, labels), 0)
        total, count = rows.sum(), where.sum().astype(jnp.float32)
        counts = label_counts(zlpr_predict(logits), labels, where=where)
        hits, *wrong = (count.sum().astype(jnp.float32) for count in counts)
        # micro-F1 = 2 tp / (2 tp + fp + fn), already a ratio of two sums
        f1 = (2 * hits, 2 * hits + sum(wrong))
        return total / count, (state, {"loss": (total, count), "micro_f1": f1})

    def predict(params, state, batch):
        return logits_of(params, state, batch["features"])[0]

    def decode(outputs: np.ndarray, records: Sequence[Record]) -> list[np.ndarray]:
        return list(outputs[: len(records)])

    def score(predictions, records: Sequence[Record]) -> dict[str, float]:
        labels = label_matrix(records, config.labels)
        return multilabel_scores(np.stack(predictions), labels)

    return Task(
        init=init,
        batch=batch,
        loss=loss_and_metrics,
        predict=predict,
        decode=decode,
        score=score,
        headline=("micro_f1", "max"),
    )


def label_matrix(records: Sequence[Record], labels: int) -> np.ndarray:
    """The labels of records as bool `[rows, labels]`."""
    matrix = np.zeros((len(records), labels), bool)
    for row, record in zip(matrix, records, strict=True):
        row[record.labels] = True
    return matrix


def vectorize(data: MultilabelData, tfidf: Tfidf | None) -> MultilabelData:
    """Turn texts into sparse TF-IDF features; other features stay as they are."""
    if tfidf is None or not isinstance(data.features, tuple):
        return data
    return dataclasses.replace(data, features=tfidf.transform(data.features))


def prediction_lines(
    logits: np.ndarray, data: MultilabelData, threshold: float = 0.0
) -> Iterator[str]:
    """JSON lines `{"id", "labels": [names], "scores": {name: s}}`, one per row."""
    for record_id, row in zip(data.ids, logits, strict=True):
        names = [data.label_names[i] for i in np.flatnonzero(row > threshold)]
        scores = {
            name: float(f"{score:.6g}")
            for name, score in zip(data.label_names, row, strict=True)
        }
        line = {"id": record_id, "labels": names, "scores": scores}
        yield json.dumps(line, ensure_ascii=False) + "\n"


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


def _stack(rows: Sequence[Any], config: MLPConfig, size: int) -> Any:
    """Feature rows of one kind as a dense array or, if wide, as `SparseFeatures`."""
    if not isinstance(rows[0], SparseRow):
        dense = np.zeros((size, config.features), np.float32)
        np.stack(rows, out=dense[: len(rows)])
        return dense
    counts = [len(row.indices) for row in rows]
    where = np.repeat(np.arange(len(rows)), counts)
    indices = np.concatenate([row.indices for row in rows])
    values = np.concatenate([row.values for row in rows])
    if config.features <= DENSE_FEATURES:
        dense = np.zeros((size, config.features), np.float32)
        dense[where, indices] = values
        return dense
    # widths are powers of two, so that few of them are compiled
    width = 1 << max(3, (max(counts) - 1).bit_length())
    column = np.concatenate([np.arange(count) for count in counts])
    padded_indices = np.zeros((size, width), np.int32)
    padded_values = np.zeros((size, width), np.float32)
    padded_indices[where, column] = indices
    padded_values[where, column] = values
    return SparseFeatures(jnp.asarray(padded_indices), jnp.asarray(padded_values))
