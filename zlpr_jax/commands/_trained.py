"""A trained multi-label model, read back from its run folder."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.commands._complete import read_config
from zlpr_jax.data.multilabel import (
    LabelSpec,
    MultilabelData,
    Schema,
    parse_label_spec,
)
from zlpr_jax.data.tfidf import Tfidf
from zlpr_jax.models.bert import BertConfig
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.models.text_classifier import TextClassifierConfig
from zlpr_jax.tasks import extreme, multilabel
from zlpr_jax.tasks.features import vectorize
from zlpr_jax.tasks.scores import MULTILABEL_SCORES
from zlpr_jax.tasks.text_reader import TextReader
from zlpr_jax.tasks.topk_scores import TOPK_SCORES
from zlpr_jax.training import load_tree, predict, read_json


class TrainedModel(NamedTuple):
    """What a run folder holds: the task, its parameters and how to read files.

    Attributes:
        task: The task.
        titles: Title of each of its scores, and whether a larger one is better.
        lines: `(predictions, data, threshold) -> JSON lines`.
        params: Its parameters.
        state: Its state.
        schema: The columns of the training set.
        tfidf: How texts became features; `None` where they did not.
        labels: Which columns of a file are labels, as `train --labels` said.
        recipe: The recipe that was trained.
        test: The test file, if there was one.
        batch_size: Rows to predict at a time.
    """

    task: Task
    titles: Mapping[str, tuple[str, bool]]
    lines: Callable[..., Iterator[str]]
    params: PyTree
    state: PyTree
    schema: Schema
    tfidf: Tfidf | None
    labels: LabelSpec
    recipe: str
    test: str | None
    batch_size: int = 256

    def predict(self, data: MultilabelData) -> list[Any]:
        """Predict every row, as the task does."""
        vectors = vectorize(data, self.tfidf)
        return predict(self.task, self.params, self.state, vectors, self.batch_size)


def load_run(path: Path) -> TrainedModel:
    """Read a run folder.

    Raises:
        InputError: If a file is missing, damaged or does not fit the others.
    """
    config = read_config(path, ("yeast", "multilabel", "goemotions"))
    stored = read_json(path / "schema.json")
    try:
        schema = Schema.from_json(stored["data"])
        tfidf = stored["tfidf"] and Tfidf.from_json(stored["tfidf"])
        recipe, settings = config["recipe"], config["settings"]
        test, batch_size = settings.get("test"), 256
        if recipe == "goemotions":
            test = str(Path(settings["data"], "test.tsv"))
        if "reader" in stored:
            titles, lines = MULTILABEL_SCORES, multilabel.prediction_lines
            task, batch_size = _text_task(config["network"], stored["reader"]), 64
        elif config.get("task") == "extreme":
            network = _mlp(config["network"])
            titles, lines = TOPK_SCORES, extreme.prediction_lines
            task = extreme.make(
                network,
                label_counts=np.array(stored["label_counts"], np.int64),
                rows=stored["rows"],
                top=settings["top"],
            )
        else:
            titles, lines = MULTILABEL_SCORES, multilabel.prediction_lines
            task = multilabel.make(_mlp(config["network"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: config.json or schema.json is not what `zlpr-jax train` writes: "
            f"{error!r}"
        ) from None
    params, state = jax.eval_shape(task.init, jax.random.key(0))
    tree = load_tree(path / "params.safetensors", {"params": params, "state": state})
    return TrainedModel(
        task,
        titles,
        lines,
        tree["params"],
        tree["state"],
        schema,
        tfidf,
        parse_label_spec(settings.get("labels")),
        recipe,
        test,
        batch_size,
    )


def _mlp(network: dict[str, Any]) -> MLPConfig:
    return MLPConfig(**{**network, "hidden": tuple(network["hidden"])})


def _text_task(network: dict[str, Any], reader: dict[str, Any]) -> Task:
    config = TextClassifierConfig(
        **{**network, "encoder": BertConfig(**network["encoder"])}
    )
    return multilabel.make_text(config, TextReader.from_json(reader))
