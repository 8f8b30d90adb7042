"""What a comparison of losses shows: numbers, a table and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.markup
import scipy.stats
from rich.console import Console
from rich.table import Table

from zlpr_jax.tasks.scores import MULTILABEL_SCORES, f1_scores

TITLES = {
    "zlpr": "ZLPR\ns > 0",
    "bce": "BCE\np > 0.5",
    "bce_tuned": "BCE\ntuned",
}


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
        for name in MULTILABEL_SCORES:
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
            for name in MULTILABEL_SCORES
        }
    return results


def paired_difference(
    left: Sequence[float], right: Sequence[float]
) -> dict[str, float]:
    """Mean of `left - right` over seeds with its 95 % interval.

    Example:
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


def print_table(console: Console, title: str, results: Mapping[str, Any]) -> None:
    """Print scores as rows and losses as columns, the better of each row in bold."""
    columns = [column for column in TITLES if column in results]
    seeds = len(results[columns[0]]["micro_f1"]["values"])
    table = Table(
        title=title, box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    table.add_column("test score", no_wrap=True)
    for column in columns:
        table.add_column(TITLES[column], justify="right", no_wrap=True)
    difference = results.get("zlpr_minus_bce")
    if difference:
        table.add_column("ZLPR - BCE\n95 % interval", justify="right", no_wrap=True)
    for name, (label, larger) in MULTILABEL_SCORES.items():
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
    console.print(table)


def _short(value: float, sign: str = "", digits: int = 4) -> str:
    """Decimals without the zero before the point, which would not fit 80 columns."""
    text = f"{value:{sign}.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def draw(
    path: Path,
    title: str,
    curves: Sequence[Mapping[str, Any]],
    logits: Mapping[str, Sequence[np.ndarray]],
    labels: np.ndarray,
) -> None:
    """Draw learning curves, and test F1 against the decision threshold, as a PNG.

    Args:
        path: Where to.
        title: Above the picture.
        curves: Lines of metrics.jsonl.
        logits: Test logits per seed, for each loss.
        labels: Test labels, 0/1 `[rows, labels]`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    learning, threshold = figure.subplots(1, 2)
    colours = {"zlpr": "tab:blue", "bce": "tab:orange"}
    lines: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for row in curves:
        if "validation" in row:
            point = row["step"], row["validation"]["micro_f1"]
            lines.setdefault((row["loss"], row["seed"]), []).append(point)
    first = min((seed for _, seed in lines), default=0)
    for (loss, seed), points in lines.items():
        learning.plot(
            *zip(*points, strict=True),
            color=colours[loss],
            alpha=0.8 if seed == first else 0.3,
            label=loss.upper() if seed == first else None,
        )
    learning.set(xlabel="step", ylabel="validation micro-F1", title="learning curves")
    learning.legend()
    for loss, seeds in logits.items():
        offsets = np.linspace(-4, 4, 81)
        f1 = [[f1_scores(scores > s, labels) for s in offsets] for scores in seeds]
        micro, macro = np.mean(f1, axis=0).T
        name, colour = loss.upper(), colours[loss]
        threshold.plot(offsets, micro, color=colour, label=f"{name} micro-F1")
        threshold.plot(offsets, macro, "--", color=colour, label=f"{name} macro-F1")
    threshold.axvline(0, color="black", linewidth=1, label="s = 0, never tuned")
    threshold.set(
        xlabel="decision threshold on the score s",
        ylabel="test F1",
        title="F1 against the decision threshold",
    )
    threshold.legend(loc="lower left", fontsize="small")
    for axes in (learning, threshold):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=130, metadata={"Software": "zlpr_jax"})
