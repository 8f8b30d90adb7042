"""The contract between a task and the training loop."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jax.sharding import PartitionSpec


class Task(NamedTuple):
    """What the training loop needs to know of a problem: pure functions, no class.

    Attributes:
        init: `key -> (params, state)`. `params` is trained, `state` is not.
        batch: `(records, size) -> arrays`. NumPy arrays of static shape, each with
            `size` rows, and among them `where` (the row is real, not padding). Built in
            a background thread.
        loss: `(params, state, batch, key) -> (loss, (state, metrics))` with
            `metrics = {name: (sum, count)}`, for progress. Jitted. It computes in the
            dtype of the parameters it is given.
        predict: `(params, state, batch) -> outputs`, arrays with one row per batch row.
            Jitted.
        decode: `(outputs, records) -> predictions`, one per record. On the host.
        score: `(predictions, records) -> {name: float}` for a whole split. On the host.
        headline: `(name in score, "max" or "min")`, for the progress bar and keep-best.
        lengths: `records -> int array [N] or [N, k]`: the sizes of each record that
            decide the shapes of a batch, for a task whose shapes depend on its records.
            Then `batch(records, size, lengths)` also takes what the arrays must have
            room for, the largest of each size in the whole batch (`[k]`, or a scalar),
            so that every process builds the same shapes from its own rows.
        rules: Where parameters must lie on the mesh, as ordered pairs of a regular
            expression over their "/"-joined path and a `PartitionSpec`.
    """

    init: Callable[..., Any]
    batch: Callable[..., Any]
    loss: Callable[..., Any]
    predict: Callable[..., Any]
    decode: Callable[..., Any]
    score: Callable[..., Any]
    headline: tuple[str, Literal["max", "min"]]
    lengths: Callable[..., Any] | None = None
    rules: tuple[tuple[str, PartitionSpec], ...] = ()
