"""`zlpr-jax train multilabel` on an extreme label set, against the best there is.

    python benchmarks/extreme.py [--out FOLDER] [--json] [settings of `train` ...]

Writes an svmlight set from a planted model (by default 100,000 training rows, 200,000
features, 131,072 labels), trains on it as a user would, in a process of its own whose
peak memory is measured, and compares P@1 on the test rows with that of the planted
model's own posterior, which no classifier can beat but by luck. A small version, for a
quick try: --rows 3000 --features 6000 --labels 12000.

The planted model. A row has one to five labels, drawn from the Zipf-Mandelbrot law
(rank + 20)^-1.3. Each label has a signature of eight features, each of which shows with
probability 0.7; some six noise features come on top. Signatures and noise share their
frequent features, as documents share words. Values are those of TF-IDF times noise, so
they say nothing about the labels. Each label of a row is then lost with probability
0.1, which keeps the optimum near 0.9.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

SIGNATURE, SHOWN, NOISE, KEPT = 8, 0.7, 6, 0.9
SIZES = np.array([0.1, 0.25, 0.3, 0.25, 0.1])  # of 1, 2, ... labels
# the labels that the posterior of a row is computed over
CANDIDATES = 12
SETS = np.array(
    [
        [number in chosen for number in range(CANDIDATES)]
        for size in range(1, len(SIZES) + 1)
        for chosen in itertools.combinations(range(CANDIDATES), size)
    ],
    np.float64,
)
# the prior of a set's size, times the orders it can be drawn in
LOG_WAYS = np.log(SIZES * np.cumprod(np.arange(1, len(SIZES) + 1)))[
    SETS.sum(axis=1).astype(int) - 1
]
SETTINGS = [
    *("--no-refit", "--validation", "0.05"),
    *("--steps", "300", "--eval-every", "100"),
    *("--optimizer.method", "adafactor"),
]


class Planted(NamedTuple):
    """The model behind the rows.

    Attributes:
        popularity: How often a label is drawn, sums to 1, `[labels]`.
        signatures: The features of each label, `[labels, 8]`.
        noise: Probability that a feature shows as noise, `[features]`.
        idf: Scale of a feature's values, `[features]`.
    """

    popularity: np.ndarray
    signatures: np.ndarray
    noise: np.ndarray
    idf: np.ndarray


class Rows(NamedTuple):
    """Sparse rows: features with values, and the labels that were kept."""

    features: csr_array
    labels: csr_array


def plant(rng: np.random.Generator, features: int, labels: int) -> Planted:
    popularity = rng.permutation((20 + np.arange(labels)) ** -1.3)
    common = rng.permutation(1 / (features / 200 + np.arange(features)))
    common /= common.sum()
    signatures = rng.choice(features, (labels, SIGNATURE), p=common)
    noise = -np.expm1(-NOISE * common)
    # expected share of the rows that show a feature
    drawn = SIZES @ np.arange(1, len(SIZES) + 1) * popularity / popularity.sum()
    shown = np.zeros(features)
    np.add.at(shown, signatures, SHOWN * drawn[:, None])
    idf = -np.log(np.minimum(noise + shown, 1))
    return Planted(popularity / popularity.sum(), signatures, noise, idf)


def draw(rng: np.random.Generator, model: Planted, rows: int) -> Rows:
    labels, features = len(model.popularity), len(model.noise)
    sizes = 1 + rng.choice(len(SIZES), rows, p=SIZES)
    row = np.repeat(np.arange(rows), sizes)
    label = rng.choice(labels, len(row), p=model.popularity)
    shows = rng.random((len(row), SIGNATURE)) < SHOWN
    noisy = rng.poisson(model.noise.sum(), rows)
    columns = [
        model.signatures[label][shows],
        rng.choice(features, noisy.sum(), p=model.noise / model.noise.sum()),
    ]
    origins = [
        np.repeat(row, SIGNATURE).reshape(shows.shape)[shows],
        np.repeat(np.arange(rows), noisy),
    ]
    shape = (rows, features)
    ones = np.ones(sum(map(len, columns)), np.float32)
    matrix = csr_array(
        (ones, (np.concatenate(origins), np.concatenate(columns))), shape=shape
    )
    matrix.sum_duplicates()
    values = model.idf[matrix.indices] * rng.gamma(4.0, 0.25, matrix.nnz)
    # as TF-IDF usually is, of length 1
    length = np.sqrt(np.bincount(matrix.nonzero()[0], values**2, minlength=rows))
    values /= np.repeat(np.maximum(length, 1e-9), np.diff(matrix.indptr))
    matrix.data = np.maximum(values, 1e-4).astype(np.float32)
    kept = rng.random(len(row)) < KEPT
    truth = csr_array(
        (np.ones(kept.sum(), np.int8), (row[kept], label[kept])), shape=(rows, labels)
    )
    truth.sum_duplicates()
    return Rows(matrix, truth)


def write(path: Path, rows: Rows) -> None:
    count, features = rows.features.shape
    with path.open("w", encoding="ascii") as stream:
        stream.write(f"{count} {features} {rows.labels.shape[1]}\n")
        for row in range(count):
            start, end = rows.features.indptr[row : row + 2]
            index = rows.features.indices[start:end].tolist()
            value = rows.features.data[start:end].tolist()
            start, end = rows.labels.indptr[row : row + 2]
            labels = ",".join(map(str, rows.labels.indices[start:end].tolist()))
            pairs = (f"{i}:{v:.4f}" for i, v in zip(index, value, strict=True))
            stream.write(f"{labels} {' '.join(pairs)}\n")


def optimal_labels(model: Planted, features: csr_array) -> np.ndarray:
    """The most probable label of each row.

    A score that takes each label alone picks the candidates; `most_probable` then
    weighs what sets of them explain together.
    """
    count = len(model.popularity)
    # what an active feature says for a label whose signature has it
    says = model.idf + np.log(SHOWN) - np.log(1 - SHOWN)
    columns = model.signatures.flatten()
    ends = np.arange(0, count * SIGNATURE + 1, SIGNATURE)
    shape = (count, features.shape[1])
    alone = csr_array(csr_array((says[columns], columns, ends), shape=shape).T)
    prior = np.log(model.popularity)
    found = np.zeros(features.shape[0], np.int64)
    for first in range(0, len(found), 500):
        chunk = features[first : first + 500]
        active = csr_array(
            (np.ones(chunk.nnz), chunk.indices, chunk.indptr), chunk.shape
        )
        scores = csr_array(active @ alone)
        for row in range(chunk.shape[0]):
            span = slice(*scores.indptr[row : row + 2])
            near, score = scores.indices[span], scores.data[span]
            near = near[np.argsort(-score - prior[near])[:CANDIDATES]]
            shown = active.indices[slice(*active.indptr[row : row + 2])]
            if len(near):
                found[first + row] = most_probable(model, near, shown)
    return found


def most_probable(model: Planted, near: np.ndarray, shown: np.ndarray) -> int:
    """The label with the highest posterior, over all sets of one to five candidates."""
    keep = ~SETS[:, len(near) :].any(axis=1)
    sets = SETS[keep, : len(near)]
    owned = (model.signatures[near][:, :, None] == shown).any(axis=1)
    unseen = SIGNATURE - owned.sum(axis=1)
    each = np.log(model.popularity[near]) + unseen * np.log(1 - SHOWN)
    silent = (1 - model.noise[shown]) * (1 - SHOWN) ** (sets @ owned)
    log_posterior = LOG_WAYS[keep] + sets @ each + np.log1p(-silent).sum(axis=1)
    posterior = np.exp(log_posterior - log_posterior.max())
    return near[(posterior @ sets).argmax()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="keep files and run folder here")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=200_000)
    parser.add_argument("--labels", type=int, default=131_072)
    parser.add_argument("--json", action="store_true", help="one object per line")
    options, settings = parser.parse_known_args()  # the rest goes to `train`
    with tempfile.TemporaryDirectory() as temporary:
        return run(options, options.out or Path(temporary), [*SETTINGS, *settings])


def run(options: argparse.Namespace, folder: Path, settings: list[str]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    model = plant(rng, options.features, options.labels)
    train, test = (
        draw(rng, model, rows) for rows in (options.rows, options.rows // 10)
    )
    write(folder / "train.svm", train)
    write(folder / "test.svm", test)
    command = [
        *(sys.executable, "-m", "zlpr_jax", "train", "multilabel"),
        *("--data", str(folder / "train.svm"), "--test", str(folder / "test.svm")),
        *("--run", str(folder / "run"), *settings),
    ]
    print("$", " ".join(command), file=sys.stderr, flush=True)
    start = time.perf_counter()
    # tables to stderr, so that --json is one object per line
    status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if status:
        return status
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    results = json.loads((folder / "run" / "results.json").read_text())
    ours = results["zlpr"]["precision_at_1"]["mean"]

    def precision(labels: np.ndarray) -> float:
        hits = test.labels[np.arange(len(labels)), labels]
        return float((hits > 0).mean())

    optimum = precision(optimal_labels(model, test.features))
    popular = train.labels.sum(axis=0).argmax()
    baseline = precision(np.full(test.labels.shape[0], popular))
    rows = [
        ("extreme_precision_at_1", ours / optimum, "P@1 over the optimum's", 0.9),
        ("extreme_peak_memory", memory, "GB", 4),
        ("extreme_time", seconds, "s", None),
        ("extreme_p_at_1", ours, "P@1", optimum),
        ("extreme_p_at_1_most_frequent_label", baseline, "P@1", optimum),
    ]
    if options.json:
        for name, value, unit, versus in rows:
            line = {"name": name, "value": value, "unit": unit, "versus": versus}
            print(json.dumps(line))
        return 0
    print("| measured | value | target or optimum |")
    print("|---|---|---|")
    for name, value, unit, versus in rows:
        target = "" if versus is None else f"{versus:.4g}"
        print(f"| {name} | {value:.4g} {unit} | {target} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
