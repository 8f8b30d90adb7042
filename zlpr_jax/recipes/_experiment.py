"""Compare losses on one multi-label data set: the run behind `zlpr-jax train`.

Each seed and loss trains twice: once without the validation part, to find the number of
epochs, then on all training rows for that number. The test rows are scored once.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optax
from scipy.sparse import csr_array

from zlpr_jax._errors import InputError
from zlpr_jax.data.multilabel import MultilabelData
from zlpr_jax.data.tfidf import Tfidf
from zlpr_jax.optim import scale_by_path
from zlpr_jax.recipes._config import LINEAR_LABELS, ExperimentConfig, settle
from zlpr_jax.recipes._optimizer import make_optimizer
from zlpr_jax.recipes._problem import Problem, make_problem
from zlpr_jax.recipes._results import print_table, summarize
from zlpr_jax.recipes._session import Session, fit_config, mesh_of, open_session
from zlpr_jax.recipes._settings import to_json
from zlpr_jax.recipes._stages import Rows, Trained, train_once
from zlpr_jax.recipes._text_encoder import read_text_encoder
from zlpr_jax.tasks.features import vectorize
from zlpr_jax.training import FitResult, make_mesh
from zlpr_jax.training._mesh import fetch
from zlpr_jax.training._run import CONFIG

# Which rows validate never depends on the seed of a fit.
SPLIT_SEED = 0


def split(
    data: MultilabelData, share: float, *, most: int | None = None
) -> tuple[MultilabelData, MultilabelData]:
    """Split rows at random, always the same way, into (1 - share, share).

    Args:
        data: The rows.
        share: Share of them in the second part.
        most: Rows in the second part at most; the others stay in the first.

    Raises:
        InputError: If one side would be empty.
    """
    count = round(share * len(data))
    if not 0 < count < len(data):
        raise InputError(
            f"{data.path}: {share:g} of {len(data)} rows leaves one side of the split "
            "empty: give more rows, or another share."
        )
    count = min(count, most or count)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data))
    return data.take(np.sort(order[count:])), data.take(np.sort(order[:count]))


def run_experiment(
    name: str,
    config: ExperimentConfig,
    train: MultilabelData,
    test: MultilabelData,
    *,
    validation: MultilabelData | None = None,
    max_features: int = 20_000,
    top: int = 20,
    resume: bool = False,
) -> dict[str, Any] | None:
    """Train every loss and seed, print the comparison and write the run folder.

    Args:
        name: Names the default run folder and the title of the table.
        config: The experiment.
        train: Training rows.
        test: Test rows, read against the schema of `train`.
        validation: Rows that validate, read against the schema of `train`; by default
            a part of the training rows.
        max_features: Words and word pairs kept of a text.
        top: Labels given per row where there are many.
        resume: Whether to go on with the run in `config.run`.

    Returns:
        What `results.json` holds; `None` if Ctrl-C or SIGTERM came before the end.

    Raises:
        InputError: If the data or the settings do not allow it, before there is a
            folder, or training fails.
    """
    schema, digests = train.schema, {"train": _digest(train), "test": _digest(test)}
    if validation is not None:
        digests["validation"] = _digest(validation)
    config, mesh = settle(config, train.num_labels), mesh_of(config)
    tfidf = encoder = None
    if config.encoder is not None:
        if schema.kind != "text":
            raise InputError(
                f"{train.path}: an encoder reads texts, and these rows have "
                f"{schema.kind} features: leave --encoder out."
            )
        encoder = read_text_encoder(config.encoder, config.text.length)
        digests["encoder"] = encoder.digest()
    elif isinstance(train.features, tuple):
        tfidf = Tfidf.fit(train.features, max_features=max_features)
        train, test = vectorize(train, tfidf), vectorize(test, tfidf)
        validation = validation and vectorize(validation, tfidf)
    if mesh is None and train.num_labels > LINEAR_LABELS:
        # so many are padded as they are on any mesh: the run can go on on another one
        mesh = make_mesh()
    problem = make_problem(config, train, top=top, mesh=mesh, encoder=encoder)
    if validation is None:
        parts = split(train, config.validation, most=problem.validation_rows)
    else:
        parts = train, validation
    steps = fit_config(config).steps
    optimizers = {
        loss: _optimizer(config, loss, steps, problem.rates) for loss in problem.tasks
    }
    files = {
        CONFIG: {
            "recipe": name,
            "train": train.path,
            "test": test.path,
            "sha256": digests,
            "settings": to_json(config, absolute=True),
            **problem.config,
        },
        "schema.json": {
            "data": schema.to_json(),
            "tfidf": tfidf and tfidf.to_json(),
            **problem.schema,
        },
    }
    rows = Rows(*parts, train, test)
    data = f"the rows of {train.path} and {test.path}"
    with open_session(
        name, config, files, data=data, resume=resume, mesh=mesh
    ) as session:
        done = session.train(
            lambda: _train_all(session, rows, config, problem, optimizers)
        )
        if done is None:
            return None
        kept, trained = done
        columns = {loss: [run.scores for run in runs] for loss, runs in trained.items()}
        for loss, runs in trained.items():
            if tuned := [run.tuned for run in runs if run.tuned]:
                columns[f"{loss}_tuned"] = tuned
        results = summarize(columns)
        params, state = fetch((kept.params, kept.state))
        if (folder := session.folder) is not None:
            tree = {"params": problem.saved(params), "state": state}
            folder.write_tree("params.safetensors", tree)
            _write_predictions(session, name, problem, trained, test)
        session.complete(results)
    title = f"{name}: {len(test)} test rows"
    print_table(session.console, title, results, problem.headings, problem.titles)
    session.say_paths("curves.png")
    return results


def _train_all(
    session: Session,
    rows: Rows,
    config: ExperimentConfig,
    problem: Problem,
    optimizers: Mapping[str, optax.GradientTransformation],
) -> tuple[FitResult, dict[str, list[Trained]]]:
    """Train every seed under every loss; return also the model of the first."""
    kept: FitResult | None = None
    trained: dict[str, list[Trained]] = {loss: [] for loss in problem.tasks}
    for seed, loss in itertools.product(range(config.seeds), trained):
        fitted, result = train_once(
            session,
            rows,
            loss,
            seed,
            problem.tasks[loss],
            optimizers[loss],
            refit=config.refit,
            tuning=problem.tuning if loss in problem.tuned else None,
            initial=problem.initial,
        )
        trained[loss].append(result)
        # the parameters of the others are let go
        kept = kept or fitted
    assert kept is not None
    return kept, trained


def _optimizer(
    config: ExperimentConfig,
    loss: str,
    steps: int,
    rates: Sequence[tuple[str, Any]],
) -> optax.GradientTransformationExtraArgs:
    optimizer = config.optimizer
    if loss == "bce" and config.bce_learning_rate is not None:
        rate = config.bce_learning_rate
        optimizer = dataclasses.replace(optimizer, learning_rate=rate)
    tx = make_optimizer(optimizer, steps)
    return optax.chain(tx, scale_by_path(rates)) if rates else tx


def _write_predictions(
    session: Session,
    name: str,
    problem: Problem,
    trained: Mapping[str, Sequence[Trained]],
    test: MultilabelData,
) -> None:
    folder, log = session.folder, session.log
    assert folder is not None
    predictions = {
        loss: [run.predictions for run in runs] for loss, runs in trained.items()
    }
    lines = problem.lines(next(iter(predictions.values()))[0], test)
    with folder.writing("predictions.jsonl") as path, path.open("w") as stream:
        stream.writelines(lines)
    with folder.writing("curves.png") as path:
        curves = [row for row in log.rows() if row["stage"] == "search"]
        problem.draw(path, name, curves, predictions, test)


def _digest(data: MultilabelData) -> str:
    """What changes with the rows of `data`."""
    digest = hashlib.sha256(repr((data.label_names, data.ids)).encode())
    features = data.features
    if isinstance(features, tuple):
        digest.update(repr(features).encode())
    elif isinstance(features, np.ndarray):
        digest.update(features.tobytes())
    for matrix in (features, data.labels):
        if isinstance(matrix, csr_array):
            for part in (matrix.indptr, matrix.indices, matrix.data):
                digest.update(np.asarray(part, np.float64).tobytes())
    return digest.hexdigest()
