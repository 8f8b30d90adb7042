"""One step against what its parts say in float64, or against optax."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.tasks import RECORDS, least_squares, logistic, logistic_batch
from zlpr_jax import optim
from zlpr_jax._task import Task
from zlpr_jax.training import FitConfig
from zlpr_jax.training._state import start_of
from zlpr_jax.training._step import StepOptions, train_step

PLAIN = StepOptions.of(FitConfig())


def begin(task, tx, **config):
    config = FitConfig(**{"batch_size": 8, **config})
    start = start_of(task, tx, config)
    return StepOptions.of(config), start.init(jax.random.key(config.seed), None)


def run(task, tx, batches, **config):
    options, train = begin(task, tx, **config)
    for batch in batches:
        train, told = train_step(task, tx, options, None, train, batch)
    return train, told


# shared, so that programs are compiled once
TASK, BATCH, RATE = logistic(), logistic_batch(), 0.1
TX, SGD = optim.adax(RATE), optax.sgd(RATE)


def test_a_step_is_what_its_parts_are():
    task, tx, batch = logistic(dropout=0.3), TX, BATCH
    _, start = begin(task, tx)
    params, state = start.params, start.state
    opt_state = tx.init(params)

    @jax.jit
    def by_hand(params, opt_state, step):
        key = jax.random.fold_in(jax.random.wrap_key_data(start.key), step)
        grads = jax.grad(lambda p: task.loss(p, state, batch, key)[0])(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for step in range(3):
        params, opt_state = by_hand(params, opt_state, step)
    train, told = run(task, tx, [batch] * 3)
    chex.assert_trees_all_close(train.params, params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(train.opt_state, opt_state, rtol=1e-5, atol=1e-6)
    assert int(train.step) == 3
    loss = task.loss(start.params, state, batch, jax.random.key(0))[0]
    assert told.metrics["loss"].shape == (2,)
    assert 0 < float(told.metrics["loss"][0]) / 8 < 3 * float(loss)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up(parts):
    whole, told = run(TASK, SGD, [BATCH])
    split, told_split = run(TASK, SGD, [BATCH], accumulate=parts)
    chex.assert_trees_all_close(split.params, whole.params, rtol=1e-5, atol=1e-6)
    for name in told.metrics:
        np.testing.assert_allclose(told.metrics[name], told_split.metrics[name], 1e-5)


def test_parts_pass_the_state_on():
    task = least_squares()
    batch = task.batch(RECORDS[:8], 8)
    train, _ = run(task, SGD, [batch] * 3, accumulate=4)
    assert int(train.state["steps"]) == 12
    assert int(train.step) == 3


def test_parts_take_less_memory():
    def loss(params, state, batch, key):
        wide = jnp.tanh(batch["x"] @ params["kernel"])
        value = (wide @ wide[0]).mean()
        return value, (state, {"loss": (value, jnp.float32(1))})

    task = TASK._replace(
        init=lambda key: ({"kernel": jax.random.normal(key, (6, 1024))}, {}), loss=loss
    )
    batch = jax.eval_shape(lambda: logistic_batch(2**12))

    def temp(**config):
        options, train = begin(task, SGD, batch_size=2**12, **config)
        lowered = train_step.lower(task, SGD, options, None, train, batch)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temp(accumulate=8) < temp() / 4


def test_clipping_is_that_of_optax():
    tx = optax.chain(optax.clip_by_global_norm(0.01), SGD)
    expected, _ = run(TASK, tx, [BATCH])
    train, _ = run(TASK, SGD, [BATCH], clip_norm=0.01)
    chex.assert_trees_all_close(train.params, expected.params, rtol=1e-6)
    _, start = begin(TASK, SGD)
    moved = jax.tree.map(jnp.subtract, start.params, train.params)
    assert float(optax.tree.norm(moved)) == pytest.approx(0.01 * RATE, rel=1e-3)


def test_moving_average():
    task = least_squares()
    batches = [task.batch(RECORDS[i : i + 8], 8) for i in range(25)]
    seen = []
    options, train = begin(task, SGD, ema=0.7)
    average = float(train.params["w"])
    for step, batch in enumerate(batches, start=1):
        train, _ = train_step(task, SGD, options, None, train, batch)
        decay = min(0.7, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * float(train.params["w"])
        seen.append((float(train.ema["w"]), average))
    np.testing.assert_allclose(*np.transpose(seen), rtol=1e-5)
    chex.assert_trees_all_equal(train.evaluated, train.ema)


def test_bfloat16_is_what_the_loss_sees_and_nothing_else():
    seen = []

    def loss(params, state, batch, key):
        seen.append({leaf.dtype.name for leaf in jax.tree.leaves(params)})
        return TASK.loss(params, state, batch, key)

    exact, _ = run(TASK, SGD, [BATCH])
    task = TASK._replace(loss=loss)
    train, told = run(task, SGD, [BATCH], compute_dtype="bfloat16")
    assert seen[0] == {"bfloat16"}
    chex.assert_trees_all_equal_dtypes(train, exact)
    assert told.metrics["loss"].dtype == jnp.float32
    chex.assert_trees_all_close(train.params, exact.params, atol=2e-3)
    assert float(train.params["bias"][0]) != float(exact.params["bias"][0])


def test_remat_keeps_only_products():
    """What is done between products is done again for the backward pass."""
    layers = 3

    def loss(params, state, batch, key):
        x = batch["x"]
        for _ in range(layers):
            x = jnp.exp(jnp.sin(x @ params["w"]))
        return x.mean(), (state, {"loss": (x.mean(), jnp.float32(1))})

    def init(key):
        return {"w": jax.random.normal(key, (4, 4)) / 4}, {}

    nothing = lambda *_: None
    task = Task(init, nothing, loss, nothing, nothing, nothing, ("loss", "min"))
    batch = {"x": np.ones((8, 4), np.float32)}
    tx = SGD
    plain, train = begin(task, tx)

    def counts(options):
        text = str(train_step.trace(task, tx, options, None, train, batch).jaxpr)
        found = re.findall(r"\b(sin|dot_general)\b", text)
        return [found.count(name) for name in ("sin", "dot_general")]

    products = 3 * layers - 1  # forward, and two backward but for the input
    assert counts(plain) == [layers, products]
    assert counts(plain._replace(remat=True)) == [2 * layers, products]
    expected, _ = run(task, tx, [batch])
    again, _ = run(task, tx, [batch], remat=True)
    chex.assert_trees_all_close(again.params, expected.params, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_batch_changes_nothing(bad):
    task, tx, batch = TASK, TX, BATCH
    options, train = begin(task, tx, ema=0.9)
    train, _ = train_step(task, tx, options, None, train, batch)
    before = jax.tree.map(np.array, train)
    poisoned = {**batch, "x": batch["x"].at[3].set(bad)}
    for times in range(1, 14):
        train, told = train_step(task, tx, options, None, train, poisoned)
        assert int(told.skipped) == int(train.skipped) == times
    assert not told.finite.all()
    after = jax.tree.map(np.array, train)
    chex.assert_trees_all_equal(
        after._replace(step=before.step, skipped=before.skipped), before
    )
    train, told = train_step(task, tx, options, None, train, batch)
    assert int(told.skipped) == 0
    assert told.finite.all()
    assert not np.array_equal(train.ema["bias"], before.ema["bias"])


def test_which_gradient_was_bad():
    def loss(params, state, batch, key):
        # the square root has no finite gradient at zero
        value = params["a"] ** 2 + jnp.sqrt(params["b"]) + params["c"]
        return value, (state, {"loss": (value, jnp.float32(1))})

    zero = jnp.float32(0)
    nothing = lambda *_: None
    task = Task(
        lambda key: ({"a": zero, "b": zero, "c": zero}, {}),
        nothing, loss, nothing, nothing, nothing, ("loss", "min"),
    )  # fmt: skip
    _, told = run(task, SGD, [{"x": np.zeros(8)}])
    assert told.finite.tolist() == [True, False, True, True]


def test_the_state_is_written_over():
    options, train = begin(TASK, TX, ema=0.9)
    compiled = train_step.lower(TASK, TX, options, None, train, BATCH).compile()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(train))
    assert compiled.memory_analysis().alias_size_in_bytes >= size


def test_one_program_for_all_seeds():
    options = {
        StepOptions.of(dataclasses.replace(FitConfig(), seed=seed, steps=seed + 1))
        for seed in range(3)
    }
    assert options == {PLAIN}
