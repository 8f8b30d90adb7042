"""Compare losses on one multi-label data set: the run behind `zlpr-jax train`.

Each seed and loss trains twice: once without the validation part, to find the number of
epochs, then on all training rows for that number. The test rows are scored once.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax
from rich.console import Console

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.data.multilabel import MultilabelData, Record
from zlpr_jax.data.tfidf import Tfidf
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.recipes._config import ExperimentConfig
from zlpr_jax.recipes._optimizer import make_optimizer
from zlpr_jax.recipes._results import draw, print_table, summarize
from zlpr_jax.tasks import multilabel
from zlpr_jax.tasks.scores import best_threshold
from zlpr_jax.training import (
    FitConfig,
    Progress,
    ProgressBar,
    RunFolder,
    default_run,
    evaluate,
    first_interrupt,
    fit,
)

# Which rows validate never depends on the seed of a fit.
SPLIT_SEED = 0


class Rows(NamedTuple):
    """Records by what they are for; `train` is `fitting` and `validation` together."""

    fitting: list[Record]
    validation: list[Record]
    train: list[Record]
    test: list[Record]


class Trained(NamedTuple):
    """One seed under one loss.

    Attributes:
        params: Parameters, trained on all training rows.
        state: The state that belongs to them.
        logits: Scores of the test rows, `[rows, labels]`.
        scores: Test scores at s > 0.
        tuned: Test scores at the threshold that was best on the validation part.
        steps: Steps trained.
        interrupted: Whether Ctrl-C cut training short.
    """

    params: PyTree
    state: PyTree
    logits: np.ndarray
    scores: dict[str, float]
    tuned: dict[str, float]
    steps: int
    interrupted: bool


def split(data: MultilabelData, share: float) -> tuple[MultilabelData, MultilabelData]:
    """Split rows at random, always the same way, into (1 - share, share).

    Raises:
        InputError: If one side would be empty.
    """
    count = round(share * len(data))
    if not 0 < count < len(data):
        raise InputError(
            f"{data.path}: {share:g} of {len(data)} rows leaves one side of the split "
            "empty: give more rows, or another share."
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data))
    return data.take(np.sort(order[count:])), data.take(np.sort(order[:count]))


def run_experiment(
    name: str,
    config: ExperimentConfig,
    train: MultilabelData,
    test: MultilabelData,
    *,
    max_features: int = 20_000,
) -> dict[str, Any]:
    """Train every loss and seed, print the comparison and write the run folder.

    Args:
        name: Names the default run folder and the title of the table.
        config: The experiment.
        train: Training rows; a part of them validates.
        test: Test rows, read against the schema of `train`.
        max_features: Words and word pairs kept of a text.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: If the data or the settings do not allow it; no folder is left.
    """
    schema = train.schema
    tfidf = None
    if isinstance(train.features, tuple):
        tfidf = Tfidf.fit(train.features, max_features=max_features)
        train = multilabel.vectorize(train, tfidf)
        test = multilabel.vectorize(test, tfidf)
    if not train.num_features:
        raise InputError(f"{train.path}: no row has a feature; expected at least one.")
    network = MLPConfig(
        features=train.num_features,
        labels=train.num_labels,
        **dataclasses.asdict(config.model),
    )
    fitting, validation = split(train, config.validation)
    rows = Rows(list(fitting), list(validation), list(train), list(test))
    problems = _problems(config, network, train)
    trained: dict[str, list[Trained]] = {loss: [] for loss in config.losses}
    curves: list[dict[str, Any]] = []
    console = Console()
    with (
        RunFolder(config.run or default_run(name)) as folder,
        first_interrupt() as interrupted,
    ):
        folder.write_json(
            "config.json",
            {
                "recipe": name,
                "train": train.path,
                "test": test.path,
                "settings": dataclasses.asdict(config),
                "network": dataclasses.asdict(network),
            },
        )
        folder.write_json(
            "schema.json",
            {"data": schema.to_json(), "tfidf": tfidf and tfidf.to_json()},
        )
        with ProgressBar(console) as bar:
            for seed, loss in itertools.product(range(config.seeds), config.losses):
                if interrupted.is_set():
                    break

                def log(row: Mapping[str, Any], loss=loss, seed=seed) -> None:
                    row = {"loss": loss, "seed": seed, **row}
                    folder.append_json("metrics.jsonl", row)
                    curves.append(row)

                bar.start(f"{loss}, seed {seed}", headline="micro_f1")
                result = _train_once(*problems[loss], config, seed, rows, bar, log)
                bar.finish(f"{result.steps} steps")
                trained[loss].append(result)
        # A fit cut short counts only where there is no whole one.
        for loss, results in trained.items():
            whole = [result for result in results if not result.interrupted]
            trained[loss] = whole or results
        trained = {loss: results for loss, results in trained.items() if results}
        results = _write_outcome(folder, name, trained, curves, test)
        results["interrupted"] = interrupted.is_set()
        folder.write_json("results.json", results)
    _print_outcome(console, name, results, len(test), folder)
    return results


def _problems(
    config: ExperimentConfig, network: MLPConfig, train: MultilabelData
) -> dict[str, tuple[Task, optax.GradientTransformation]]:
    """A task and an optimizer per loss."""
    scaling = multilabel.feature_scaling(train)
    problems = {}
    for loss in config.losses:
        optimizer = config.optimizer
        if loss == "bce" and config.bce_learning_rate is not None:
            optimizer = dataclasses.replace(
                optimizer, learning_rate=config.bce_learning_rate
            )
        task = multilabel.make(network, loss=multilabel.LOSSES[loss], scaling=scaling)
        problems[loss] = task, make_optimizer(optimizer, config.steps)
    return problems


def _train_once(
    task: Task,
    tx: optax.GradientTransformation,
    config: ExperimentConfig,
    seed: int,
    rows: Rows,
    bar: ProgressBar,
    log: Callable[[Mapping[str, Any]], None],
) -> Trained:
    settings = FitConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        eval_every=config.eval_every,
        patience=config.patience,
        seed=seed,
    )

    def report(progress: Progress) -> None:
        bar.update(progress)
        if progress.scores is not None:
            log(
                {
                    "step": progress.step,
                    "train": progress.metrics,
                    "validation": progress.scores,
                }
            )

    bar.stage("", config.steps)
    fitted = fit(
        task, tx, rows.fitting, settings, validation=rows.validation, report=report
    )
    _, logits = evaluate(
        task, fitted.params, fitted.state, rows.validation, config.batch_size
    )
    validation_logits = np.stack(logits)
    validation_labels = multilabel.label_matrix(
        rows.validation, validation_logits.shape[1]
    )
    threshold = best_threshold(validation_logits, validation_labels)
    if not fitted.interrupted:
        # the same number of epochs, which with more rows is more steps
        steps = round(fitted.step * len(rows.train) / len(rows.fitting))
        bar.stage("all rows", steps)
        settings = dataclasses.replace(settings, steps=steps)
        fitted = fit(task, tx, rows.train, settings, report=bar.update)
    scores, logits = evaluate(
        task, fitted.params, fitted.state, rows.test, config.batch_size
    )
    log({"step": fitted.step, "test": scores})
    tuned = task.score([row - threshold for row in logits], rows.test)
    return Trained(
        fitted.params,
        fitted.state,
        np.stack(logits),
        scores,
        tuned,
        fitted.step,
        fitted.interrupted,
    )


def _write_outcome(
    folder: RunFolder,
    name: str,
    trained: Mapping[str, Sequence[Trained]],
    curves: Sequence[Mapping[str, Any]],
    test: MultilabelData,
) -> dict[str, Any]:
    kept = next(iter(trained.values()))[0]
    folder.write_tree(
        "params.safetensors", {"params": kept.params, "state": kept.state}
    )
    with folder.open("predictions.jsonl") as stream:
        for line in multilabel.prediction_lines(kept.logits, test):
            stream.write(line)
    draw(
        folder.path / "curves.png",
        name,
        curves,
        {loss: [result.logits for result in each] for loss, each in trained.items()},
        test.labels.toarray().astype(bool),
    )
    columns = {loss: [run.scores for run in runs] for loss, runs in trained.items()}
    if "bce" in trained:
        columns["bce_tuned"] = [run.tuned for run in trained["bce"]]
    return summarize(columns)


def _print_outcome(
    console: Console, name: str, results: dict[str, Any], count: int, folder: RunFolder
) -> None:
    if results["interrupted"]:
        console.print("interrupted: what follows was reached so far")
    print_table(console, f"{name}: {count} test rows", results)
    for title, path in (
        ("run folder", folder.final),
        ("picture", folder.final / "curves.png"),
    ):
        console.print(f"{title}: {path}", soft_wrap=True, highlight=False)
