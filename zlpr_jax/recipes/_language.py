"""Train language models that differ in their attention, on the same rows."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.data.tokens import TokenRows
from zlpr_jax.models.decoder import COMPONENTS, Component, DecoderConfig
from zlpr_jax.recipes._autoencoder_results import mean
from zlpr_jax.recipes._language_config import LanguageConfig
from zlpr_jax.recipes._language_results import Column, draw, print_models
from zlpr_jax.recipes._optimizer import make_optimizer
from zlpr_jax.recipes._session import Session, open_session, say
from zlpr_jax.recipes._settings import to_json
from zlpr_jax.tasks.language import make
from zlpr_jax.training._mesh import fetch
from zlpr_jax.training._parameters import named_leaves
from zlpr_jax.training._run import CONFIG

ALIASES = {"mixture": "dense+dot"}


class Problem(NamedTuple):
    """What language models are compared on.

    Attributes:
        data: What the rows are of, for messages; in the plural.
        about: A line about them, above the table.
        training: Rows to train on.
        validation: Rows that choose the parameters of each model, and the model kept.
        test: Rows for the report.
        vocabulary: Number of tokens.
        max_length: Most tokens of a row.
        headline: The score that is compared, and which is better.
        columns: What of the scores the table shows.
        entries: What else config.json holds.
        files: JSON files of the run folder, by name.
    """

    data: str
    about: str
    training: TokenRows
    validation: TokenRows
    test: TokenRows
    vocabulary: int
    max_length: int
    headline: tuple[str, Literal["min", "max"]]
    columns: tuple[Column, ...]
    entries: Mapping[str, Any]
    files: Mapping[str, Any]


def components_of(attention: str) -> tuple[Component, ...]:
    """The components that a name of the setting `attention` stands for.

    Raises:
        InputError: If it names an unknown one, or one twice.

    Examples:
        >>> components_of("mixture"), components_of("random+dot")
        (('dense', 'dot'), ('random', 'dot'))
    """
    names = ALIASES.get(attention, attention).split("+")
    if set(names) - set(COMPONENTS) or len(set(names)) < len(names):
        known = ", ".join((*COMPONENTS, *ALIASES))
        raise InputError(
            f"attention {attention!r} is not known: give one of {known}, or several "
            "different ones joined by +, such as random+dot."
        )
    return cast(tuple[Component, ...], tuple(names))


def check_attention(names: tuple[str, ...]) -> None:
    """Raise `InputError` unless all names are known and mean different things."""
    meant: dict[frozenset[str], str] = {}
    for name in names:
        same = meant.setdefault(frozenset(components_of(name)), name)
        if same is not name:
            raise InputError(
                f"attention names {same} and {name}, which are the same: leave one out."
            )


def run_language_models(
    name: str, config: LanguageConfig, problem: Problem, *, resume: bool = False
) -> dict[str, Any] | None:
    """Train everything, print the table and write the run folder.

    Args:
        name: The recipe.
        config: The settings.
        problem: What to compare on.
        resume: Whether to go on with the run in `config.run`.

    Returns:
        What `results.json` holds; `None` if Ctrl-C or SIGTERM came before the end.

    Raises:
        InputError: If the settings do not allow it, or training fails.
    """
    check_attention(config.attention)
    network = DecoderConfig(
        vocabulary=problem.vocabulary,
        max_length=problem.max_length,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        positions=config.positions,
        dropout=config.dropout,
    )
    parts = {
        part: getattr(problem, part) for part in ("training", "validation", "test")
    }
    begun = {
        **problem.files,
        CONFIG: {
            "recipe": name,
            "data": problem.data,
            "sha256": _digest(problem),
            "rows": {part: len(rows) for part, rows in parts.items()},
            # but for its attention, which is that of the model chosen
            "network": {k: v for k, v in vars(network).items() if k != "attention"},
            **problem.entries,
            "settings": to_json(config, absolute=True),
        },
    }
    with open_session(name, config, begun, data=problem.data, resume=resume) as session:
        trained = session.train(lambda: _train_all(session, config, network, problem))
        if trained is None:
            return None
        results, kept = trained
        picture = f"{problem.headline[0]}.png"
        if (folder := session.folder) is not None:
            params, state = kept
            folder.write_tree("params.safetensors", {"params": params, "state": state})
            with folder.writing(picture) as file:
                draw(file, results, problem.headline[0])
        session.complete(results)
    say(session.console, problem.about)
    print_models(session.console, results, problem.columns)
    session.say_paths(picture)
    return results


def _train_all(
    session: Session, config: LanguageConfig, network: DecoderConfig, problem: Problem
) -> tuple[dict[str, Any], tuple[PyTree, PyTree]]:
    """Train every model and seed; return results, and the best model of seed 0."""
    tx = make_optimizer(config.optimizer, config.steps)
    score, direction = problem.headline
    sign = 1 if direction == "max" else -1
    models: list[dict[str, Any]] = []
    best, chosen, kept = -math.inf, "", None
    for attention in config.attention:
        components = components_of(attention)
        task = make(
            dataclasses.replace(network, attention=components),
            headline=problem.headline,
        )
        seeds: list[dict[str, Any]] = []
        first, counts = None, {}
        for seed in range(config.seeds):
            name = f"{attention}, seed {seed}"
            log = session.log.bind(attention=attention, seed=seed)
            session.bar.start(name, headline=problem.headline)
            fitted = session.fit(
                name,
                task,
                tx,
                problem.training,
                dataclasses.replace(session.settings, seed=seed),
                checkpoints=f"{attention}-{seed}",
                log=log,
                validation=problem.validation,
            )
            scores = {}
            for part in ("validation", "test"):
                rows = getattr(problem, part)
                found, _ = session.evaluate(task, fitted.params, fitted.state, rows)
                # nats of a token as bits
                scores[part] = {**found, "bits": found["loss"] / math.log(2)}
            log.write({"step": fitted.step, "test": scores["test"]})
            session.bar.finish(f"best at step {fitted.step} of {config.steps}")
            seeds.append({"step": fitted.step, **scores})
            counts = _counts(fitted.params)
            first = first or fetch((fitted.params, fitted.state))
        row = {
            "attention": attention,
            "components": list(components),
            **counts,
            "seeds": seeds,
        }
        models.append(row)
        if (reached := sign * mean(row, "validation", score)) > best:
            best, chosen, kept = reached, attention, first
    if kept is None:
        raise InputError(f"no model has a held-out {score}: training has diverged.")
    return {"chosen": chosen, "models": models}, kept


def _counts(params: PyTree) -> dict[str, int]:
    """Trained numbers, of all and of what the scores of attention come from."""
    sizes = {name: math.prod(leaf.shape) for name, leaf in named_leaves(params).items()}
    ours = [size for name, size in sizes.items() if "/attention/scores/" in name]
    return {"parameters": sum(sizes.values()), "score_parameters": sum(ours)}


def _digest(problem: Problem) -> str:
    digest = hashlib.sha256(json.dumps(problem.files).encode())
    for rows in (problem.training, problem.validation, problem.test):
        for name, array in rows.arrays().items():
            digest.update(repr((name, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
