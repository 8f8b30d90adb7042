"""Panels of the picture of a run: learning curves, and F1 by threshold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from zlpr_jax.tasks.scores import f1_scores

COLOURS = {
    "zlpr": "tab:blue",
    "bce": "tab:orange",
    "zlpr_smooth": "tab:green",
    "zlpr_rdrop": "tab:purple",
}
NAMES = {
    "zlpr": "ZLPR",
    "bce": "BCE",
    "zlpr_smooth": "ZLPR smooth",
    "zlpr_rdrop": "ZLPR R-Drop",
}
# lines of metrics.jsonl
Curves = Sequence[Mapping[str, Any]]


def learning_curves(
    axes: Axes, curves: Curves, part: str, score: str, ylabel: str
) -> None:
    """One line per seed and loss: `score` of the rows' `part` against the step."""
    lines: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for row in curves:
        if part in row:
            point = row["step"], row[part][score]
            lines.setdefault((row["loss"], row["seed"]), []).append(point)
    first = min((seed for _, seed in lines), default=0)
    for (loss, seed), points in lines.items():
        axes.plot(
            *zip(*points, strict=True),
            color=COLOURS[loss],
            alpha=0.8 if seed == first else 0.3,
            label=NAMES[loss] if seed == first else None,
        )
    axes.set(xlabel="step", ylabel=ylabel, title="learning curves")
    axes.legend()


def f1_by_threshold(
    axes: Axes, logits: Mapping[str, Sequence[np.ndarray]], labels: np.ndarray
) -> None:
    """Test F1 against the decision threshold.

    Args:
        axes: Where to.
        logits: Test logits per seed, for each loss.
        labels: Test labels, booleans `[rows, labels]`.
    """
    for loss, seeds in logits.items():
        offsets = np.linspace(-4, 4, 81)
        f1 = [[f1_scores(scores > s, labels) for s in offsets] for scores in seeds]
        micro, macro = np.mean(f1, axis=0).T
        name, colour = NAMES[loss], COLOURS[loss]
        axes.plot(offsets, micro, color=colour, label=f"{name} micro-F1")
        axes.plot(offsets, macro, "--", color=colour, label=f"{name} macro-F1")
    axes.axvline(0, color="black", linewidth=1, label="s = 0, never tuned")
    axes.set(
        xlabel="decision threshold on the score s",
        ylabel="test F1",
        title="F1 against the decision threshold",
    )
    axes.legend(loc="lower left", fontsize="small")
