"""Five optimizers on three problems, each at its tuned learning rate.

    python benchmarks/convergence.py [--data FOLDER] [--runs FILE] [--only NAME ...]
                                     [--json] [--quick] [--save]

For each problem all optimizers have the same network, initial values, batches, steps,
dropout and schedule (5 % warm-up, then a cosine to 0). The peak rate of each is tuned
on a fixed fifth of the training rows, on a grid of half decades that is extended until
the best value lies inside. Three other seeds then train on all training rows, and only
these are scored on the test rows. A difference within two of its standard errors is a
tie. Finished runs are kept in `--runs` and not repeated; `--save` draws the picture.
"""

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from _convergence import POINTS, Bench, Log, Optimizer, Problem, Run
from _measure import ROOT
from _mnist import read_mnist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich import box
from rich.console import Console
from rich.table import Table

from zlpr_jax import optim
from zlpr_jax._errors import InputError
from zlpr_jax.data.multilabel import MultilabelData, read
from zlpr_jax.data.tfidf import Tfidf
from zlpr_jax.data.yeast import read_yeast
from zlpr_jax.tasks.features import feature_scaling, vectorize

PICTURE = ROOT / "docs" / "pictures" / "convergence.png"
SEEDS = (1, 2, 3)  # not WATCH_SEED, see there
PROBLEMS = {
    "yeast": Problem(
        hidden=(512, 256),
        dropout=0.5,
        input_dropout=0.2,
        scores=("micro_f1", "lrap"),
        tuning_seeds=(100, 101),
    ),
    "goemotions": Problem(
        hidden=(256,), dropout=0.5, features=5000, scores=("micro_f1", "lrap")
    ),
    "mnist": Problem(hidden=(256,), scores=("accuracy",)),
}
# Small enough to see that everything runs.
QUICK = {"hidden": (128,), "steps": 25, "rows": 300, "watched": 100}


class Entry(NamedTuple):
    """An optimizer in the comparison.

    Attributes:
        title: its name in the table and the picture.
        optimizer: builds it.
        first: smallest rate of the grid in half decades: -8 is 1e-4, -7 is 3e-4.
        line: colour and dashes.
    """

    title: str
    optimizer: Optimizer
    first: int
    line: tuple[str, str]


OPTIMIZERS = {
    "adam": Entry("Adam", optax.adam, -8, ("#000000", "-")),
    "adafactor": Entry("AdaFactor", optim.adafactor, -6, ("#E69F00", "--")),
    "adax": Entry("AdaX", optim.adax, -8, ("#0072B2", "-")),
    "adaxw": Entry("AdaXW", optim.adaxw, -8, ("#CC79A7", ":")),
    "factored_adax": Entry("factored AdaX", optim.factored_adax, -6, ("#009E73", "-.")),
}
GRID = 7
TITLES = {
    "yeast": "yeast",
    "goemotions": "GoEmotions",
    "mnist": "MNIST",
    "loss": "training loss",
    "micro_f1": "micro-F1",
    "lrap": "LRAP",
    "accuracy": "accuracy",
}


class Cell(NamedTuple):
    """Mean and sample standard deviation over the seeds, and how it compares."""

    mean: float
    deviation: float
    verdict: str


class Line(NamedTuple):
    """One optimizer on one problem.

    Attributes:
        rate: the tuned peak rate.
        tuning: mean validation score by peak rate.
        runs: one a seed.
        cells: training loss and test scores.
    """

    rate: float
    tuning: dict[float, float]
    runs: list[Run]
    cells: dict[str, Cell]


def rate_of(place: int) -> float:
    """The learning rate at a place of the grid: -8 is 1e-4, -7 is 3e-4."""
    return float(f"{3 if place % 2 else 1}e{place // 2}")


def load(
    name: str, problem: Problem, folder: Path
) -> tuple[MultilabelData, MultilabelData, Any]:
    """Training rows, test rows, and shift and scale of the features."""
    if name == "yeast":
        train, test = read_yeast()
    elif name == "mnist":
        train, test = read_mnist(folder / "img_mnist")
    else:
        texts = folder / "ml_goemotions"
        if not texts.is_dir():
            raise InputError(f"{texts}: not there: name the folder of data with --data")
        train = read(texts / "train.tsv")
        test = read(texts / "test.tsv", schema=train.schema)
    if problem.rows:
        train, test = (part.take(range(problem.rows)) for part in (train, test))
    if isinstance(train.features, tuple):
        tfidf = Tfidf.fit(train.features, max_features=problem.features)
        train, test = vectorize(train, tfidf), vectorize(test, tfidf)
    if name == "mnist":
        # All pixels alike: a corner that is hardly ever inked has no deviation.
        pixels = np.asarray(train.features)
        shift = np.full(pixels.shape[1], pixels.mean(dtype=np.float64))
        scale = np.full_like(shift, 1 / pixels.std(dtype=np.float64))
        return train, test, (shift, scale)
    return train, test, feature_scaling(train)


