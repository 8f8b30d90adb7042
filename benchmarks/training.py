"""What `fit` costs beyond the bare jitted step, and what a step needs on a TPU pod.

    JAX_PLATFORMS=cpu python benchmarks/training.py [--only NAME ...] [--json]

`fit_overhead` trains a multi-layer perceptron on rows like those of Mulan yeast, batch
128, 500 steps, with progress bar and metrics file and without checkpoints. Its peer is
the loop that one writes by hand: a jitted step on one batch that already lies on the
device, without a guard, and nothing else.
"""

import functools
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import optax
from _command import run_figures
from _measure import ROOT, Row, Settings, absent, short
from rich.console import Console
from scipy.sparse import csr_array

from zlpr_jax import optim
from zlpr_jax.data.multilabel import MultilabelData
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.tasks import multilabel
from zlpr_jax.training import FitConfig, MetricsLog, ProgressBar, fit
from zlpr_jax.training import _fit as loop

BATCH = 128


def rows_like_yeast() -> MultilabelData:
    rng = np.random.default_rng(0)
    return MultilabelData(
        features=rng.normal(size=(1500, 103)).astype(np.float32),
        labels=csr_array((rng.random((1500, 14)) < 0.3).astype(np.int8)),
        label_names=tuple(map(str, range(14))),
        ids=tuple(map(str, range(1500))),
        path="made up",
    )


class Problem:
    """One network, and the two loops that train it."""

    def __init__(self, settings: Settings):
        self.records = rows_like_yeast()
        self.steps = 50 if settings.quick else 500
        hidden = settings.shape((400, 200), (16,))
        network = MLPConfig(features=103, labels=14, hidden=hidden, dropout=0.5)
        self.task = multilabel.make(network)
        self.tx = optim.adaxw(1e-3)

    def by_hand(self) -> float:
        """Seconds of `steps` bare steps, after the first."""
        task, tx = self.task, self.tx

        params, state = task.init(jax.random.key(0))
        opt_state = tx.init(params)
        batch = jax.device_put(task.batch(self.records.take(range(BATCH)), BATCH))
        trained = jax.tree.map(jax.numpy.copy, (params, state, opt_state))
        trained = jax.block_until_ready(self._step(*trained, batch, jax.random.key(1)))
        keys = jax.block_until_ready(list(jax.random.split(jax.random.key(2), 500)))
        start = time.perf_counter()
        for number in range(self.steps):
            trained = self._step(*trained, batch, keys[number])
        jax.block_until_ready(trained)
        return time.perf_counter() - start

    @functools.cached_property
    def _step(self):
        task, tx = self.task, self.tx

        def step(params, state, opt_state, batch, key):
            grad = jax.value_and_grad(task.loss, has_aux=True)
            (_, (state, _)), grads = grad(params, state, batch, key)
            updates, opt_state = tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), state, opt_state

        return jax.jit(step, donate_argnums=(0, 1, 2))

    def by_fit(self, steps: int | None = None) -> float:
        """Seconds of `fit`, from its call to its result."""
        # a terminal, so that the bar is drawn
        console = Console(file=io.StringIO(), force_terminal=True, width=80)
        config = FitConfig(steps=steps or self.steps, batch_size=BATCH)
        with (
            tempfile.TemporaryDirectory() as folder,
            MetricsLog(Path(folder) / "metrics.jsonl") as metrics,
            ProgressBar(console) as bar,
        ):
            bar.start("fit", headline=self.task.headline)
            bar.stage("", config.steps)
            start = time.perf_counter()
            result = fit(
                self.task,
                self.tx,
                self.records,
                config,
                metrics=metrics,
                report=bar.update,
            )
            jax.block_until_ready(result.params)
            return time.perf_counter() - start


def fit_overhead(settings: Settings) -> list[Row]:
    problem = Problem(settings)
    problem.by_fit(25)
    problem.by_hand()
    pairs = [
        (problem.by_hand(), problem.by_fit()) for _ in range(settings.repeats or 5)
    ]
    bare, whole = (
        1e3 * statistics.median(side) / problem.steps
        for side in zip(*pairs, strict=True)
    )
    extra = statistics.median(ours / theirs - 1 for theirs, ours in pairs)
    waited = _input_wait(problem)
    return [
        Row(
            value=extra,
            unit="fraction",
            versus=f"{short(whole)} / {short(bare)} ms a step, by hand",
        ),
        Row(
            value=waited,
            unit="fraction",
            versus="of the time of fit, waiting for a batch",
            part="input wait",
        ),
    ]


def _input_wait(problem: Problem) -> float:
    waited = 0.0

    class Timed(loop.Batches):
        def __next__(self):
            nonlocal waited
            start = time.perf_counter()
            try:
                return super().__next__()
            finally:
                waited += time.perf_counter() - start

    original, loop.Batches = loop.Batches, Timed
    try:
        whole = problem.by_fit()
        return waited / whole
    finally:
        loop.Batches = original


def tpu_train_step(settings: Settings) -> list[Row] | Row:
    """Memory of a chip, by the TPU compiler, for the train steps of both recipes."""
    from tests.tpu_compile import INSTALLED, call
    from tests.training.test_tpu import recipe_steps

    if not INSTALLED:
        return absent("MiB", 'needs the TPU compiler: pip install -e ".[tpu]"')
    topology = "v5e:2x4" if settings.quick else "v5e:16x16"
    steps = call(recipe_steps, topology, timeout=900)
    return [
        Row(
            value=step["argument_mib"] + step["temp_mib"],
            unit="MiB a chip",
            versus=f"{short(step['state_mib'])} of it state, {short(step['temp_mib'])} "
            f"temporary; {topology}; {', '.join(step['collectives'])}",
            part=name,
        )
        for name, step in steps.items()
    ]


FIGURES = {fit_overhead: 0.20, tpu_train_step: None}

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    run_figures("training", __doc__, FIGURES)
