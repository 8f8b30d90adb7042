"""Compare losses on one multi-label data set: the run behind `zlpr-jax train`.

Each seed and loss trains twice: once without the validation part, to find the number of
epochs, then on all training rows for that number. The test rows are scored once.
"""

import dataclasses
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax
from rich.console import Console

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax.data.multilabel import MultilabelData, Record
from zlpr_jax.data.tfidf import Tfidf
from zlpr_jax.recipes._config import ExperimentConfig, settle
from zlpr_jax.recipes._optimizer import make_optimizer
from zlpr_jax.recipes._problem import Problem, make_problem
from zlpr_jax.recipes._results import print_table, summarize
from zlpr_jax.tasks.features import vectorize
from zlpr_jax.training import (
    FitConfig,
    FitResult,
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
    """One seed under one loss, scored on the test rows.

    Attributes:
        predictions: One per test row.
        scores: Test scores at s > 0.
        tuned: For bce, test scores at the threshold that was best on the validation
            part.
        steps: Steps trained.
        interrupted: Whether Ctrl-C cut training short.
    """

    predictions: list[Any]
    scores: dict[str, float]
    tuned: dict[str, float] | None
    steps: int
    interrupted: bool


def split(
    data: MultilabelData, share: float, *, most: int | None = None
) -> tuple[MultilabelData, MultilabelData]:
    """Split rows at random, always the same way, into (1 - share, share).

    Args:
        data: The rows.
        share: Share of them in the second part.
        most: Rows in the second part at most; the others stay in the first.

    Raises:
        InputError: If one side would be empty.
    """
    count = round(share * len(data))
    if not 0 < count < len(data):
        raise InputError(
            f"{data.path}: {share:g} of {len(data)} rows leaves one side of the split "
            "empty: give more rows, or another share."
        )
    count = min(count, most or count)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data))
    return data.take(np.sort(order[count:])), data.take(np.sort(order[:count]))


def run_experiment(
    name: str,
    config: ExperimentConfig,
    train: MultilabelData,
    test: MultilabelData,
    *,
    max_features: int = 20_000,
    top: int = 20,
    label_shards: int = 1,
) -> dict[str, Any]:
    """Train every loss and seed, print the comparison and write the run folder.

    Args:
        name: Names the default run folder and the title of the table.
        config: The experiment.
        train: Training rows; a part of them validates.
        test: Test rows, read against the schema of `train`.
        max_features: Words and word pairs kept of a text.
        top: Labels given per row where there are many.
        label_shards: Devices that many labels are split over.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: If the data or the settings do not allow it; no folder is left.
    """
    schema = train.schema
    tfidf = None
    if isinstance(train.features, tuple):
        tfidf = Tfidf.fit(train.features, max_features=max_features)
        train, test = vectorize(train, tfidf), vectorize(test, tfidf)
    settled = settle(config, train.num_labels)
    problem = make_problem(settled, train, top=top, shards=label_shards)
    fitting, validation = split(train, config.validation, most=problem.validation_rows)
    rows = Rows(*(list(part) for part in (fitting, validation, train, test)))
    settings = FitConfig(
        steps=settled.steps,
        batch_size=settled.batch_size,
        eval_every=config.eval_every,
        patience=config.patience,
    )
    optimizers = {
        loss: _optimizer(config, loss, settled.steps) for loss in settled.losses
    }
    kept: FitResult | None = None
    trained: dict[str, list[Trained]] = {loss: [] for loss in settled.losses}
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
                "settings": dataclasses.asdict(config) | settled.to_json(),
                **problem.config,
            },
        )
        folder.write_json(
            "schema.json",
            {
                "data": schema.to_json(),
                "tfidf": tfidf and tfidf.to_json(),
                **problem.schema,
            },
        )
        with ProgressBar(console) as bar:
            for seed, loss in itertools.product(range(config.seeds), settled.losses):
                if interrupted.is_set():
                    break

                def log(row: Mapping[str, Any], loss=loss, seed=seed) -> None:
                    row = {"loss": loss, "seed": seed, **row}
                    folder.append_json("metrics.jsonl", row)
                    curves.append(row)

                task = problem.tasks[loss]
                bar.start(f"{loss}, seed {seed}", headline=task.headline[0])
                fitted, result = _train_once(
                    task,
                    optimizers[loss],
                    dataclasses.replace(settings, seed=seed),
                    rows,
                    bar,
                    log,
                    interrupted,
                    refit=config.refit,
                    report_every=problem.report_every,
                    tuning=problem.tuning if loss == "bce" else None,
                )
                bar.finish(f"{result.steps} steps")
                trained[loss].append(result)
                # the parameters of the others are let go
                kept = kept or fitted
        # A fit cut short counts only where there is no whole one.
        for loss, results in trained.items():
            whole = [result for result in results if not result.interrupted]
            trained[loss] = whole or results
        trained = {loss: results for loss, results in trained.items() if results}
        assert kept is not None
        params = problem.saved(kept.params)
        folder.write_tree("params.safetensors", {"params": params, "state": kept.state})
        results = _write_outcome(folder, name, problem, trained, curves, test)
        results["interrupted"] = interrupted.is_set()
        folder.write_json("results.json", results)
    if results["interrupted"]:
        console.print("interrupted: what follows was reached so far")
    title = f"{name}: {len(test)} test rows"
    print_table(console, title, results, problem.headings, problem.titles)
    for what, path in ("run folder", ""), ("picture", "curves.png"):
        place = folder.final / path
        console.print(f"{what}: {place}", soft_wrap=True, highlight=False)
    return results


