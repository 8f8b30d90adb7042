"""One loss and seed: find the number of epochs, train on all rows, score."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optax
from jax.sharding import Mesh

from zlpr_jax._task import Task
from zlpr_jax.data.multilabel import MultilabelData
from zlpr_jax.training import (
    CheckpointConfig,
    FitConfig,
    FitResult,
    MetricsLog,
    Profile,
    ProgressBar,
    evaluate,
    fit,
)
from zlpr_jax.training._processes import any_process


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, with more to do; the text says how far it came."""


class Rows(NamedTuple):
    """Rows by what they are for; `train` is `fitting` and `validation` together."""

    fitting: MultilabelData
    validation: MultilabelData
    train: MultilabelData
    test: MultilabelData


class Trained(NamedTuple):
    """One seed under one loss, scored on the test rows.

    Attributes:
        predictions: One per test row.
        scores: Test scores at s > 0.
        tuned: For bce, test scores at the threshold that was best on the validation
            part.
    """

    predictions: list[Any]
    scores: dict[str, float]
    tuned: dict[str, float] | None


class Setup(NamedTuple):
    """What all trainings of an experiment share.

    Attributes:
        rows: The rows.
        settings: Steps, batches and evaluation.
        refit: Whether to train again on all rows.
        mesh: Devices; `None` for one.
        checkpoints: How often, and a folder for the folders of all fits.
        log: Where metrics are written.
        bar: Shows progress.
        interrupted: Set by Ctrl-C and SIGTERM.
    """

    rows: Rows
    settings: FitConfig
    refit: bool
    mesh: Mesh | None
    checkpoints: CheckpointConfig
    log: MetricsLog
    bar: ProgressBar
    interrupted: threading.Event


def train_once(
    setup: Setup,
    loss: str,
    seed: int,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    tuning: Callable[..., Callable[..., Any]] | None,
    profile: Profile | None,
) -> tuple[FitResult, Trained]:
    """Train and score one seed under one loss, from where checkpoints left it.

    Args:
        setup: What all trainings share.
        loss: Name of the loss.
        seed: The seed.
        task: The task under this loss.
        tx: The optimizer.
        tuning: `Problem.tuning`, if a threshold is to be tuned.
        profile: Steps of the first fit to trace.

    Raises:
        Interrupted: If there was a Ctrl-C or SIGTERM.
    """
    rows, name = setup.rows, f"{loss}, seed {seed}"
    settings = dataclasses.replace(setup.settings, seed=seed)

    def bound(stage: str) -> MetricsLog:
        return setup.log.bind(loss=loss, seed=seed, stage=stage)

    def run(
        stage: str,
        records: MultilabelData,
        steps: int,
        validation: MultilabelData | None = None,
        profile: Profile | None = None,
    ) -> FitResult:
        title = "" if stage == "search" else "all rows"
        folder = setup.checkpoints.folder / f"{loss}-{seed}-{stage}"
        setup.bar.stage(title, steps)
        # Ctrl-C may also come between two fits
        if not any_process(setup.interrupted.is_set()):
            fitted = fit(
                task,
                tx,
                records,
                dataclasses.replace(settings, steps=steps),
                validation=validation,
                mesh=setup.mesh,
                checkpoints=dataclasses.replace(setup.checkpoints, folder=folder),
                metrics=bound(stage),
                report=setup.bar.update,
                profile=profile,
            )
            if not fitted.interrupted:
                return fitted
        place = f"{name}, {title}" if title else name
        raise Interrupted(f"step {_newest(folder)} of {place}")

    def scored(fitted: FitResult, records: MultilabelData):
        size = settings.batch_size
        return evaluate(
            task, fitted.params, fitted.state, records, size, mesh=setup.mesh
        )

    setup.bar.start(name, headline=task.headline)
    stage, steps = "search", settings.steps
    fitted = run(stage, rows.fitting, steps, rows.validation, profile)
    tune = tuning and tuning(scored(fitted, rows.validation)[1], rows.validation)
    if setup.refit:
        # the same number of epochs, which with more rows is more steps
        stage, steps = "refit", round(fitted.step * len(rows.train) / len(rows.fitting))
        # two sets of parameters at a time would be one too many
        del fitted
        fitted = run(stage, rows.train, steps)
    scores, predictions = scored(fitted, rows.test)
    bound(stage).write({"step": fitted.step, "test": scores})
    setup.bar.finish(f"{fitted.step} steps")
    tuned = tune and task.score(tune(predictions), rows.test)
    return fitted, Trained(predictions, scores, tuned)


def _newest(checkpoints: Path) -> int:
    """The last step that was saved."""
    steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal()]
    return max(steps, default=0)
