"""What the host learns of the steps: averages, and which steps were skipped."""

import collections
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.training._config import FitConfig
from zlpr_jax.training._metrics import MetricsLog
from zlpr_jax.training._parameters import named_leaves
from zlpr_jax.training._step import StepReport

# Steps that the host may be ahead of the devices. The number is fixed, and not "what
# is ready", so that several processes take every decision at the same step.
AHEAD = 2
# Record ids and parameters named of a skipped step.
NAMED = 5


class Progress(NamedTuple):
    """What `fit` reports while it runs.

    Attributes:
        step: Optimizer steps done.
        metrics: The task's training metrics, averaged since the last report.
        examples_per_second: Records trained on per second since the last report.
        steps_per_second: Steps per second since the last report.
        scores: The task's scores of the validation records, at evaluations only.
        message: Something to tell the user, such as a skipped step. There are no
            metrics then; after a resume `scores` has the best headline so far.
    """

    step: int
    metrics: dict[str, float]
    examples_per_second: float = 0.0
    steps_per_second: float = 0.0
    scores: dict[str, float] | None = None
    message: str | None = None


class Ledger:
    """Reads the reports of steps some steps late, so that no step waits for the host.

    Args:
        config: Intervals and the limit of skipped steps.
        records: The training records, for their ids.
        params: A tree like the parameters, for their paths.
        metrics: Where rows are written.
        report: Called with each `Progress`.
    """

    def __init__(
        self,
        config: FitConfig,
        records: Sequence[Any],
        params: PyTree,
        metrics: MetricsLog | None,
        report: Callable[[Progress], None],
    ):
        self._names = list(named_leaves(params))
        self._config, self._records = config, records
        self._metrics, self._report = metrics, report
        self._pending: collections.deque[Any] = collections.deque()
        self.window: dict[str, list[float]] = {}
        """Sum and count of each metric since the last report."""
        self.stop = False
        """Whether a step said that some process was asked to stop."""
        self._failure: InputError | None = None

    def begin(self, step: int) -> None:
        """Start the clock at `step`; after a restore, forget the rows beyond it."""
        self._since, self._since_step = time.perf_counter(), step
        if self._metrics is not None:
            self._metrics.cut(step)

    def add(self, step: int, indices: np.ndarray, told: StepReport) -> None:
        """Take the report of a step, and read that of an earlier one."""
        self._pending.append((step, indices, told))
        self.settle(AHEAD)

    def settle(self, most: int = 0) -> None:
        """Read reports until at most `most` are unread.

        Raises:
            InputError: If `skip_limit` steps in a row were skipped.
        """
        config = self._config
        while len(self._pending) > (0 if self._failure else most):
            step, indices, told = self._pending.popleft()
            self.stop |= told.stop is not None and bool(told.stop)
            if skipped := int(told.skipped):
                self._skipped(step, indices, told, skipped)
            else:
                for name, pair in told.metrics.items():
                    total = self.window.setdefault(name, [0.0, 0.0])
                    for place, value in enumerate(np.asarray(pair).tolist()):
                        total[place] += value
            if step % config.report_every == 0 and not config.evaluates(step):
                self.tell(step)
        if self._failure is not None:
            raise self._failure

    def tell(self, step: int, scores: dict[str, float] | None = None) -> None:
        """Report the averages since the last time, and scores if there are any."""
        means = {k: top / max(count, 1e-9) for k, (top, count) in self.window.items()}
        self.window = {}
        now = time.perf_counter()
        rate = (step - self._since_step) / max(now - self._since, 1e-9)
        self._since, self._since_step = now, step
        examples = rate * self._config.batch_size
        if self._metrics is not None:
            row: dict[str, Any] = {"step": step, "train": means}
            if scores is not None:
                row["validation"] = scores
            self._metrics.write(row, measured={"examples_per_second": examples})
        self._report(Progress(step, means, examples, rate, scores))

    def say(
        self, step: int, message: str, scores: dict[str, float] | None = None
    ) -> None:
        """Report a message."""
        self._report(Progress(step, {}, scores=scores, message=message))

    def _skipped(
        self, step: int, indices: np.ndarray, told: StepReport, in_a_row: int
    ) -> None:
        *finite, loss = np.asarray(told.finite).tolist()
        names = [n for n, ok in zip(self._names, finite, strict=True) if not ok]
        ids = [_record_id(self._records, index) for index in indices.tolist()]
        what = ["the loss"] * (not loss)
        what += [f"the gradient of {_some(names)}"] * bool(names)
        verb = "is" if len(what) == 1 else "are"
        message = (
            f"step {step} skipped: {' and '.join(what)} {verb} not finite "
            f"(records {_some(ids)})"
        )
        if self._metrics is not None:
            self._metrics.write(
                {
                    "step": step,
                    "skipped": {"loss": not loss, "parameters": names, "records": ids},
                }
            )
        self.say(step, message)
        if in_a_row >= self._config.skip_limit and self._failure is None:
            self._failure = InputError(
                f"training stopped: {in_a_row} steps in a row were skipped, the last "
                f"as {message}. Nothing was changed by them. Lower the learning rate "
                "(--optimizer.learning-rate), or look at those records."
            )


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(map(str, names[:NAMED]))
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _record_id(records: Sequence[Any], index: int) -> Any:
    return getattr(records[index], "id", index)
