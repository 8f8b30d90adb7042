"""AdaFactor against the paper's equations and two other implementations."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zlpr_jax.optim import Factoring, adafactor, factored_adax, relative_step

GOLDEN = json.loads(
    Path(__file__).with_name("golden").joinpath("reference.json").read_text()
)
SHAPES = {"kernel": (12, 8), "bias": (8,)}


def parameters(dtype):
    return {
        name: jnp.asarray(
            0.5 * np.sin(1.0 + np.arange(math.prod(shape))), dtype
        ).reshape(shape)
        for name, shape in SHAPES.items()
    }


def gradients(step, dtype):
    size = 10.0 ** ((step * 7) % 5 - 2)

    def gradient(shape):
        index = np.arange(math.prod(shape))
        change = 1.0 + 0.9 * np.sin(0.7 * step + index)
        return (size * change * np.sin(1.3 * index + 0.2)).reshape(shape)

    return {name: jnp.asarray(gradient(shape), dtype) for name, shape in SHAPES.items()}


def trajectory(tx, steps, dtype=jnp.float32):
    params, path = parameters(dtype), []
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(1, steps + 1):
        updates, state = update(gradients(step, dtype), state, params)
        params = optax.apply_updates(params, updates)
        path.append(jax.tree.map(np.asarray, params))
    return path


def oracle(steps, clip=1.0):
    """The paper's algorithms 4 and 5 in float64, with sums for means."""
    params = jax.tree.map(lambda p: np.asarray(p, float), parameters(jnp.float32))
    state = {"R": np.zeros(12), "C": np.zeros(8), "V": np.zeros(8)}
    path = []
    for t in range(1, steps + 1):
        beta, rho = 1 - t**-0.8, min(1e-2, 1 / math.sqrt(t))
        grads = gradients(t, jnp.float32)
        square = {n: np.asarray(g, float) ** 2 + 1e-30 for n, g in grads.items()}
        state["R"] = beta * state["R"] + (1 - beta) * square["kernel"].sum(1)
        state["C"] = beta * state["C"] + (1 - beta) * square["kernel"].sum(0)
        state["V"] = beta * state["V"] + (1 - beta) * square["bias"]
        moment = {
            "kernel": np.outer(state["R"], state["C"]) / state["R"].sum(),
            "bias": state["V"],
        }
        for name, param in params.items():
            update = np.asarray(grads[name], float) / np.sqrt(moment[name])
            update /= max(1.0, np.sqrt(np.mean(update**2)) / clip)
            scale = max(1e-3, np.sqrt(np.mean(param**2)))
            params[name] = param - rho * scale * update
        path.append(dict(params))
    return path


def distance(path, reference, start):
    """Largest difference, relative to the total displacement."""
    return max(
        np.abs(p[name] - r[name]).max()
        / np.abs(reference[-1][name] - start[name]).max()
        for p, r in zip(path, reference, strict=True)
        for name in SHAPES
    )


def test_default_is_the_paper():
    start = parameters(jnp.float32)
    path = trajectory(adafactor(factoring=Factoring(min_dim=1)), 20)
    assert distance(path, oracle(20), start) <= 1e-5


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("torch", {}),
        ("hugging_face", {}),
        ("hugging_face_momentum", {"learning_rate": 0.01, "momentum": 0.9}),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-9)])
def test_stored_trajectories_of_others(name, settings, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        tx = adafactor(factoring=Factoring(min_dim=1), **settings)
        path = trajectory(tx, GOLDEN["steps"][-1], dtype)
        start = jax.tree.map(np.asarray, parameters(dtype))
        reference = [
            {n: np.reshape(GOLDEN[name][n][i], s) for n, s in SHAPES.items()}
            for i in range(len(GOLDEN["steps"]))
        ]
        path = [path[step - 1] for step in GOLDEN["steps"]]
        assert distance(path, reference, start) <= tolerance


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_optax_with_an_explicit_schedule(momentum):
    ours = adafactor(factoring=Factoring(min_dim=1), momentum=momentum)
    theirs = optax.adafactor(
        lambda count: jnp.minimum(1e-2, 1 / jnp.sqrt(count.astype(float) + 1.0)),
        min_dim_size_to_factor=1,
        momentum=momentum,
    )
    start = parameters(jnp.float32)
    reference = trajectory(theirs, 20)
    assert distance(trajectory(ours, 20), reference, start) <= 1e-5


@pytest.mark.parametrize("build", [adafactor, factored_adax])
def test_default_step_is_relative_to_the_parameters(build):
    rng = np.random.default_rng(0)
    tx = build()
    params = jnp.asarray(rng.normal(size=(130, 128)) * 0.05, jnp.float32)
    update = jax.jit(tx.update)
    for start in (0, 9_990, 1_000_000):
        state = optax.tree.set(tx.init(params), count=jnp.int32(start))
        for step in range(start + 1, start + 21):
            grads = jnp.asarray(rng.normal(size=params.shape), jnp.float32)
            updates, state = update(grads, state, params)
            ratio = jnp.sqrt(jnp.mean(updates**2) / jnp.mean(params**2))
            assert ratio <= min(1e-2, step**-0.5) * (1 + 1e-6)
            assert ratio >= 0.3 * min(1e-2, step**-0.5)


def test_relative_step_warms_up():
    schedule = relative_step(0.1, warmup=4)
    np.testing.assert_allclose(
        [schedule(c) for c in range(5)], [0.025, 0.05, 0.075, 0.1, 0.1], rtol=1e-6
    )


def test_parts_can_be_left_out():
    params = {"w": jnp.full((4,), 2.0)}
    tx = adafactor(0.1, factoring=None, clip=None, parameter_scale=False)
    grads = {"w": jnp.asarray([1.0, -3.0, 1e-5, 0.0])}
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.1, 0.1, -0.1, 0.0], rtol=1e-6)


def test_cap_bounds_the_step_of_a_late_row():
    capped_tx = factored_adax(1.0, parameter_scale=False, clip=None, factoring=None)
    dense = factored_adax(
        1.0, parameter_scale=False, clip=None, max_beta2=None, factoring=None
    )
    params, grads = jnp.zeros(1), jnp.ones(1)
    for build, expected in ((capped_tx, 31.63), (dense, 1.484e4)):
        state = optax.tree.set(build.init(params), count=jnp.int32(99_999))
        update, _ = build.update(grads, state, params)
        assert float(-update[0]) == pytest.approx(expected, rel=1e-3)
