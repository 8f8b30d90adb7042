"""One loss and seed: find the number of epochs, train on all rows, score."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.data.multilabel import MultilabelData
from zlpr_jax.recipes._session import Session
from zlpr_jax.training import FitResult


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
        tuned: If it was to be tuned, test scores at the threshold that was best on the
            validation part.
    """

    predictions: list[Any]
    scores: dict[str, float]
    tuned: dict[str, float] | None


def train_once(
    session: Session,
    rows: Rows,
    loss: str,
    seed: int,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    refit: bool,
    tuning: Callable[..., Callable[..., Any]] | None,
    initial: Callable[[int], tuple[PyTree, PyTree]] | None,
) -> tuple[FitResult, Trained]:
    """Train and score one seed under one loss, from where checkpoints left it.

    Args:
        session: What all trainings share.
        rows: The rows.
        loss: Name of the loss.
        seed: The seed.
        task: The task under this loss.
        tx: The optimizer.
        refit: Whether to train again on all rows.
        tuning: `Problem.tuning`, if a threshold is to be tuned.
        initial: `Problem.initial`.

    Raises:
        Interrupted: If there was a Ctrl-C or SIGTERM.
    """
    name = f"{loss}, seed {seed}"

    def run(
        stage: str,
        records: MultilabelData,
        steps: int,
        validation: MultilabelData | None = None,
    ) -> FitResult:
        return session.fit(
            name,
            task,
            tx,
            records,
            dataclasses.replace(session.settings, seed=seed, steps=steps),
            checkpoints=f"{loss}-{seed}-{stage}",
            log=session.log.bind(loss=loss, seed=seed, stage=stage),
            stage="" if stage == "search" else "all rows",
            validation=validation,
            initial=initial and initial(seed),
        )

    def scored(fitted: FitResult, records: MultilabelData):
        return session.evaluate(task, fitted.params, fitted.state, records)

    session.bar.start(name, headline=task.headline)
    stage, steps = "search", session.settings.steps
    fitted = run(stage, rows.fitting, steps, rows.validation)
    tune = tuning and tuning(scored(fitted, rows.validation)[1], rows.validation)
    if refit:
        # the same number of epochs, which with more rows is more steps
        stage, steps = "refit", round(fitted.step * len(rows.train) / len(rows.fitting))
        # two sets of parameters at a time would be one too many
        del fitted
        fitted = run(stage, rows.train, steps)
    scores, predictions = scored(fitted, rows.test)
    log = session.log.bind(loss=loss, seed=seed, stage=stage)
    log.write({"step": fitted.step, "test": scores})
    session.bar.finish(f"{fitted.step} steps")
    tuned = tune and task.score(tune(predictions), rows.test)
    return fitted, Trained(predictions, scores, tuned)