def _optimizer(
    config: ExperimentConfig, loss: str, steps: int
) -> optax.GradientTransformationExtraArgs:
    optimizer = config.optimizer
    if loss == "bce" and config.bce_learning_rate is not None:
        rate = config.bce_learning_rate
        optimizer = dataclasses.replace(optimizer, learning_rate=rate)
    return make_optimizer(optimizer, steps)


def _train_once(
    task: Task,
    tx: optax.GradientTransformation,
    settings: FitConfig,
    rows: Rows,
    bar: ProgressBar,
    log: Callable[[Mapping[str, Any]], None],
    interrupted: threading.Event,
    *,
    refit: bool,
    report_every: int,
    tuning: Callable[..., Callable[..., Any]] | None,
) -> tuple[FitResult, Trained]:
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

    def scored(fitted: FitResult, records: Sequence[Record]):
        size = settings.batch_size
        return evaluate(task, fitted.params, fitted.state, records, size)

    bar.stage("", settings.steps)
    fitted = fit(
        task,
        tx,
        rows.fitting,
        settings,
        validation=rows.validation,
        report=report,
        report_every=report_every,
    )
    tune = tuning and tuning(scored(fitted, rows.validation)[1], rows.validation)
    # Ctrl-C may also come between two fits
    cut_short = fitted.interrupted or interrupted.is_set()
    if refit and not cut_short:
        # the same number of epochs, which with more rows is more steps
        steps = round(fitted.step * len(rows.train) / len(rows.fitting))
        bar.stage("all rows", steps)
        settings = dataclasses.replace(settings, steps=steps)
        # two sets of parameters at a time would be one too many
        del fitted
        fitted = fit(
            task, tx, rows.train, settings, report=bar.update, report_every=report_every
        )
        cut_short = fitted.interrupted
    scores, predictions = scored(fitted, rows.test)
    log({"step": fitted.step, "test": scores})
    tuned = tune and task.score(tune(predictions), rows.test)
    return fitted, Trained(predictions, scores, tuned, fitted.step, cut_short)


def _write_outcome(
    folder: RunFolder,
    name: str,
    problem: Problem,
    trained: Mapping[str, Sequence[Trained]],
    curves: Sequence[Mapping[str, Any]],
    test: MultilabelData,
) -> dict[str, Any]:
    predictions = {
        loss: [run.predictions for run in runs] for loss, runs in trained.items()
    }
    with folder.open("predictions.jsonl") as stream:
        stream.writelines(problem.lines(next(iter(predictions.values()))[0], test))
    problem.draw(folder.path / "curves.png", name, curves, predictions, test)
    columns = {loss: [run.scores for run in runs] for loss, runs in trained.items()}
    if "bce" in trained:
        columns["bce_tuned"] = [run.tuned for run in trained["bce"] if run.tuned]
    return summarize(columns)
