"""Few labels or many: the tasks of an experiment, and what is shown of them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.data.multilabel import MultilabelData
from zlpr_jax.losses import micro_f1_threshold
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.models.text_classifier import TextClassifierConfig, classifier_rules
from zlpr_jax.recipes import _pictures
from zlpr_jax.recipes._config import LINEAR_LABELS, ExperimentConfig
from zlpr_jax.recipes._text_encoder import TextEncoder
from zlpr_jax.tasks import extreme, multilabel
from zlpr_jax.tasks.features import feature_scaling
from zlpr_jax.tasks.scores import MULTILABEL_SCORES
from zlpr_jax.tasks.topk_scores import TOPK_SCORES
from zlpr_jax.training._curves import draw_panels

# Rows that validate a large set: enough to compare evaluations, soon scored.
VALIDATION_ROWS = 5_000


HEADINGS = {
    column: heading
    for loss in ("zlpr", "zlpr_smooth", "zlpr_rdrop", "bce")
    for name in (_pictures.NAMES[loss],)
    for column, heading in (
        (loss, f"{name}\n{'p > 0.5' if loss == 'bce' else 's > 0'}"),
        (f"{loss}_tuned", f"{name}\ntuned"),
    )
}


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
            better ones of a tuned threshold.
        tuned: The losses whose threshold is tuned.
        draw: `(path, title, curves, {loss: test predictions per seed}, test rows)`.
        initial: `seed -> (params, state)` to begin with; `None` for those of the task.
        rates: Rules for `zlpr_jax.optim.scale_by_path`.
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
    tuned: tuple[str, ...] = ("bce",)
    initial: Callable[[int], tuple[PyTree, PyTree]] | None = None
    rates: Sequence[tuple[str, Any]] = ()


def make_problem(
    config: ExperimentConfig,
    train: MultilabelData,
    *,
    top: int,
    mesh: Mesh | None,
    encoder: TextEncoder | None = None,
) -> Problem:
    """Build the problem of `train`, whose features are vectors.

    Args:
        config: Losses and network, decided (`settle`).
        train: All training rows; with an encoder their features are texts.
        top: Labels given per row where there are many.
        mesh: Devices to train on; `None` for one.
        encoder: What reads the texts.

    Raises:
        InputError: If there is no feature, or the settings do not fit the data.
    """
    if encoder is not None:
        _check_few(train, mesh)
        return _texts(config, encoder, train.num_labels)
    if not train.num_features:
        raise InputError(f"{train.path}: no row has a feature; expected at least one.")
    network = MLPConfig(
        features=train.num_features,
        labels=train.num_labels,
        **dataclasses.asdict(config.model),
    )
    if train.num_labels > LINEAR_LABELS:
        return _many_labels(network, train, top=top, mesh=mesh)
    _check_few(train, mesh)
    scaling = feature_scaling(train)
    tasks = {
        loss: multilabel.make(network, objective=objective, scaling=scaling)
        for loss, objective in _objectives(config).items()
    }
    return _few_labels(tasks, network, network.labels)


def _check_few(train: MultilabelData, mesh: Mesh | None) -> None:
    if mesh is not None and mesh.shape["label"] > 1:
        raise InputError(
            f"the mesh axis label splits sets of more than {LINEAR_LABELS} labels; "
            f"{train.path} has {train.num_labels}: give data=, fsdp= or both."
        )


def _objectives(config: ExperimentConfig) -> dict[str, multilabel.Objective]:
    """What each of the losses asked for is."""
    known = {
        "zlpr": multilabel.ZLPR,
        "bce": multilabel.BCE,
        "zlpr_smooth": multilabel.ZLPR._replace(smoothing=config.smoothing),
        "zlpr_rdrop": multilabel.ZLPR._replace(r_drop=config.r_drop),
    }
    return {loss: known[loss] for loss in config.losses or ()}


def _texts(config: ExperimentConfig, encoder: TextEncoder, labels: int) -> Problem:
    text = config.text
    network = TextClassifierConfig(
        encoder=encoder.config,
        labels=labels,
        pooling=text.pooling,
        dropout=text.dropout,
    )
    tasks = {
        loss: multilabel.make_text(network, encoder.reader, objective=objective)
        for loss, objective in _objectives(config).items()
    }
    begin = jax.jit(next(iter(tasks.values())).init)

    def initial(seed: int) -> tuple[PyTree, PyTree]:
        params, state = begin(jax.random.key(seed))
        return {**params, "encoder": encoder.params}, state

    rate = text.learning_rate / config.optimizer.learning_rate
    return _few_labels(tasks, network, labels)._replace(
        schema={"reader": encoder.reader.to_json()},
        tuned=tuple(tasks),
        initial=initial,
        rates=classifier_rules(network, text.layer_decay, rate),
    )


def _few_labels(
    tasks: dict[str, Task], network: MLPConfig | TextClassifierConfig, labels: int
) -> Problem:
    def tuning(predictions, records):
        truth = multilabel.label_matrix(records, labels)
        threshold = micro_f1_threshold(np.stack(predictions), truth)
        return lambda predictions: [row - threshold for row in predictions]

    def draw(path, title, curves, predictions, test):
        logits = {
            loss: [np.stack(rows) for rows in seeds]
            for loss, seeds in predictions.items()
        }
        truth = test.labels.toarray().astype(bool)
        draw_panels(
            path,
            title,
            lambda axes: _pictures.learning_curves(
                axes, curves, "validation", "micro_f1", "validation micro-F1"
            ),
            lambda axes: _pictures.f1_by_threshold(axes, logits, truth),
        )

    return Problem(
        config={"task": "multilabel", "network": dataclasses.asdict(network)},
        schema={},
        tasks=tasks,
        headings=HEADINGS,
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