def compare(bench: Bench, quick: bool) -> dict[str, Line]:
    """Tune each optimizer, train it with each seed, and judge the results."""
    tuning, rates, runs = {}, {}, {}
    for name, entry in OPTIMIZERS.items():
        grid = range(entry.first, entry.first + GRID)
        tuning[name] = {}
        rates[name] = rate_of(grid[GRID // 2])
        if not quick:
            tuning[name] = bench.tune(name, entry.optimizer, rate_of, grid)
            rates[name] = max(tuning[name], key=tuning[name].__getitem__)
        runs[name] = [
            bench.run(name, entry.optimizer, rates[name], seed, "test")
            for seed in SEEDS
        ]
    columns = {
        key: judged(
            {
                name: [value_of(run, key) for run in seeds]
                for name, seeds in runs.items()
            },
            lower=key == "loss",
        )
        for key in ("loss", *bench.problem.scores)
    }
    return {
        name: Line(
            rate=rates[name],
            tuning=dict(sorted(tuning[name].items())),
            runs=runs[name],
            cells={key: columns[key][name] for key in columns},
        )
        for name in OPTIMIZERS
    }


def value_of(run: Run, key: str) -> float:
    if run["scores"] is None:
        return math.nan
    return run["loss"] if key == "loss" else run["scores"][key]


def judged(values: Mapping[str, list[float]], *, lower: bool) -> dict[str, Cell]:
    """Compare each with the best mean: a tie within two standard errors."""
    means = {name: statistics.fmean(seeds) for name, seeds in values.items()}
    errors = {
        name: statistics.stdev(seeds) / len(seeds) ** 0.5
        for name, seeds in values.items()
    }
    finite = [name for name, mean in means.items() if math.isfinite(mean)]
    best = (min if lower else max)(finite, key=means.__getitem__)

    def verdict(name: str) -> str:
        if name == best:
            return "best"
        gap = abs(means[name] - means[best])
        return "tie" if gap <= 2 * math.hypot(errors[name], errors[best]) else ""

    return {
        name: Cell(means[name], errors[name] * len(values[name]) ** 0.5, verdict(name))
        for name in values
    }


def figures(problem: str, lines: Mapping[str, Line]) -> list[dict[str, Any]]:
    """What `--json` prints."""
    return [
        {
            "name": f"{problem}_{name}_{key}",
            "value": cell.mean,
            "unit": TITLES[key],
            "versus": f"± {cell.deviation:.2g} over {len(SEEDS)} seeds, rate "
            f"{line.rate:g}, {cell.verdict or 'behind the best'}",
        }
        for name, line in lines.items()
        for key, cell in line.cells.items()
    ]


def print_tables(problem: str, lines: Mapping[str, Line], title: str) -> None:
    """The results, and what the tuning saw."""
    # a pipe has no width of its own
    console = Console(width=None if sys.stdout.isatty() else 100)

    def show(title: str, headings: list[str], rows: list[list[str]]) -> None:
        table = Table(title=title, box=box.MARKDOWN)
        for heading in ("optimizer", *headings):
            table.add_column(heading, no_wrap=True)
        for name, row in zip(lines, rows, strict=True):
            table.add_row(OPTIMIZERS[name].title, *row)
        console.print(table)

    keys = list(next(iter(lines.values())).cells)
    show(
        f"{TITLES[problem]}; {title}",
        ["peak rate", *(TITLES[key] for key in keys)],
        [
            [
                f"{line.rate:g}",
                *(
                    f"{cell.mean:.4f} ± {cell.deviation:.4f} {cell.verdict}"
                    for cell in line.cells.values()
                ),
            ]
            for line in lines.values()
        ],
    )
    rates = sorted({rate for line in lines.values() for rate in line.tuning})
    if rates:
        show(
            f"{TITLES[problem]}: validation {TITLES[keys[1]]} by peak rate",
            [f"{rate:g}" for rate in rates],
            [
                [shown(line.tuning.get(rate)) for rate in rates]
                for line in lines.values()
            ],
        )


def shown(score: float | None) -> str:
    """A validation score; nothing if the rate was not tried."""
    if score is None:
        return ""
    return f"{score:.3f}" if math.isfinite(score) else "diverged"


def draw(path: Path, found: Mapping[str, Mapping[str, Line]]) -> None:
    """The training loss over the steps, a panel for each problem."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (problem, lines) in zip(panels, found.items(), strict=True):
        steps = np.linspace(0, PROBLEMS[problem].steps, POINTS + 1)
        for name, line in lines.items():
            title, _, _, (colour, dashes) = OPTIMIZERS[name]
            curves = np.array([run["curve"] for run in line.runs if run["curve"]])
            axes.fill_between(
                steps, curves.min(0), curves.max(0), color=colour, alpha=0.15, lw=0
            )
            label = f"{title} ({line.rate:g})"
            axes.plot(
                steps, curves.mean(0), color=colour, ls=dashes, lw=1.8, label=label
            )
        axes.set(title=TITLES[problem], xlabel="step", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 2.5, 3, 4, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.25)
        axes.legend(title="optimizer (peak rate)", fontsize=9, title_fontsize=9)
    panels[0].set_ylabel("training loss (ZLPR)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": "zlpr_jax"})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    data = ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=data, help="default: %(default)s")
    parser.add_argument("--runs", type=Path, help="file that keeps finished runs")
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, metavar="NAME")
    parser.add_argument("--json", action="store_true", help="one object per line")
    parser.add_argument("--quick", action="store_true", help="few steps, no tuning")
    parser.add_argument("--save", action="store_true", help=f"draw {PICTURE.name}")
    options = parser.parse_args()
    if options.save and (options.quick or options.only):
        parser.error("--save draws a whole run: leave --quick and --only away")
    device = jax.devices()[0].device_kind
    title = f"{device}, {os.cpu_count()} CPU cores, jax {jax.__version__}"
    problems = {name: PROBLEMS[name] for name in options.only or PROBLEMS}
    if options.quick:
        problems = {name: replace(one, **QUICK) for name, one in problems.items()}
    try:  # all of it, before minutes are spent on the first
        data = {name: load(name, one, options.data) for name, one in problems.items()}
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    log, found = Log(options.runs), {}
    for name, problem in problems.items():
        found[name] = compare(Bench(name, problem, data.pop(name), log), options.quick)
        if options.json:
            for figure in figures(name, found[name]):
                print(json.dumps(figure), flush=True)
        else:
            print_tables(name, found[name], title + ", QUICK" * options.quick)
    if options.save:
        draw(PICTURE, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
