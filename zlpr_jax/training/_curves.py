"""Learning curves as a picture. matplotlib is imported only to draw."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]


def draw_curves(
    path: Path, rows: Rows, *, title: str, headline: tuple[str, str]
) -> None:
    """Draw training loss, and validation headline if there is one, against the step.

    Args:
        path: The picture, a PNG.
        rows: Rows of metrics (`MetricsLog.rows`). Those that differ in a label are
            different lines; skipped steps are marked.
        title: Its title.
        headline: `Task.headline`.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "curves.png"
        >>> rows = [
        ...     {"step": 25, "train": {"loss": 2.5}},
        ...     {"step": 50, "train": {"loss": 1.5}, "validation": {"micro_f1": 0.6}},
        ... ]
        >>> draw_curves(path, rows, title="emotions", headline=("micro_f1", "max"))
        >>> path.read_bytes()[1:4]
        b'PNG'
    """
    shown = {"train": "loss"}
    if any("validation" in row for row in rows):
        shown["validation"] = headline[0]
    panels = [
        functools.partial(_curves, rows=rows, part=part, name=name)
        for part, name in shown.items()
    ]
    draw_panels(path, title, *panels)


def draw_panels(path: Path, title: str, *panels: "Callable[[Axes], None]") -> None:
    """Draw panels side by side, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # without pyplot, which keeps figures and may open windows
    figure = Figure(figsize=(5.5 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(1, len(panels), squeeze=False)
    for panel, axes in zip(panels, places.flat, strict=True):
        panel(axes)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=130, metadata={"Software": "zlpr_jax"})


def _curves(axes: "Axes", rows: Rows, part: str, name: str) -> None:
    """A line for each label; gaps where a value is null."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if name in row.get(part, {}):
            value = row[part][name]
            point = row["step"], float("nan") if value is None else value
            lines.setdefault(_label(row), []).append(point)
    for label, points in lines.items():
        # dots where points are few: one alone makes no line
        marker = "." if len(points) <= 20 else None
        axes.plot(*zip(*points, strict=True), marker=marker, label=label or None)
    skipped = [row["step"] for row in rows if "skipped" in row]
    if skipped:
        # along the lower edge: data across, share of the axes upwards
        axes.plot(
            skipped,
            [0.02] * len(skipped),
            "|",
            color="tab:red",
            markersize=12,
            transform=axes.get_xaxis_transform(),
            label="skipped steps",
        )
    what = "training" if part == "train" else part
    axes.set(xlabel="step", ylabel=f"{what} {name}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _label(row: Mapping[str, Any]) -> str:
    named = {k: v for k, v in row.items() if k != "step" and not isinstance(v, Mapping)}
    return ", ".join(f"{k} {v}" if isinstance(v, int) else v for k, v in named.items())
