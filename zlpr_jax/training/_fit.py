"""One loop that trains any task with any optimizer."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.training._interrupt import first_interrupt


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and in what portions to train.

    Attributes:
        steps: Optimizer steps at most.
        batch_size: Records per step.
        eval_every: Steps between evaluations of the validation records.
        patience: Evaluations without a better headline before training stops; `None`
            never stops early.
        seed: Seeds initialisation, the order of the records and dropout.
    """

    steps: int = 3000
    batch_size: int = 128
    eval_every: int = 100
    patience: int | None = 10
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "batch_size", "eval_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be >= 1, got {value}.")


class Progress(NamedTuple):
    """What `fit` reports while it runs.

    Attributes:
        step: Optimizer steps done.
        metrics: The task's training metrics, averaged since the last report.
        examples_per_second: Records trained on per second since the last report.
        scores: The task's scores of the validation records, at evaluations only.
    """

    step: int
    metrics: dict[str, float]
    examples_per_second: float
    scores: dict[str, float] | None


class FitResult(NamedTuple):
    """What `fit` reached.

    Attributes:
        params: The trained parameters: those of the best evaluation if there were
            validation records, else the last.
        state: The state that belongs to `params`.
        step: The step that `params` were reached at.
        interrupted: Whether Ctrl-C ended training early.
    """

    params: PyTree
    state: PyTree
    step: int
    interrupted: bool


def fit(
    task: Task,
    tx: optax.GradientTransformation,
    records: Sequence[Any],
    config: FitConfig,
    *,
    validation: Sequence[Any] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    report_every: int = 25,
) -> FitResult:
    """Train a task's parameters.

    Every batch is full: the records are visited in a new random order each epoch, and
    epochs are joined. The same seed on the same device gives the same result. The first
    Ctrl-C ends training after the running step with what was reached; a second one is
    an ordinary `KeyboardInterrupt`.

    Args:
        task: What to train.
        tx: The optimizer.
        records: A sequence with `len` and integer indexing.
        config: Steps, batch size, evaluation and seed.
        validation: Records to score every `eval_every` steps and at the end. The
            parameters of the best headline are kept.
        report: Called with a `Progress` every `report_every` steps and after each
            evaluation.
        report_every: Steps between reports.

    Returns:
        A `FitResult`.

    Raises:
        InputError: If there is no record, or the loss stops being finite.
    """
    if not len(records):
        raise InputError("there is no record to train on: the training set is empty.")
    init_key, key = jax.random.split(jax.random.key(config.seed))
    params, state = task.init(init_key)
    # Every step writes over the ones before. They may be somebody else's, or the
    # optimizer may have begun with the parameters themselves: hence the copies.
    params, opt_state = _copy((params, tx.init(params)))
    best = None
    since, sums, stale, step = time.perf_counter(), [], 0, 0
    batches = _batches(len(records), config.batch_size, config.seed)
    with first_interrupt() as interrupted:
        for step in range(1, config.steps + 1):
            batch = task.batch([records[i] for i in next(batches)], config.batch_size)
            params, state, opt_state, metrics = _train_step(
                task, tx, params, state, opt_state, batch, jax.random.fold_in(key, step)
            )
            sums.append(metrics)
            ending = step == config.steps or interrupted.is_set()
            evaluating = ending or step % config.eval_every == 0
            if not (evaluating or step % report_every == 0):
                continue
            means = _means(sums, step)
            rate = len(sums) * config.batch_size / (time.perf_counter() - since)
            scores = None
            if evaluating and validation is not None:
                scores, _ = evaluate(task, params, state, validation, config.batch_size)
                if best is None or _better(task, scores, best[0]):
                    best, stale = (scores, _copy(params), state, step), 0
                else:
                    stale += 1
            report(Progress(step, means, rate, scores))
            since, sums = time.perf_counter(), []
            if ending or (config.patience is not None and stale >= config.patience):
                break
    if best is not None:
        _, params, state, step = best
    return FitResult(params, state, step, interrupted.is_set())


def predict(
    task: Task, params: PyTree, state: PyTree, records: Sequence[Any], batch_size: int
) -> list[Any]:
    """Return one prediction per record, in their order."""
    predictions = []
    for start in range(0, len(records), batch_size):
        chunk = [
            records[i] for i in range(start, min(start + batch_size, len(records)))
        ]
        outputs = _predict_step(task, params, state, task.batch(chunk, batch_size))
        predictions += task.decode(jax.device_get(outputs), chunk)
    return predictions


def evaluate(
    task: Task, params: PyTree, state: PyTree, records: Sequence[Any], batch_size: int
) -> tuple[dict[str, float], list[Any]]:
    """Return the task's scores over all records, and the predictions behind them."""
    predictions = predict(task, params, state, records, batch_size)
    return task.score(predictions, records), predictions


# A Task and an optax transformation are tuples of functions: hashable, so static. One
# compilation serves every seed that is trained with the same two.
@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 4))
def _train_step(task, tx, params, state, opt_state, batch, key):
    grad = jax.value_and_grad(task.loss, has_aux=True)
    (_, (state, metrics)), grads = grad(params, state, batch, key)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), state, opt_state, metrics


@functools.partial(jax.jit, static_argnums=0)
def _predict_step(task, params, state, batch):
    return task.predict(params, state, batch)


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jax.numpy.copy, tree)


def _batches(size: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    while True:
        while len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(size)])
        yield order[:batch_size]
        order = order[batch_size:]


def _means(metrics: list[dict[str, Any]], step: int) -> dict[str, float]:
    """Join (sum, count) pairs; reading them is what waits for the device."""
    total = jax.tree.map(lambda *parts: float(np.sum(parts)), *jax.device_get(metrics))
    means = {name: top / max(count, 1e-9) for name, (top, count) in total.items()}
    if not all(np.isfinite(value) for value in means.values()):
        raise InputError(
            f"training diverged by step {step} ({means}): "
            "lower the learning rate (--optimizer.learning-rate)."
        )
    return means


def _better(task: Task, scores: dict[str, float], best: dict[str, float]) -> bool:
    name, direction = task.headline
    sign = 1 if direction == "max" else -1
    return sign * scores[name] > sign * best[name]
