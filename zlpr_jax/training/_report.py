"""Live progress in a terminal; now and then a line elsewhere."""

import datetime
import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from zlpr_jax.training._ledger import Progress

# Seconds between two drawings at least. Training draws, and not a thread beside it,
# which would take processor time at the wrong moment.
DRAW_EVERY = 0.25
BAR_WIDTHS = 5, 40


class ProgressBar:
    """Steps, time left, loss, headline and speed, for `fit(report=...)`.

    Where the output is not a terminal, it is a plain line now and then instead.
    `NO_COLOR` is respected.

    Args:
        console: Where to.
        line_every: Seconds between two plain lines at least.

    Examples:
        >>> from rich.console import Console
        >>> with ProgressBar(Console(width=80, force_terminal=False)) as bar:
        ...     bar.start("zlpr, seed 0", headline=("micro_f1", "max"))
        ...     bar.stage("training", 100)
        ...     bar.update(Progress(100, {"loss": 2.5}, scores={"micro_f1": 0.6}))
        ...     bar.finish("100 steps")
        zlpr, seed 0: 100 steps (best validation micro_f1 .6000)
    """

    def __init__(self, console: Console, *, line_every: float = 30.0):
        self.console = console
        self.live = console.is_terminal and not console.quiet
        self._line_every = line_every
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "ProgressBar":
        if self.live:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def start(self, description: str, *, headline: tuple[str, str]) -> None:
        """Begin a line; its stages follow.

        Args:
            description: What it is about.
            headline: `Task.headline`.
        """
        self._description, self._headline = description, headline
        self._best: float | None = None
        self.stage("", None)

    def stage(self, name: str, steps: int | None) -> None:
        """Begin a fit of `steps` steps on the line; `name` may be empty."""
        self._name = f"{self._description}, {name}" if name else self._description
        self._steps, self._done = steps, 0
        self._last: float | None = None
        self._progress = Progress(0, {})
        self._first: tuple[int, float] | None = None
        self._shown = time.monotonic()
        self._show(now=self.live)

    def update(self, progress: Progress) -> None:
        """Show one report of `fit`."""
        self._done = progress.step
        if progress.scores is not None:
            self._score(progress.scores)
        if progress.message is None:
            self._progress = progress
            # What came before is compilation, or another session.
            self._first = self._first or (progress.step, time.monotonic())
        else:
            self._print(f"{self._name}: {progress.message}")
        self._show(now=self.live and progress.scores is not None)

    def finish(self, outcome: str) -> None:
        """End the line with one that stays."""
        if self._best is not None:
            name = self._headline[0]
            outcome += f" (best validation {name} {_short(self._best, 4)})"
        self._live.update("", refresh=self.live)
        self._print(f"{self._description}: {outcome}")

    def _score(self, scores: Mapping[str, Any]) -> None:
        name, direction = self._headline
        sign = 1 if direction == "max" else -1
        self._last = score = float(scores[name])
        best = self._best
        if best is None or math.isnan(best) or sign * score > sign * best:
            self._best = score

    def _show(self, *, now: bool) -> None:
        """Draw, or print a line, if it is time to."""
        every = DRAW_EVERY if self.live else self._line_every
        if not now and time.monotonic() - self._shown < every:
            return
        self._shown = time.monotonic()
        if self.live:
            self._live.update(self._drawing(), refresh=True)
        elif self._progress.metrics:
            parts = [f"step {self._count()}", *self._figures(), self._left()]
            self._print(f"{self._name}: {', '.join(filter(None, parts))}")

    def _drawing(self) -> Group:
        """A line with a bar and one with figures, as far as they have room."""
        width = self.console.width
        count, least = f" {self._count()}  {self._left()}", BAR_WIDTHS[0]
        room = width - len(self._name) - len(count) - 1
        row: list[RenderableType] = [
            Text(self._name, overflow="ellipsis", no_wrap=True)
        ]
        if room >= least:
            shape = min(room, BAR_WIDTHS[1])
            row.append(Bar(total=self._steps, completed=self._done, width=shape))
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(*row, Text(count.strip(), no_wrap=True))
        figures = ""
        for part in self._figures():
            if len(figures) + 2 + len(part) > width:
                break
            figures += f"  {part}"
        return Group(grid, Text(figures, no_wrap=True, overflow="ellipsis"))

    def _count(self) -> str:
        return f"{self._done}/{self._steps or '?'}"

    def _left(self) -> str:
        """Time left at the speed of this session, evaluations included."""
        if self._first is None or self._steps is None:
            return ""
        step, since = self._first
        if self._done <= step:
            return ""
        each = (time.monotonic() - since) / (self._done - step)
        left = datetime.timedelta(seconds=int(each * (self._steps - self._done)))
        return f"{left} left"

    def _figures(self) -> list[str]:
        """The figures, the important ones first."""
        progress, name = self._progress, self._headline[0]
        # jax sorts the keys of what a step returns
        names = sorted(progress.metrics, key=lambda metric: metric != "loss")
        metrics = [f"{key} {_short(progress.metrics[key])}" for key in names]
        if name in names:
            name = f"validation {name}"
        score = []
        if self._best is not None:
            best = _short(self._best)
            now = None if self._last is None else f"{name} {_short(self._last)}"
            score = [f"{now} (best {best})" if now else f"best {name} {best}"]
        speed = [
            f"{_rate(rate)} {what}/s"
            for rate, what in (
                (progress.steps_per_second, "steps"),
                (progress.examples_per_second, "examples"),
            )
            if rate
        ]
        return metrics[:1] + score + speed + metrics[1:]

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(value: float, digits: int = 3) -> str:
    """`digits` digits, without a zero before the point."""
    text = f"{value:.{digits}f}" if abs(value) < 1 else f"{value:.{digits}g}"
    return text.removeprefix("0")
