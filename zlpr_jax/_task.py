"""The contract between a task and the training loop."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Task(NamedTuple):
    """What the training loop needs to know of a problem: pure functions, no class.

    Attributes:
        init: `key -> (params, state)`. `params` is trained, `state` is not.
        batch: `(records, size) -> arrays`. Arrays of static shape with `size` rows, and
            among them `where` (the row is real, not padding) and `index` (the number of
            the record in its data set).
        loss: `(params, state, batch, key) -> (loss, (state, metrics))` with
            `metrics = {name: (sum, count)}`, for progress. Jitted.
        predict: `(params, state, batch) -> outputs`, arrays with one row per batch row.
            Jitted.
        decode: `(outputs, records) -> predictions`, one per record. On the host.
        score: `(predictions, records) -> {name: float}` for a whole split. On the host.
        headline: `(name in score, "max" or "min")`, for the progress bar and keep-best.
    """

    init: Callable[..., Any]
    batch: Callable[..., Any]
    loss: Callable[..., Any]
    predict: Callable[..., Any]
    decode: Callable[..., Any]
    score: Callable[..., Any]
    headline: tuple[str, str]
