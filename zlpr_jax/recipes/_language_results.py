"""What is shown of a comparison of language models: a table and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import rich.box
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from zlpr_jax.recipes._autoencoder_results import values
from zlpr_jax.recipes._session import say
from zlpr_jax.training._curves import draw_panels


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        title: Its heading.
        part: The rows that were scored.
        score: The score.
        digits: Decimals.
    """

    title: str
    part: Literal["validation", "test"]
    score: str
    digits: int


def print_models(
    console: Console, results: Mapping[str, Any], columns: Sequence[Column]
) -> None:
    """Print a row for every model, the one that is kept in bold."""
    seeds = len(results["models"][0]["seeds"])
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("attention", no_wrap=True)
    table.add_column("parameters\nof B", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    for row in results["models"]:
        cells = [row["attention"], f"{row['score_parameters']:,}"]
        for column in columns:
            each = values(row, column.part, column.score)
            cell = f"{each.mean():.{column.digits}f}"
            if seeds > 1 and column.part == "test":
                error = each.std(ddof=1) / seeds**0.5
                cell += f" ±{error:.{column.digits}f}"
            cells.append(cell)
        kept = row["attention"] == results["chosen"]
        table.add_row(*cells, style="bold" if kept else None)
    console.print(table)
    if seeds > 1:
        say(console, f"mean ± standard error of {seeds} seeds")


def draw(path: Path, results: Mapping[str, Any], score: str) -> None:
    """Draw the test score of each attention: seeds as dots, their mean as a line."""

    def panel(axes: Axes) -> None:
        names = [row["attention"] for row in results["models"]]
        for place, row in enumerate(results["models"]):
            each = values(row, "test", score)
            axes.plot(each, [place] * len(each), "o", color="tab:blue", alpha=0.7)
            axes.plot(each.mean(), place, "|", color="black", markersize=18)
        axes.set_yticks(range(len(names)), names)
        axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=f"test {score}")

    draw_panels(path, f"test {score} of each attention", panel)
