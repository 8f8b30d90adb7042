"""The search behind the settings of `zlpr-jax train yeast`.

    python benchmarks/search_yeast.py [--json]

Draws settings at random and scores each on the fixed validation part of the training
rows, the same draws for both losses. The test rows are never read. The settings with
the best mean of micro-F1, macro-F1 and LRAP for ZLPR are the recipe's. With these,
every learning rate is then tried for BCE, which keeps the one that is best for it.
"""

import argparse
import itertools
import json
import sys

import numpy as np

from zlpr_jax.data.yeast import read_yeast
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.recipes._config import OptimizerConfig
from zlpr_jax.recipes._experiment import split
from zlpr_jax.recipes._optimizer import make_optimizer
from zlpr_jax.tasks import multilabel
from zlpr_jax.tasks.features import feature_scaling
from zlpr_jax.training import FitConfig, fit

OBJECTIVES = {"zlpr": multilabel.ZLPR, "bce": multilabel.BCE}

# A coarser search, over one or two layers of 256 to 1024 units, dropout up to 0.7,
# input dropout, and learning rates from 3e-4 to 3e-3, left these layers standing.
GRID = {
    "hidden": [(512, 256)],
    "input_dropout": [0.2],
    "dropout": [0.25, 0.5],
    "learning_rate": [1e-3, 2e-3, 3e-3],
    "weight_decay": [0.0, 0.05, 0.5],
    "steps": [500, 1000, 2000],
}
HEADLINES = ("micro_f1", "macro_f1", "lrap")


def validation_score(loss, draw, seed, scaling, fitting, validation):
    """Validation scores at the kept step of one fit."""
    network = MLPConfig(
        features=103,
        labels=14,
        hidden=draw["hidden"],
        dropout=draw["dropout"],
        input_dropout=draw["input_dropout"],
    )
    task = multilabel.make(network, objective=OBJECTIVES[loss], scaling=scaling)
    optimizer = OptimizerConfig(
        learning_rate=draw["learning_rate"], weight_decay=draw["weight_decay"]
    )
    tx = make_optimizer(optimizer, draw["steps"])
    reached = []
    fit(
        task,
        tx,
        fitting,
        FitConfig(steps=draw["steps"], eval_every=50, patience=20, seed=seed),
        validation=validation,
        report=lambda progress: progress.scores and reached.append(progress.scores),
    )
    return max(reached, key=lambda scores: scores["micro_f1"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args()
    train, _ = read_yeast()
    fitting, validation = split(train, 0.2)
    scaling = feature_scaling(train)
    everything = [
        dict(zip(GRID, values, strict=True))
        for values in itertools.product(*GRID.values())
    ]
    chosen = np.random.default_rng(0).permutation(len(everything))[: options.draws]
    rows = []

    def score(loss, draw):
        scores = [
            validation_score(loss, draw, seed, scaling, list(fitting), list(validation))
            for seed in range(options.seeds)
        ]
        means = {name: np.mean([score[name] for score in scores]) for name in HEADLINES}
        value = float(np.mean(list(means.values())))
        rows.append({"loss": loss, "value": value, **means, "settings": draw})
        if options.json:
            print(json.dumps({"name": f"yeast_validation_{loss}", **rows[-1]}))
        else:
            print(f"{loss:5}{value:.4f}", *(f"{v:.4f}" for v in means.values()), draw)
        sys.stdout.flush()

    for number, loss in itertools.product(chosen, ("zlpr", "bce")):
        score(loss, everything[number])
    best = max((r for r in rows if r["loss"] == "zlpr"), key=lambda r: r["value"])
    print(f"best for zlpr: {best['settings']}", file=sys.stderr)
    rows.clear()
    for learning_rate in GRID["learning_rate"]:
        score("bce", {**best["settings"], "learning_rate": learning_rate})
    best = max(rows, key=lambda r: r["value"])
    print(f"best for bce: {best['settings']}", file=sys.stderr)


if __name__ == "__main__":
    main()
