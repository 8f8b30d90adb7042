"""Twenty steps on one small problem, beside the paper's equations and other code."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zlpr_jax.optim import Factoring, adafactor, adax, adaxw

GOLDEN = json.loads(
    Path(__file__).with_name("golden").joinpath("reference.json").read_text()
)
SHAPES = {"kernel": (12, 8), "bias": (8,)}
ALWAYS = Factoring(min_dim=1)


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
    path = trajectory(adafactor(factoring=ALWAYS), 20)
    assert distance(path, oracle(20), start) <= 1e-5


@pytest.mark.parametrize(
    ("name", "build", "exact"),
    [
        ("torch", lambda: adafactor(factoring=ALWAYS), 1e-9),
        ("hugging_face", lambda: adafactor(factoring=ALWAYS), 1e-9),
        (
            "hugging_face_momentum",
            lambda: adafactor(0.01, factoring=ALWAYS, momentum=0.9),
            1e-9,
        ),
        # optax computes the decay in float32 whatever the parameters.
        ("optax", lambda: adafactor(factoring=ALWAYS), 1e-7),
        ("adax", lambda: adax(5e-3), 1e-9),
        ("adaxw", adaxw, 1e-9),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stored_trajectories_of_others(name, build, exact, dtype):
    with jax.enable_x64(dtype == "float64"):
        path = trajectory(build(), GOLDEN["steps"][-1], dtype)
        start = jax.tree.map(np.asarray, parameters(dtype))
    reference = [
        {n: np.reshape(GOLDEN[name][n][i], s) for n, s in SHAPES.items()}
        for i in range(len(GOLDEN["steps"]))
    ]
    path = [path[step - 1] for step in GOLDEN["steps"]]
    assert distance(path, reference, start) <= (1e-5 if dtype == "float32" else exact)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_optax_with_an_explicit_schedule(momentum):
    ours = adafactor(factoring=ALWAYS, momentum=momentum)
    theirs = optax.adafactor(
        lambda count: jnp.minimum(1e-2, 1 / jnp.sqrt(count.astype(float) + 1.0)),
        min_dim_size_to_factor=1,
        momentum=momentum,
    )
    start = parameters(jnp.float32)
    reference = trajectory(theirs, 20)
    assert distance(trajectory(ours, 20), reference, start) <= 1e-5
