"""Default settings on seven data sets: the table of the README.

    python benchmarks/multilabel.py DATA [--only bibtex] [--seeds 5] [--json]

DATA is a folder with the official splits, one `ml_NAME` folder per set. Each run is
`zlpr-jax train multilabel --data TRAIN --test TEST --seeds 5` and nothing else; the
floor is a one-vs-rest logistic regression of scikit-learn on the same split.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from zlpr_jax.cli import main as zlpr_jax

# name: (train, test, micro-F1 of logistic regression)
SETS = {
    "emotions": ("emotions-train.arff", "emotions-test.arff", 0.6408),
    "scene": ("scene-train.arff", "scene-test.arff", 0.6368),
    "enron": ("enron-train.arff", "enron-test.arff", 0.5464),
    "medical": ("medical-train.arff", "medical-test.arff", 0.6802),
    "bibtex": ("bibtex-train.arff", "bibtex-test.arff", 0.4121),
    "corel5k": ("Corel5k-train-sparse.arff", "Corel5k-test-sparse.arff", 0.1890),
    "goemotions": ("train.tsv", "test.tsv", 0.3927),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object per line")
    options, settings = parser.parse_known_args()  # the rest goes to `train`
    rows = []
    for name in options.only:
        train, test, floor = SETS[name]
        folder = options.data / f"ml_{name}"
        with tempfile.TemporaryDirectory() as parent:
            run, start = Path(parent) / name, time.perf_counter()
            # tables to stderr, so that --json is one object per line
            out, sys.stdout = sys.stdout, sys.stderr
            status = zlpr_jax(
                [
                    *("train", "multilabel", "--data", str(folder / train)),
                    *("--test", str(folder / test), "--seeds", str(options.seeds)),
                    *("--run", str(run), *settings),
                ]
            )
            sys.stdout = out
            if status:
                return status
            results = json.loads((run / "results.json").read_text())
        cells = [name, f"{floor:.4f}"]
        for column in ("zlpr", "bce", "bce_tuned"):
            score = results[column]["micro_f1"]
            error = score["std"] / len(score["values"]) ** 0.5
            cells.append(f"{score['mean']:.4f} ± {error:.4f}")
            if options.json:
                print(
                    json.dumps(
                        {
                            "name": f"{name}_{column}_micro_f1",
                            "value": score["mean"],
                            "unit": "micro-F1",
                            "versus": floor,
                        }
                    ),
                    flush=True,
                )
        rows.append([*cells, f"{time.perf_counter() - start:.0f} s"])
    if not options.json:
        print(
            "| data | logistic regression | ZLPR, s > 0 | BCE, p > 0.5 | BCE, tuned |"
        )
        print("|---|---|---|---|---|")
        for *cells, seconds in rows:
            print("| " + " | ".join(cells) + f" | <!-- {seconds} -->")
    return 0


if __name__ == "__main__":
    sys.exit(main())
