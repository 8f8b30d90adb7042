"""Multi-label classification of feature vectors and of texts."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.data.multilabel import MultilabelData, Record
from zlpr_jax.losses import (
    label_counts,
    smooth_multi_hot,
    zlpr_loss,
    zlpr_predict,
    zlpr_symmetric_kl,
)
from zlpr_jax.models.mlp import MLP, MLPConfig
from zlpr_jax.models.text_classifier import TextClassifier, TextClassifierConfig
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


class Objective(NamedTuple):
    """What is trained: a loss, and what may be added to it.

    With `r_drop` each row is scored twice with different dropout, and the loss is the
    mean of both and `r_drop` times the symmetric KL divergence between them.

    Attributes:
        loss: `(logits, labels) -> loss per row`; labels are boolean, or with smoothing
            soft.
        smoothing: What a positive label loses, in [0, 0.5): see `smooth_multi_hot`.
        r_drop: Weight of the divergence, >= 0.
    """

    loss: Callable[..., Array] = zlpr_loss
    smoothing: float = 0.0
    r_drop: float = 0.0

    def __call__(
        self,
        score: Callable[..., tuple[Float[Array, "B C"], PyTree]],
        labels: Bool[Array, "B C"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, " B"], Float[Array, "B C"], PyTree]:
        """Loss of every row, its logits, and the state that `score(key)` gave."""
        targets = smooth_multi_hot(labels, self.smoothing) if self.smoothing else labels
        if not self.r_drop:
            logits, state = score(key)
            return self.loss(logits, targets), logits, state
        one, other = jax.random.split(key)
        logits, _ = score(one)
        again, state = score(other)
        losses = (self.loss(logits, targets) + self.loss(again, targets)) / 2
        return losses + self.r_drop * zlpr_symmetric_kl(logits, again), logits, state


ZLPR = Objective()
# Both decide at s > 0, which for binary cross-entropy is a probability above 0.5.
BCE = Objective(bce_loss)


def make(
    config: MLPConfig,
    *,
    objective: Objective = ZLPR,
    scaling: tuple[np.ndarray, np.ndarray] | None = None,
) -> Task:
    """Build the task: an `MLP` over scaled features.

    Args:
        config: The network.
        objective: What is trained.
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

    def logits_of(params, state, batch, key=None):
        dtype = params["input"]["kernel"].dtype
        features = scale_features(state["scaling"], batch["features"], dtype)
        logits, model_state = apply(params, state["model"], features, key=key)
        return logits, {**state, "model": model_state}

    def arrays(records, size, lengths=None) -> dict[str, Any]:
        return {"features": stack_features(records, config.features, size, lengths)}

    lengths = feature_lengths if config.features > DENSE_FEATURES else None
    return _task(config.labels, objective, init, logits_of, arrays, lengths)


def make_text(
    config: TextClassifierConfig,
    encode: Callable[[Sequence[str]], Sequence[npt.NDArray[np.integer]]],
    *,
    objective: Objective = ZLPR,
) -> Task:
    """Build the task: an encoder that reads texts, a `TextClassifier`.

    A batch is as wide as its longest text asks for, in a few widths only.

    Args:
        config: The network.
        encode: From texts to the ids of their tokens, at most
            `config.encoder.max_length` each.
        objective: What is trained.

    Returns:
        A `Task` over `Record`s whose features are texts; a prediction is the row of
        logits, float32 `[C]`.
    """
    graph = nnx.eval_shape(lambda: TextClassifier(config, rngs=nnx.Rngs(0)))
    apply = functionalize(graph).apply

    def init(key):
        _, params, state = functionalize(TextClassifier(config, rngs=nnx.Rngs(key)))
        return params, state

    def logits_of(params, state, batch, key=None):
        tokens, where = batch["tokens"], batch["real"]
        return apply(params, state, tokens, where=where, key=key)

    def arrays(records, size, lengths=None) -> dict[str, Any]:
        rows = encode(texts_of(records))
        longest = max(map(len, rows), default=0) if lengths is None else lengths
        tokens = np.zeros((size, padded_length(int(longest))), np.int32)
        real = np.zeros(tokens.shape, bool)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)], real[row, : len(ids)] = ids, True
        return {"tokens": tokens, "real": real}

    def lengths(records) -> npt.NDArray[np.integer]:
        return np.array([len(ids) for ids in encode(texts_of(records))], np.int64)

    return _task(config.labels, objective, init, logits_of, arrays, lengths)


def padded_length(length: int) -> int:
    """Tokens of a batch whose longest text has `length`: 8, 16, 24, 32, 48, 64, 96, ...

    A width between the powers of two saves a third of the work where texts just do not
    fit; more of them would be more programs to compile.

    Examples:
        >>> [padded_length(n) for n in (0, 8, 9, 17, 25, 33, 49, 65)]
        [8, 8, 16, 24, 32, 48, 64, 96]
    """
    power = 1 << max(3, (length - 1).bit_length())
    between = power * 3 // 4
    return between if power > 16 and length <= between else power


def texts_of(records: Sequence[Record]) -> Sequence[str]:
    """The texts of records."""
    if isinstance(records, MultilabelData) and isinstance(records.features, tuple):
        return records.features
    return [str(record.features) for record in records]


def _task(
    labels: int,
    objective: Objective,
    init: Callable[..., Any],
    logits_of: Callable[..., Any],
    arrays: Callable[..., dict[str, Any]],
    lengths: Callable[..., Any] | None,
) -> Task:
    """What is the same for all networks: labels, loss, metrics and scores."""

    def batch(
        records: Sequence[Record], size: int, lengths: int | np.integer | None = None
    ) -> dict[str, Any]:
        return {
            **arrays(records, size, lengths),
            "labels": label_matrix(records, labels, size),
            "where": np.arange(size) < len(records),
        }

    def loss_and_metrics(params, state, batch, key):
        where, labels = batch["where"], batch["labels"]
        rows, logits, state = objective(
            lambda key: logits_of(params, state, batch, key), labels, key
        )
        rows = jnp.where(where, rows, 0)
        total, count = rows.sum(), where.sum().astype(jnp.float32)
        counts = label_counts(zlpr_predict(logits), labels, where=where)
        hits, *wrong = (count.sum().astype(jnp.float32) for count in counts)
        # micro-F1 = 2 tp / (2 tp + fp + fn), already a ratio of two sums
        f1 = (2 * hits, 2 * hits + sum(wrong))
        return total / count, (state, {"loss": (total, count), "micro_f1": f1})

    def predict(params, state, batch):
        return logits_of(params, state, batch)[0]

    def decode(outputs: np.ndarray, records: Sequence[Record]) -> list[np.ndarray]:
        return list(outputs[: len(records)])

    def score(predictions, records: Sequence[Record]) -> dict[str, float]:
        matrix, logits = label_matrix(records, labels), np.stack(predictions)
        if not np.isfinite(logits).all():
            raise InputError(
                "the predictions are not finite, training has diverged: lower the "
                "learning rate (--optimizer.learning-rate)."
            )
        return multilabel_scores(logits, matrix)

    return Task(
        init=init,
        batch=batch,
        loss=loss_and_metrics,
        predict=predict,
        decode=decode,
        score=score,
        headline=("micro_f1", "max"),
        lengths=lengths,
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
