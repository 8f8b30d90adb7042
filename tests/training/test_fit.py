"""The training loop, on a task small enough to check by hand."""

import dataclasses
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.tasks import RECORDS, least_squares
from zlpr_jax import optim
from zlpr_jax._errors import InputError
from zlpr_jax.training import (
    CheckpointConfig,
    FitConfig,
    MetricsLog,
    _fit,
    evaluate,
    fit,
    predict,
)


def test_finds_the_slope_and_counts_steps():
    config = FitConfig(steps=200, batch_size=8)
    result = fit(least_squares(), optax.sgd(0.3), RECORDS, config)
    assert float(result.params["w"]) == pytest.approx(3, abs=1e-4)
    assert int(result.state["steps"]) == result.step == 200
    assert not result.interrupted


def test_same_seed_same_result_and_another_differs():
    def run(seed):
        config = FitConfig(steps=7, batch_size=8, seed=seed)
        tx = optax.sgd(0.1, momentum=0.9)
        return fit(least_squares(), tx, RECORDS, config).params

    chex.assert_trees_all_equal(run(0), run(0))
    assert float(run(0)["w"]) != float(run(1)["w"])


def test_every_record_once_an_epoch():
    seen = []
    task = least_squares()

    def batch(records, size):
        seen.extend(records)
        return task.batch(records, size)

    records = RECORDS[:24]
    config = FitConfig(steps=6, batch_size=8)
    fit(task._replace(batch=batch), optax.sgd(0.1), records, config)
    assert sorted(seen[:24]) == sorted(seen[24:]) == sorted(records)
    assert seen[:24] != seen[24:]


def test_predict_covers_the_last_short_batch_in_order():
    task = least_squares()
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
        least_squares(direction),
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
        least_squares("max"),
        optax.sgd(0.05),
        RECORDS,
        config,
        validation=RECORDS,
        report=reports.append,
    )
    assert reports[-1].step == 5 * (1 + 3)


def test_reports_means_since_the_last_report():
    reports = []
    config = FitConfig(steps=20, batch_size=37, report_every=5)
    fit(least_squares(), optax.sgd(0.0), RECORDS, config, report=reports.append)
    assert [r.step for r in reports] == [5, 10, 15, 20]
    # nothing moves, so every report is the same mean squared error
    assert len({round(r.metrics["loss"], 5) for r in reports}) == 1
    assert all(r.examples_per_second > r.steps_per_second > 0 for r in reports)


def test_one_compilation_for_all_seeds():
    task = least_squares()
    counted = task._replace(loss=chex.assert_max_traces(task.loss, n=1))
    tx = optax.sgd(0.1, momentum=0.9)
    for seed in range(3):
        fit(counted, tx, RECORDS, FitConfig(steps=3, batch_size=8, seed=seed))


def test_parameters_that_others_hold_stay_theirs():
    """A step writes over its arguments, but not over what came from outside."""
    start = {"w": jnp.float32(1)}, {"steps": jnp.int32(0)}
    task = least_squares()._replace(init=lambda key: start)

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
        least_squares(),
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
            least_squares(),
            optax.sgd(0.3),
            RECORDS,
            FitConfig(steps=100, batch_size=8),
            report=interrupt,
        )


def test_initial_parameters():
    start = {"w": np.float32(5)}, {"steps": np.int32(7)}
    config = FitConfig(steps=1, batch_size=8)
    result = fit(least_squares(), optax.sgd(0.0), RECORDS, config, initial=start)
    assert float(result.params["w"]) == 5
    assert int(result.state["steps"]) == 8


def test_the_average_is_what_is_evaluated_and_returned():
    task = least_squares()
    config = FitConfig(steps=30, batch_size=8, ema=0.99, eval_every=10)
    reports = []
    plain = fit(task, optax.sgd(0.05), RECORDS, FitConfig(steps=30, batch_size=8))
    result = fit(
        task, optax.sgd(0.05), RECORDS, config,
        validation=RECORDS, report=reports.append,
    )  # fmt: skip
    assert float(result.params["w"]) != float(plain.params["w"])
    scores, _ = evaluate(task, result.params, result.state, RECORDS, 8)
    assert scores["error"] == pytest.approx(reports[-1].scores["error"])


def poisoned(bad):
    """A task in which some records turn the loss into NaN, and records with ids."""
    task = least_squares()

    class Pair(tuple):
        id = property(lambda self: f"x={self[0]:.2f}")

    records = [Pair((x, np.nan if number in bad else y)) for number, (x, y) in
               enumerate(RECORDS)]  # fmt: skip
    return task, records


def test_a_bad_batch_is_skipped_and_reported(tmp_path):
    task, records = poisoned({20})
    reports = []
    config = FitConfig(steps=4, batch_size=10, report_every=2)
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        result = fit(
            task, optax.sgd(0.1), records, config, metrics=log, report=reports.append
        )
        rows = log.rows()
    messages = [r.message for r in reports if r.message]
    # the first epoch is 37 records, so that the bad one comes once in three batches
    assert len(messages) == 1
    assert "the loss and the gradient of w are not finite" in messages[0]
    (skipped,) = [row for row in rows if "skipped" in row]
    assert f"step {skipped['step']} skipped" in messages[0]
    assert records[20].id in skipped["skipped"]["records"]
    assert len(skipped["skipped"]["records"]) == 10
    assert skipped["skipped"]["parameters"] == ["w"]
    assert np.isfinite(result.params["w"])
    # a skipped step is in no average
    assert all(np.isfinite(r.metrics["loss"]) for r in reports if r.metrics)
    assert int(result.state["steps"]) == 3


