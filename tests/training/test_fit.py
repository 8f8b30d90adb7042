"""The training loop, on a task small enough to check by hand."""

import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax.training import FitConfig, evaluate, fit, predict


def make_task(direction="min", diverge=False):
    """Least squares: records are (x, y) pairs, the prediction is a number."""

    def init(key):
        return {"w": jax.random.normal(key, ())}, {"steps": jnp.zeros((), jnp.int32)}

    def batch(records, size):
        rows = np.zeros((size, 2), np.float32)
        rows[: len(records)] = records
        return {"rows": rows, "where": np.arange(size) < len(records)}

    def loss(params, state, batch, key):
        error = (params["w"] * batch["rows"][:, 0] - batch["rows"][:, 1]) ** 2
        total = jnp.where(batch["where"], error, 0).sum()
        count = batch["where"].sum().astype(jnp.float32)
        value = total / count / (0 if diverge else 1)
        state = {"steps": state["steps"] + 1}
        return value, (state, {"loss": (value * count, count)})

    def score(predictions, records):
        errors = [(p - y) ** 2 for p, (_, y) in zip(predictions, records, strict=True)]
        return {"error": float(np.mean(errors)), "rows": len(errors)}

    return Task(
        init=init,
        batch=batch,
        loss=loss,
        predict=lambda params, state, batch: params["w"] * batch["rows"][:, 0],
        decode=lambda outputs, records: list(outputs[: len(records)]),
        score=score,
        headline=("error", direction),
    )


RECORDS = [(float(x), 3.0 * x) for x in np.linspace(-1, 1, 37)]


def test_finds_the_slope_and_counts_steps():
    config = FitConfig(steps=200, batch_size=8)
    result = fit(make_task(), optax.sgd(0.3), RECORDS, config)
    assert float(result.params["w"]) == pytest.approx(3, abs=1e-4)
    assert int(result.state["steps"]) == result.step == 200
    assert not result.interrupted


def test_same_seed_same_result_and_another_differs():
    def run(seed):
        config = FitConfig(steps=7, batch_size=8, seed=seed)
        return fit(make_task(), optax.sgd(0.1, momentum=0.9), RECORDS, config).params

    chex.assert_trees_all_equal(run(0), run(0))
    assert float(run(0)["w"]) != float(run(1)["w"])


def test_every_record_once_an_epoch():
    seen = []
    task = make_task()

    def batch(records, size):
        seen.extend(records)
        return task.batch(records, size)

    records = RECORDS[:24]
    config = FitConfig(steps=6, batch_size=8)
    fit(task._replace(batch=batch), optax.sgd(0.1), records, config)
    assert sorted(seen[:24]) == sorted(seen[24:]) == sorted(records)
    assert seen[:24] != seen[24:]


def test_predict_covers_the_last_short_batch_in_order():
    task = make_task()
    params, state = {"w": jnp.float32(2)}, {"steps": jnp.int32(0)}
    predictions = predict(task, params, state, RECORDS, 8)
    np.testing.assert_allclose(predictions, [2 * x for x, _ in RECORDS], rtol=1e-6)
    scores, _ = evaluate(task, params, state, RECORDS, 8)
    assert scores["rows"] == len(RECORDS)


@pytest.mark.parametrize("direction", ["min", "max"])
def test_keeps_the_best_evaluation(direction):
    """With the headline turned round, the first evaluation is the best one."""
    reports = []
    result = fit(
        make_task(direction),
        optax.sgd(0.05),
        RECORDS,
        FitConfig(steps=50, batch_size=37, eval_every=10, patience=None),
        validation=RECORDS,
        report=reports.append,
    )
    evaluations = [r for r in reports if r.scores is not None]
    assert [r.step for r in evaluations] == [10, 20, 30, 40, 50]
    assert result.step == (50 if direction == "min" else 10)
    assert int(result.state["steps"]) == result.step


def test_patience_stops_early():
    config = FitConfig(steps=1000, batch_size=8, eval_every=5, patience=3)
    reports = []
    fit(
        make_task("max"),
        optax.sgd(0.05),
        RECORDS,
        config,
        validation=RECORDS,
        report=reports.append,
    )
    assert reports[-1].step == 5 * (1 + 3)


def test_reports_means_since_the_last_report():
    reports = []
    config = FitConfig(steps=20, batch_size=37)
    fit(
        make_task(),
        optax.sgd(0.0),
        RECORDS,
        config,
        report=reports.append,
        report_every=5,
    )
    assert [r.step for r in reports] == [5, 10, 15, 20]
    # nothing moves, so every report is the same mean squared error
    assert len({round(r.metrics["loss"], 5) for r in reports}) == 1
    assert all(r.examples_per_second > 0 for r in reports)


def test_one_compilation_for_all_seeds():
    task = make_task()
    counted = task._replace(loss=chex.assert_max_traces(task.loss, n=1))
    tx = optax.sgd(0.1, momentum=0.9)
    for seed in range(3):
        fit(counted, tx, RECORDS, FitConfig(steps=3, batch_size=8, seed=seed))


def test_parameters_that_others_hold_stay_theirs():
    """A step writes over its arguments, but not over what came from outside."""
    start = {"w": jnp.float32(1)}, {"steps": jnp.int32(0)}
    task = make_task()._replace(init=lambda key: start)

    def init(params):
        return params  # a state that begins with the parameters, as slow weights do

    def update(updates, state, params=None):
        return jax.tree.map(lambda u: -0.1 * u, updates), params

    tx = optax.GradientTransformation(init, update)
    results = [
        fit(task, tx, RECORDS, FitConfig(steps=3, batch_size=8)) for _ in range(2)
    ]
    assert float(start[0]["w"]) == 1
    chex.assert_trees_all_equal(results[0].params, results[1].params)


def test_interrupt_ends_with_what_was_reached():
    def interrupt(progress):
        if progress.step == 20:
            signal.raise_signal(signal.SIGINT)

    config = FitConfig(steps=1000, batch_size=8, eval_every=10)
    result = fit(
        make_task(),
        optax.sgd(0.3),
        RECORDS,
        config,
        validation=RECORDS,
        report=interrupt,
    )
    assert result.interrupted
    assert 10 <= result.step <= 21
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_interrupt_is_an_exception():
    def interrupt(progress):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(
            make_task(),
            optax.sgd(0.3),
            RECORDS,
            FitConfig(steps=100, batch_size=8),
            report=interrupt,
        )


def test_divergence_is_an_error():
    with pytest.raises(InputError, match="lower the learning rate"):
        fit(make_task(diverge=True), optax.sgd(0.3), RECORDS, FitConfig(steps=50))


def test_no_record_is_an_error():
    with pytest.raises(InputError, match="empty"):
        fit(make_task(), optax.sgd(0.3), [], FitConfig())


@pytest.mark.parametrize("name", ["steps", "batch_size", "eval_every", "patience"])
def test_bad_settings(name):
    with pytest.raises(InputError, match=f"{name} must be >= 1, got 0"):
        FitConfig(**{name: 0})
