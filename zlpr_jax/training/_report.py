"""Live progress in a terminal; one line per fit elsewhere."""

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
)

from zlpr_jax.training import _fit


class ProgressBar:
    """A bar with loss, headline and examples per second, for `fit(report=...)`.

    Where the output is not a terminal, `finish` prints one plain line instead.
    `NO_COLOR` is respected.

    Example:
        >>> from rich.console import Console
        >>> with ProgressBar(Console(width=80, force_terminal=False)) as bar:
        ...     bar.start("zlpr, seed 0", headline="micro_f1")
        ...     bar.stage("training", 100)
        ...     bar.update(_fit.Progress(100, {"loss": 2.5}, 900.0, {"micro_f1": 0.6}))
        ...     bar.finish("100 steps")
        zlpr, seed 0: 100 steps (best validation micro_f1 .6000)
    """

    def __init__(self, console: Console):
        self.console = console
        self.live = console.is_terminal
        self._bar = Progress(
            # all of it fits 80 columns
            TextColumn("{task.description}"),
            BarColumn(bar_width=6),
            TextColumn("{task.completed}/{task.total} {task.fields[text]}"),
            console=console,
            disable=not self.live,
            transient=True,
        )

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def start(self, description: str, *, headline: str) -> None:
        """Begin a line; its stages follow."""
        self._description, self._headline, self._best = description, headline, None
        self._line = self._bar.add_task(description, total=None, text="")

    def stage(self, name: str, steps: int) -> None:
        """Begin a fit of `steps` steps on the line; `name` may be empty."""
        description = f"{self._description}, {name}" if name else self._description
        self._bar.reset(self._line, total=steps, description=description)

    def update(self, progress: _fit.Progress) -> None:
        """Show one report of `fit`."""
        if progress.scores is not None:
            score = progress.scores[self._headline]
            self._best = max(score, self._best or score)
        parts = [f"{name} {_short(value)}" for name, value in progress.metrics.items()]
        if self._best is not None:
            parts.append(f"best {_short(self._best)}")
        parts.append(f"{progress.examples_per_second:,.0f} examples/s")
        self._bar.update(self._line, completed=progress.step, text=" ".join(parts))

    def finish(self, outcome: str) -> None:
        """End the line with one that stays."""
        self._bar.remove_task(self._line)
        if self._best is not None:
            outcome += f" (best validation {self._headline} {_short(self._best, 4)})"
        self.console.print(
            f"{self._description}: {outcome}", highlight=False, soft_wrap=True
        )


def _short(value: float, digits: int = 3) -> str:
    """`digits` digits, without a zero before the point."""
    text = f"{value:.{digits}f}" if abs(value) < 1 else f"{value:.{digits}g}"
    return text.removeprefix("0")
