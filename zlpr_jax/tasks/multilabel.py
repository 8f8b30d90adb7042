"""Multi-label classification of feature vectors."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax.data.multilabel import MultilabelData, Record
from zlpr_jax.losses import label_counts, zlpr_loss, zlpr_predict
from zlpr_jax.models.mlp import MLP, MLPConfig
from zlpr_jax.nn import functionalize
from zlpr_jax.tasks.features import (
    DENSE_FEATURES,
    feature_lengths,
    label_rows,
    scale_features,
    scaling_state,
    stack_features,
)
from zlpr_jax.tasks.scores import multilabel_scores


def bce_loss(
    logits: Float[Array, "B C"], labels: Bool[Array, "B C"]
) -> Float[Array, " B"]:
    """Binary cross-entropy summed over the labels: the usual alternative to ZLPR."""
    logits = logits.astype(np.promote_types(logits.dtype, np.float32))
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

    def init(key):
        model = MLP(config, rngs=nnx.Rngs(key))
        _, params, state = functionalize(model)
        return params, {
            "model": state,
            "scaling": scaling_state(config.features, scaling),
        }

    def logits_of(params, state, features, key=None):
        dtype = params["input"]["kernel"].dtype
        features = scale_features(state["scaling"], features, dtype)
        logits, model_state = apply(params, state["model"], features, key=key)
        return logits, {**state, "model": model_state}

    def batch(
        records: Sequence[Record], size: int, lengths: int | np.integer | None = None
    ) -> dict[str, Any]:
        return {
            "features": stack_features(records, config.features, size, lengths),
            "labels": label_matrix(records, config.labels, size),
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
        labels, logits = label_matrix(records, config.labels), np.stack(predictions)
        if not np.isfinite(logits).all():
            raise InputError(
                "the predictions are not finite, training has diverged: lower the "
                "learning rate (--optimizer.learning-rate)."
            )
        return multilabel_scores(logits, labels)

    return Task(
        init=init,
        batch=batch,
        loss=loss_and_metrics,
        predict=predict,
        decode=decode,
        score=score,
        headline=("micro_f1", "max"),
        lengths=feature_lengths if config.features > DENSE_FEATURES else None,
    )


def label_matrix(
    records: Sequence[Record], labels: int, size: int | None = None
) -> np.ndarray:
    """The labels of records as bool `[rows, labels]`, with `size` rows if given."""
    counts, indices = label_rows(records)
    matrix = np.zeros((len(counts) if size is None else size, labels), bool)
    matrix[np.repeat(np.arange(len(counts)), counts), indices] = True
    return matrix


def prediction_lines(
    logits: Iterable[np.ndarray], data: MultilabelData, threshold: float = 0.0
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
