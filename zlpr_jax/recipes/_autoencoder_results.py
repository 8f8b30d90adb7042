"""What is shown of trained autoencoders: the choice, a table and a picture."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rich.box
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from zlpr_jax.data.image_grid import image_grid
from zlpr_jax.recipes._session import say
from zlpr_jax.training._curves import draw_panels

# Without labels nothing measures samples: an EAE near this weight is kept.
USUAL_WEIGHT = 1.0

Models = Sequence[Mapping[str, Any]]
Images = npt.NDArray[np.uint8]


def best(models: Models) -> dict[str, float]:
    """The entropy weight above 0 and the beta of the lowest held-out distance.

    Args:
        models: `{"model", "weight", "seeds": [{"validation": scores, ...}]}`.

    Returns:
        `{"eae": weight, "vae": beta}`, without `vae` if there is none.
    """
    chosen = {}
    for kind in ("eae", "vae"):
        ours = [row for row in models if row["model"] == kind and row["weight"] > 0]
        if not ours:
            continue
        if "frechet" in ours[0]["seeds"][0]["validation"]:
            distance = [mean(row, "validation", "frechet") for row in ours]
        else:
            distance = [abs(np.log(row["weight"] / USUAL_WEIGHT)) for row in ours]
        chosen[kind] = ours[int(np.argmin(distance))]["weight"]
    return chosen


def ratios(models: Models, chosen: Mapping[str, float]) -> dict[str, Any]:
    """Test distance of the chosen EAE over that of weight 0 and of the chosen VAE.

    Returns:
        `{"eae/weight 0": {"mean", "values"}, "eae/vae": ...}`: the ratio of the means
        over seeds, and the ratio of each seed; what there is of them.
    """
    found = {}
    others = {"eae/weight 0": ("eae", 0.0)}
    if "vae" in chosen:
        others["eae/vae"] = ("vae", chosen["vae"])
    rows = {(row["model"], row["weight"]): row for row in models}
    ours = rows["eae", chosen["eae"]]
    for name, other in others.items():
        if other not in rows or "frechet" not in ours["seeds"][0]["test"]:
            continue
        over, under = (values(row, "test", "frechet") for row in (ours, rows[other]))
        found[name] = {
            "mean": float(over.mean() / under.mean()),
            "values": (over / under).tolist(),
        }
    return found


def values(row: Mapping[str, Any], part: str, score: str) -> npt.NDArray[np.float64]:
    """A score of a model, one for each seed."""
    return np.array([seed[part][score] for seed in row["seeds"]])


def mean(row: Mapping[str, Any], part: str, score: str) -> float:
    """The mean of a score over seeds."""
    return float(values(row, part, score).mean())


def print_models(console: Console, results: Mapping[str, Any]) -> None:
    """Print a row for every model, and what was chosen."""
    gaussian, models = results["gaussian"], results["models"]
    seeds, measure = len(models[0]["seeds"]), results["classifier"]
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("model,\nweight", no_wrap=True)
    columns: dict[str, tuple[str, str, int]] = {
        "held-out\nFD ↓": ("validation", "frechet", 1),
        "test\nFD ↓": ("test", "frechet", 1),
        "recon.\nFD ↓": ("test", "frechet_reconstruction", 1),
        "recon.\nerror ↓": ("test", "reconstruction", 2),
        "entropy\nof codes": ("test", "entropy", 2),
        "radius\nsd": ("test", "radius_std", 2),
    }
    if measure is None:
        columns = {k: v for k, v in columns.items() if "FD" not in k}
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in models:
        taken = results["chosen"].get(row["model"]) == row["weight"]
        cells = [f"{row['model'].upper()} {row['weight']:g}"]
        for part, score, digits in columns.values():
            each = values(row, part, score)
            cell = f"{each.mean():.{digits}f}"
            if seeds > 1 and score == "frechet":
                cell += f" ±{each.std(ddof=1) / seeds**0.5:.{digits}f}"
            cells.append(cell)
        table.add_row(*cells, style="bold" if taken else None)
    blank = [""] * (len(columns) - 2)
    entropy, radius = gaussian["test_entropy"], gaussian["radius_std"]
    table.add_row("Gaussian", *blank, f"{entropy:.2f}", f"{radius:.2f}")
    if measure is not None:
        say(
            console,
            f"FD: Frechet distance in the features of classifier "
            f"{measure['sha256'][:12]}, accuracy {measure['accuracy']:.4f}; training "
            f"against test images {measure['floor']:.2f}",
        )
    console.print(table)
    if seeds > 1:
        say(console, f"mean ± standard error of {seeds} seeds")
    for name, ratio in results["ratios"].items():
        say(console, f"test FD, {name}: {ratio['mean']:.3f}")
    gamed = [row for row in models if is_gamed(row, gaussian)]
    for row in gamed:
        say(
            console,
            f"EAE, weight {row['weight']:g}: its batches are estimated above what "
            "Gaussian codes are, its held-out codes below: more weight only games the "
            "estimate",
        )


def is_gamed(row: Mapping[str, Any], gaussian: Mapping[str, float]) -> bool:
    """Whether batches exceed what Gaussian codes are estimated at, and others do not.

    Training moves the codes of a batch until the estimate for just them is high. Only
    codes that were not moved tell whether the entropy is.
    """
    if row["model"] != "eae" or row["weight"] == 0:
        return False
    batch = np.mean([seed["batch_entropy"] for seed in row["seeds"]])
    held_out = mean(row, "validation", "entropy")
    below = held_out < gaussian["validation_entropy"]
    return bool(batch > gaussian["batch_entropy"] and below)


def draw(
    path: Path, results: Mapping[str, Any], samples: Images, pairs: Images
) -> None:
    """Draw distance and entropy against the weight, samples and reconstructions."""
    panels: list[Callable[[Axes], None]] = []
    if results["classifier"] is not None:
        panels.append(lambda axes: _distances(axes, results))
    panels.append(lambda axes: _entropies(axes, results))
    weight = results["chosen"]["eae"]
    columns = int(len(samples) ** 0.5)
    for images, title in (
        (samples, f"samples, entropy weight {weight:g}"),
        (pairs, "test images, each above its reconstruction"),
    ):
        panels.append(lambda axes, i=images, t=title: _images(axes, i, t, columns))
    draw_panels(path, "EAE: samples against the entropy weight", *panels)


def _distances(axes: Axes, results: Mapping[str, Any]) -> None:
    rows = [row for row in results["models"] if row["model"] == "eae"]
    places = _weight_axis(axes, rows)
    for score, label in (("frechet", "samples"), ("frechet_reconstruction", "recon.")):
        each = np.stack([values(row, "test", score) for row in rows])
        (line,) = axes.plot(places, each.mean(1), "o-", label=f"EAE, {label}")
        axes.fill_between(
            places, each.min(1), each.max(1), color=line.get_color(), alpha=0.2
        )
    if "vae" in results["chosen"]:
        beta = results["chosen"]["vae"]
        models = {(row["model"], row["weight"]): row for row in results["models"]}
        distance = mean(models["vae", beta], "test", "frechet")
        label = f"VAE, beta {beta:g}, samples"
        axes.axhline(distance, color="tab:red", label=label)
    axes.axhline(results["classifier"]["floor"], color="black", label="training images")
    axes.set(ylabel="Frechet distance to test images", ylim=(0, None), title="distance")
    axes.legend(fontsize="small")


def _entropies(axes: Axes, results: Mapping[str, Any]) -> None:
    rows = [row for row in results["models"] if row["model"] == "eae"]
    places, gaussian = _weight_axis(axes, rows), results["gaussian"]
    held_out = [mean(row, "test", "entropy") for row in rows]
    batch = [np.mean([s["batch_entropy"] for s in row["seeds"]]) for row in rows]
    for line, reference, colour, label in (
        (held_out, "test_entropy", "tab:blue", "test images"),
        (batch, "batch_entropy", "tab:orange", "training batches"),
    ):
        axes.plot(places, line, "o-", color=colour, label=label)
        axes.axhline(
            gaussian[reference],
            color=colour,
            linestyle="--",
            label=f"Gaussian, {label}",
        )
    axes.set(ylabel="estimate of entropy, nats", title="entropy of the codes")
    axes.legend(fontsize="small")


def _weight_axis(axes: Axes, rows: Models) -> npt.NDArray[np.int64]:
    """Weights at equal distances: no scale has room for 0.1, 10 and 0."""
    order = np.argsort([row["weight"] for row in rows])
    places = np.empty(len(rows), np.int64)
    places[order] = np.arange(len(rows))
    axes.set_xticks(places, [f"{row['weight']:g}" for row in rows])
    axes.set_xlabel("entropy weight")
    return places


def _images(axes: Axes, images: Images, title: str, columns: int) -> None:
    grid = image_grid(images, columns)
    axes.imshow(grid.squeeze(-1) if grid.shape[-1] == 1 else grid, cmap="gray")
    axes.set(title=title, xticks=[], yticks=[])
