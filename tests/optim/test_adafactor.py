"""AdaFactor and factored AdaX: step sizes, parts, caps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zlpr_jax.optim import Factoring, adafactor, factored_adax, relative_step


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


def test_stacked_layers_are_exactly_vmap_over_layers():
    # As many layers as rows: the default rule would average over the layers.
    shape = (160, 128, 9)
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.uniform(-3, 1, (160, 1, 1))
    params, *grads = (
        jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for _ in range(4)
    )
    stacked = Factoring(axes=lambda path, shape: ("batch", "row", "col"))
    together = adafactor(factoring=stacked, momentum=0.9)
    alone = adafactor(factoring=Factoring(min_dim=1), momentum=0.9)
    state, states = together.init(params), jax.vmap(alone.init)(params)
    assert optax.tree.get(state, "nu").row.shape == (160, 128)
    update, updates = jax.jit(together.update), jax.jit(jax.vmap(alone.update))
    for grad in grads:
        got, state = update(grad, state, params)
        expected, states = updates(grad, states, params)
        np.testing.assert_array_equal(got, expected)
