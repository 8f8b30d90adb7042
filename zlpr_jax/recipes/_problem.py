"""Few labels or many: the tasks of an experiment, and what is shown of them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.data.multilabel import MultilabelData
from zlpr_jax.losses import micro_f1_threshold
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.recipes import _pictures
from zlpr_jax.recipes._config import LINEAR_LABELS, ExperimentConfig
from zlpr_jax.tasks import extreme, multilabel
from zlpr_jax.tasks.features import feature_scaling
from zlpr_jax.tasks.scores import MULTILABEL_SCORES
from zlpr_jax.tasks.topk_scores import TOPK_SCORES
from zlpr_jax.training._curves import draw_panels

# Rows that validate a large set: enough to compare evaluations, soon scored.
VALIDATION_ROWS = 5_000


class Problem(NamedTuple):
    """A data set as tasks, and what differs between few labels and many.

    Attributes:
        config: What config.json says of it.
        schema: What schema.json says of it.
        tasks: A task for each loss.
        headings: Heading of each column of the table.
        titles: Title of each score, and whether a larger one is better.
        validation_rows: Rows that validate at most.
        lines: `(predictions, data) -> lines of predictions.jsonl`.
        saved: `params -> params`, as the run folder keeps them.
        tuning: `(validation predictions, records) -> (predictions -> predictions)`, the
            better ones of a tuned threshold; for bce.
        draw: `(path, title, curves, {loss: test predictions per seed}, test rows)`.
    """

    config: dict[str, Any]
    schema: dict[str, Any]
    tasks: dict[str, Task]
    headings: Mapping[str, str]
    titles: Mapping[str, tuple[str, bool]]
    validation_rows: int | None
    lines: Callable[..., Iterator[str]]
    saved: Callable[[PyTree], PyTree]
    tuning: Callable[..., Callable[..., Any]]
    draw: Callable[..., None]


def make_problem(
    config: ExperimentConfig, train: MultilabelData, *, top: int, mesh: Mesh | None
) -> Problem:
    """Build the problem of `train`, whose features are vectors.

    Args:
        config: Losses and network, decided (`settle`).
        train: All training rows.
        top: Labels given per row where there are many.
        mesh: Devices to train on; `None` for one.

    Raises:
        InputError: If there is no feature, or the settings do not fit the data.
    """
    if not train.num_features:
        raise InputError(f"{train.path}: no row has a feature; expected at least one.")
    network = MLPConfig(
        features=train.num_features,
        labels=train.num_labels,
        **dataclasses.asdict(config.model),
    )
    if train.num_labels > LINEAR_LABELS:
        return _many_labels(network, train, top=top, mesh=mesh)
    if mesh is not None and mesh.shape["label"] > 1:
        raise InputError(
            f"the mesh axis label splits sets of more than {LINEAR_LABELS} labels; "
            f"{train.path} has {train.num_labels}: give data=, fsdp= or both."
        )
    return _few_labels(network, train, config.losses or ())


def _few_labels(
    network: MLPConfig, train: MultilabelData, losses: Sequence[str]
) -> Problem:
    scaling = feature_scaling(train)

    def tuning(predictions, records):
        labels = multilabel.label_matrix(records, network.labels)
        threshold = micro_f1_threshold(np.stack(predictions), labels)
        return lambda predictions: [row - threshold for row in predictions]

    def draw(path, title, curves, predictions, test):
        logits = {
            loss: [np.stack(rows) for rows in seeds]
            for loss, seeds in predictions.items()
        }
        labels = test.labels.toarray().astype(bool)
        draw_panels(
            path,
            title,
            lambda axes: _pictures.learning_curves(
                axes, curves, "validation", "micro_f1", "validation micro-F1"
            ),
            lambda axes: _pictures.f1_by_threshold(axes, logits, labels),
        )

    return Problem(
        config={"task": "multilabel", "network": dataclasses.asdict(network)},
        schema={},
        tasks={
            loss: multilabel.make(
                network, loss=multilabel.LOSSES[loss], scaling=scaling
            )
            for loss in losses
        },
        headings={
            "zlpr": "ZLPR\ns > 0",
            "bce": "BCE\np > 0.5",
            "bce_tuned": "BCE\ntuned",
        },
        titles=MULTILABEL_SCORES,
        validation_rows=None,
        lines=multilabel.prediction_lines,
        saved=lambda params: params,
        tuning=tuning,
        draw=draw,
    )


def _many_labels(
    network: MLPConfig, train: MultilabelData, *, top: int, mesh: Mesh | None
) -> Problem:
    counts = np.bincount(train.labels.indices, minlength=network.labels)
    task = extreme.make(
        network,
        label_counts=counts,
        rows=len(train),
        scaling=feature_scaling(train),
        top=top,
        mesh=mesh,
    )

    def draw(path, title, curves, predictions, test):
        del predictions, test
        draw_panels(
            path,
            title,
            lambda axes: _pictures.learning_curves(
                axes, curves, "validation", "precision_at_1", "validation P@1"
            ),
            lambda axes: _pictures.learning_curves(
                axes, curves, "train", "loss", "training loss"
            ),
        )

    return Problem(
        config={"task": "extreme", "network": dataclasses.asdict(network)},
        schema={"rows": len(train), "label_counts": counts.tolist()},
        tasks={"zlpr": task},
        headings={"zlpr": "ZLPR"},
        titles=TOPK_SCORES,
        validation_rows=VALIDATION_ROWS,
        lines=extreme.prediction_lines,
        saved=lambda params: extreme.unsharded(params, network.labels),
        tuning=lambda predictions, records: lambda predictions: predictions,
        draw=draw,
    )
