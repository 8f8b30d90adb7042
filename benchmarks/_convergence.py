"""Training runs for `convergence.py`: one problem, any optimizer, any learning rate."""

import functools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zlpr_jax.data.multilabel import MultilabelData
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.recipes._experiment import split
from zlpr_jax.tasks import multilabel

POINTS = 25  # of a curve, after the initial value
WARMUP = 0.05
# Draws the rows that the training loss is measured on. A run with this seed would begin
# its first epoch, the warm-up, with just these rows, and have learnt least from them.
WATCH_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is trained, and how long.

    Attributes:
        hidden: widths of the hidden layers.
        scores: the test scores shown; the first one tunes.
        features: words and word pairs kept of a text.
        rows: of each part, the first ones; None for all.
        steps: a multiple of `POINTS`.
        watched: training rows at most that the training loss is measured on.
        tuning_seeds: seeds whose mean validation score tunes.
    """

    hidden: tuple[int, ...]
    scores: tuple[str, ...]
    dropout: float = 0.0
    input_dropout: float = 0.0
    features: int = 0
    rows: int | None = None
    steps: int = 1000
    batch_size: int = 128
    watched: int = 2048
    tuning_seeds: tuple[int, ...] = (100,)


# Given a schedule; everything else is at its default.
Optimizer = Callable[[optax.Schedule], optax.GradientTransformation]
# A loss, a curve and scores; None where training diverged.
Run = dict[str, Any]


class Bench:
    """The runs of one problem."""

    def __init__(
        self,
        name: str,
        problem: Problem,
        data: tuple[MultilabelData, MultilabelData, Any],
        log: "Log",
    ):
        train, test, scaling = data
        self.name, self.problem, self.log = name, problem, log
        network = MLPConfig(
            features=train.num_features,
            labels=train.num_labels,
            hidden=problem.hidden,
            dropout=problem.dropout,
            input_dropout=problem.input_dropout,
        )
        self.task = multilabel.make(network, scaling=scaling)
        everything = range(len(train))
        fitting, held_out = split(replace(train, ids=tuple(map(str, everything))), 0.2)
        self.arrays = self.batch(train)
        # which rows train, and what is scored
        self.parts = {
            "tune": (np.array(fitting.ids, int), self.batch(held_out), list(held_out)),
            "test": (np.array(everything), self.batch(test), list(test)),
        }
        self.trainer = functools.cache(self.compile)

    def batch(self, data: MultilabelData) -> dict[str, Any]:
        return jax.device_put(self.task.batch(list(data), len(data)))

    def run(
        self, name: str, optimizer: Optimizer, rate: float, seed: int, part: str
    ) -> Run:
        """Train once, or give what the log has.

        Args:
            name: of the optimizer.
            optimizer: builds it.
            rate: peak learning rate.
            seed: of initial values, batches and dropout.
            part: "tune" keeps the validation rows out of training and scores them;
                "test" trains on all training rows and scores the test rows.
        """
        settings = {
            "problem": self.name,
            **asdict(self.problem),
            "optimizer": name,
            "rate": rate,
            "seed": seed,
            "part": part,
        }
        known = self.log.get(settings)
        return known or self.log.add(settings, self.train(optimizer, rate, seed, part))

    def train(self, optimizer: Optimizer, rate: float, seed: int, part: str) -> Run:
        start = time.perf_counter()
        rows, scored, records = self.parts[part]
        order = np.random.default_rng(WATCH_SEED).permutation(rows)
        watched = order[: self.problem.watched]
        init_key, key = jax.random.split(jax.random.key(seed))
        params, state, curve = self.trainer(optimizer)(
            self.arrays,
            batches(rows, self.problem, seed),
            watched,
            *self.task.init(init_key),
            rate,
            key,
        )
        logits = np.asarray(jax.jit(self.task.predict)(params, state, scored))
        curve = [float(f"{value:.6g}") for value in np.asarray(curve)]
        if not (np.isfinite(logits).all() and math.isfinite(curve[-1])):
            return {"loss": None, "scores": None, "curve": None}
        scores = self.task.score(list(logits), records)
        return {
            "loss": curve[-1],
            # with one label a row, that its score is the highest
            "scores": {**scores, "accuracy": 1 - scores["one_error"]},
            "curve": curve,
            "seconds": round(time.perf_counter() - start, 2),
        }

    def tune(
        self, name: str, optimizer: Optimizer, rate_of: Callable, grid: Sequence[int]
    ) -> dict[float, float]:
        """Mean validation score by rate, on a grid extended until the best is inside.

        Args:
            name: of the optimizer.
            optimizer: builds it.
            rate_of: the rate at a place of the grid.
            grid: places to begin with.
        """
        found: dict[int, float] = {}
        wanted = list(grid)
        while wanted:
            for place in wanted:
                runs = [
                    self.run(name, optimizer, rate_of(place), seed, "tune")
                    for seed in self.problem.tuning_seeds
                ]
                found[place] = sum(map(self.headline, runs)) / len(runs)
            best = max(found, key=found.__getitem__)
            wanted = [place for place in (best - 1, best + 1) if place not in found]
        return {rate_of(place): score for place, score in found.items()}

    def headline(self, run: Run) -> float:
        """The score that tunes; a run that diverged is the worst."""
        scores = run["scores"]
        return -math.inf if scores is None else scores[self.problem.scores[0]]

    def compile(self, optimizer: Optimizer) -> Callable[..., Any]:
        """A whole training as one program, whose learning rate is an argument."""
        task, steps = self.task, self.problem.steps
        shape = optax.warmup_cosine_decay_schedule(
            0.0, 1.0, max(1, round(WARMUP * steps)), steps
        )

        def train(arrays, order, watched, params, state, rate, key):
            tx = optimizer(lambda count: rate * shape(jnp.asarray(count, jnp.float32)))
            watched = jax.tree.map(lambda array: array[watched], arrays)
            numbers = jnp.arange(steps).reshape(order.shape[:2])

            def step(carry, at):
                params, state, moments = carry
                rows, number = at
                batch = jax.tree.map(lambda array: array[rows], arrays)
                grads, (state, _) = jax.grad(task.loss, has_aux=True)(
                    params, state, batch, jax.random.fold_in(key, number)
                )
                updates, moments = tx.update(grads, moments, params)
                return (optax.apply_updates(params, updates), state, moments), None

            def loss(params, state):
                return task.loss(params, state, watched, None)[0]

            def stretch(carry, at):
                carry, _ = jax.lax.scan(step, carry, at)
                return carry, loss(*carry[:2])

            first = loss(params, state)
            carry = params, state, tx.init(params)
            (params, state, _), curve = jax.lax.scan(stretch, carry, (order, numbers))
            return params, state, jnp.concatenate([first[None], curve])

        return jax.jit(train)


def batches(rows: np.ndarray, problem: Problem, seed: int) -> np.ndarray:
    """Row numbers `[points, steps a point, batch]`: epochs in random order, joined."""
    rng, size = np.random.default_rng(seed), problem.steps * problem.batch_size
    epochs = [rng.permutation(rows) for _ in range(math.ceil(size / len(rows)))]
    order = np.concatenate(epochs)[:size].astype(np.int32)
    return order.reshape(POINTS, -1, problem.batch_size)


class Log:
    """Finished runs, one JSON object a line, in memory and in a file if it has one."""

    def __init__(self, path: Path | None):
        self.path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        runs = [json.loads(line) for line in lines]
        self.runs = {json.dumps(run["settings"]): run["result"] for run in runs}

    def get(self, settings: dict[str, Any]) -> Run | None:
        return self.runs.get(json.dumps(settings))

    def add(self, settings: dict[str, Any], result: Run) -> Run:
        self.runs[json.dumps(settings)] = result
        if self.path:
            with self.path.open("a") as stream:
                line = json.dumps({"settings": settings, "result": result})
                stream.write(line + "\n")
        named = (settings[key] for key in ("problem", "optimizer", "part", "seed"))
        scores = result["scores"] or {}
        shown = (f"{key} {scores.get(key, math.nan):.4f}" for key in settings["scores"])
        print(*named, f"rate {settings['rate']:g}", *shown, file=sys.stderr, flush=True)
        return result