@pytest.mark.parametrize("limit", [3, 10])
def test_too_many_in_a_row_stop_with_the_reason(tmp_path, limit):
    task, records = poisoned(set(range(37)))
    config = FitConfig(steps=50, batch_size=8, skip_limit=limit)
    saves = CheckpointConfig(folder=tmp_path)
    reports = []
    with pytest.raises(InputError, match=f"{limit} steps in a row") as error:
        fit(
            task, optim.adax(0.1), records, config,
            checkpoints=saves, report=reports.append,
        )  # fmt: skip
    message = str(error.value)
    assert f"step {limit} skipped" in message
    assert "gradient of w" in message
    assert "x=" in message
    assert "lower the learning rate" in message.lower()
    # the last finite state was saved: the initialisation
    begun = fit(task, optim.adax(0.1), RECORDS, FitConfig(steps=1, batch_size=8))
    assert any(path.name.isdigit() for path in tmp_path.iterdir())
    del begun


def test_divergence_is_an_error():
    task = least_squares(diverge=True)
    with pytest.raises(InputError, match="Lower the learning rate"):
        fit(task, optax.sgd(0.3), RECORDS, FitConfig(steps=50))


# one task and one optimizer: one compilation
TASK, TX = least_squares(), optim.adax(0.05)
SETTINGS = FitConfig(
    steps=60, batch_size=8, eval_every=20, report_every=7, ema=0.9, patience=None
)


def run(folder, stop_at=None, every=15, **options):
    """Fit with everything on; interrupt it after the report of `stop_at`."""

    def report(progress):
        if stop_at is not None and progress.step == stop_at and not progress.message:
            signal.raise_signal(signal.SIGTERM if stop_at % 2 else signal.SIGINT)

    saves = CheckpointConfig(folder=folder / "checkpoints", every=every)
    with MetricsLog(folder / "metrics.jsonl") as log:
        return fit(
            options.pop("task", TASK),
            options.pop("tx", TX),
            options.pop("records", RECORDS),
            options.pop("config", SETTINGS),
            validation=options.pop("validation", RECORDS[:5]),
            checkpoints=saves,
            metrics=log,
            report=options.pop("report", report),
        )


def test_interrupted_and_resumed_is_unbroken(tmp_path):
    whole = run(tmp_path / "whole")
    pieces = tmp_path / "pieces"
    for stop_at in (7, 20, 35):
        assert run(pieces, stop_at).interrupted
    result = run(pieces)
    assert not result.interrupted
    assert result.step == whole.step
    chex.assert_trees_all_equal(result.params, whole.params)
    chex.assert_trees_all_equal(result.state, whole.state)
    written = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert (pieces / "metrics.jsonl").read_bytes() == written
    assert len(written.splitlines()) > 8


def test_a_finished_fit_is_not_trained_again(tmp_path):
    whole = run(tmp_path)
    written = (tmp_path / "metrics.jsonl").read_bytes()

    def loss(*_):
        raise AssertionError("trained again")

    again = run(tmp_path, task=least_squares()._replace(loss=loss))
    chex.assert_trees_all_equal(again.params, whole.params)
    assert again.step == whole.step
    assert (tmp_path / "metrics.jsonl").read_bytes() == written


def test_a_resumed_fit_says_so_and_where(tmp_path):
    run(tmp_path, stop_at=35)
    reports = []
    run(tmp_path, report=reports.append)
    assert reports[0].message.startswith("resumed at step 3")
    assert "libraries" not in reports[0].message


def test_other_libraries_are_said(tmp_path, monkeypatch):
    run(tmp_path, stop_at=35)
    now = _fit._versions()
    monkeypatch.setattr(_fit, "_versions", lambda: now | {"jax": "9.9"})
    reports = []
    run(tmp_path, report=reports.append)
    assert f"jax was {now['jax']} and is 9.9" in reports[0].message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": dataclasses.replace(SETTINGS, seed=1)}, "seed was 0 and is 1"),
        ({"records": RECORDS[:30]}, "records was 37 and is 30"),
        ({"validation": None}, "validation records was 5 and is None"),
        ({"tx": optax.sgd(0.1)}, "opt_state"),
    ],
)
def test_another_configuration_is_refused(tmp_path, change, reason):
    run(tmp_path, stop_at=14)
    with pytest.raises(InputError, match=reason):
        run(tmp_path, **change)


def test_saving_does_not_disturb_the_numbers(tmp_path):
    """Steps write over arrays that a thread is still writing to disk."""
    often = run(tmp_path / "often", every=1)
    never = run(tmp_path / "never", every=1000)
    chex.assert_trees_all_equal(often.params, never.params)


def test_no_record_is_an_error():
    with pytest.raises(InputError, match="empty"):
        fit(least_squares(), optax.sgd(0.3), [], FitConfig())


@pytest.mark.parametrize(
    "name",
    ["steps", "batch_size", "eval_every", "report_every", "patience", "skip_limit"],
)
def test_bad_settings(name):
    with pytest.raises(InputError, match=f"{name} must be >= 1, got 0"):
        FitConfig(**{name: 0})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"accumulate": 3}, "accumulate must divide batch_size 128"),
        ({"clip_norm": 0.0}, "clip_norm must be > 0"),
        ({"ema": 1.0}, "ema must be in"),
    ],
)
def test_settings_that_do_not_fit(settings, reason):
    with pytest.raises(InputError, match=reason):
        FitConfig(**settings)


def test_buckets_need_lengths():
    with pytest.raises(InputError, match="the task has no lengths"):
        fit(least_squares(), optax.sgd(0.1), RECORDS, FitConfig(bucket=True))
