"""What a comparison of losses shows: numbers and a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.box
import rich.markup
import scipy.stats
from rich.console import Console
from rich.table import Table


def summarize(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Mean, standard deviation and values per column and score.

    Args:
        scores: One dict of scores per seed, for each column of the table.

    Returns:
        `{column: {score: {"mean", "std", "values"}}}`, and under "zlpr_minus_bce" the
        paired difference `{score: {"mean", "low", "high"}}` with its 95 % interval
        (Student's t) where both have at least two seeds.
    """
    results: dict[str, Any] = {}
    for column, rows in scores.items():
        results[column] = {}
        for name in rows[0]:
            values = [float(row[name]) for row in rows]
            std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            mean = float(np.mean(values))
            results[column][name] = {"mean": mean, "std": std, "values": values}
    pairs = min(len(scores.get("zlpr", ())), len(scores.get("bce", ())))
    if pairs >= 2:
        results["zlpr_minus_bce"] = {
            name: paired_difference(
                results["zlpr"][name]["values"][:pairs],
                results["bce"][name]["values"][:pairs],
            )
            for name in results["zlpr"]
        }
    return results


def paired_difference(
    left: Sequence[float], right: Sequence[float]
) -> dict[str, float]:
    """Mean of `left - right` over seeds with its 95 % interval.

    Examples:
        >>> paired_difference([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])["mean"]
        0.1
    """
    difference = np.subtract(left, right)
    mean = float(difference.mean())
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    reach = float(scipy.stats.t.ppf(0.975, len(difference) - 1)) * error
    return {
        "mean": round(mean, 12),
        "low": round(mean - reach, 12),
        "high": round(mean + reach, 12),
    }


def print_table(
    console: Console,
    title: str,
    results: Mapping[str, Any],
    headings: Mapping[str, str],
    names: Mapping[str, tuple[str, bool]],
) -> None:
    """Print scores as rows and losses as columns, the better of each row in bold.

    Args:
        console: Where to.
        title: Above the table.
        results: What `summarize` gave.
        headings: Heading of each column, in their order.
        names: Title of each score, and whether a larger one is better.
    """
    columns = [column for column in headings if column in results]
    seeds = len(next(iter(results[columns[0]].values()))["values"])
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("test score", no_wrap=True)
    for column in columns:
        table.add_column(headings[column], justify="right", no_wrap=True)
    difference = results.get("zlpr_minus_bce")
    if difference:
        table.add_column("ZLPR - BCE\n95 % interval", justify="right", no_wrap=True)
    for name, (label, larger) in names.items():
        means = [results[column][name]["mean"] for column in columns]
        best = max(means) if larger else min(means)
        row = [f"{label} {'↑' if larger else '↓'}"]
        for column, mean in zip(columns, means, strict=True):
            cell = _short(mean)
            if seeds > 1:
                cell += (
                    f" ±{_short(results[column][name]['std'] / seeds**0.5, digits=3)}"
                )
            row.append(f"[bold]{cell}[/bold]" if mean == best else cell)
        if difference:
            pair = difference[name]
            low, high = (_short(pair[end], "+", digits=3) for end in ("low", "high"))
            cell = f"{_short(pair['mean'], '+')} [{low}, {high}]"
            row.append(rich.markup.escape(cell))
        table.add_row(*row)
    if seeds > 1:
        table.caption = f"mean ± standard error of {seeds} seeds"
    # not the table's own title, which would be broken to the width of the table
    console.print(title, highlight=False)
    console.print(table)


def _short(value: float, sign: str = "", digits: int = 4) -> str:
    """Decimals without the zero before the point, which would not fit 80 columns."""
    text = f"{value:{sign}.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text
