"""Predictions and scores of records, each exactly once."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.training._input import gather
from zlpr_jax.training._mesh import (
    process_rows,
    put_batch,
    replicated,
    seen_by_modules,
)


def predict(
    task: Task,
    params: PyTree,
    state: PyTree,
    records: Sequence[Any],
    batch_size: int,
    *,
    mesh: Mesh | None = None,
) -> list[Any]:
    """Return one prediction per record, in their order.

    The last batch is padded. Records are worked off by their length, where the task has
    lengths, so that those of a batch differ little. Of several processes each builds
    its own rows of a batch, and all of them return all predictions.

    Args:
        task: The task.
        params: Its parameters.
        state: Its state.
        records: A sequence with `len` and integer indexing, or with `take`.
        batch_size: Records per batch, over all devices.
        mesh: The devices that hold the parameters; `None` for one.
    """
    order = np.arange(len(records))
    if task.lengths is not None and len(records) > batch_size:
        lengths = task.lengths(records).reshape(len(records), -1)
        order = np.lexsort(lengths.T[::-1])  # stable
    predictions: list[Any] = [None] * len(records)
    for start in range(0, len(records), batch_size):
        chosen = order[start : start + batch_size]
        chunk = gather(records, chosen)
        outputs = _predict_step(
            task, mesh, params, state, _batch(task, chunk, batch_size, mesh)
        )
        decoded = task.decode(jax.device_get(outputs), chunk)
        for index, prediction in zip(chosen, decoded, strict=True):
            predictions[index] = prediction
    return predictions


def evaluate(
    task: Task,
    params: PyTree,
    state: PyTree,
    records: Sequence[Any],
    batch_size: int,
    *,
    mesh: Mesh | None = None,
) -> tuple[dict[str, float], list[Any]]:
    """Return the task's scores over all records, and the predictions behind them.

    The arguments are those of `predict`.
    """
    predictions = predict(task, params, state, records, batch_size, mesh=mesh)
    return task.score(predictions, records), predictions


def _batch(task: Task, chunk: Sequence[Any], size: int, mesh: Mesh | None) -> PyTree:
    """The arrays of `chunk`, of which this process builds its rows."""
    lengths = () if task.lengths is None else (task.lengths(chunk).max(axis=0),)
    if mesh is None:
        return task.batch(chunk, size, *lengths)
    rows = process_rows(mesh, size)
    own = rows[rows < len(chunk)]
    # A process that the last batch has no row for builds one that nobody looks at.
    own = own if len(own) else np.zeros(1, np.int64)
    arrays = task.batch(gather(chunk, own), len(rows), *lengths)
    return put_batch(mesh, arrays, size)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict_step(
    task: Task, mesh: Mesh | None, params: PyTree, state: PyTree, batch: PyTree
) -> PyTree:
    with seen_by_modules(mesh):
        outputs = task.predict(params, state, batch)
    if mesh is None:
        return outputs
    return jax.lax.with_sharding_constraint(outputs, replicated(mesh))
