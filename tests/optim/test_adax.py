"""AdaX against its published recurrence, up to its overflow and beyond."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zlpr_jax.optim import adam_decay, adax, adax_decay, adaxw, scale_by_second_moment


def literal_adax(x, grad, steps, lr, b1=0.9, b2=1e-4, eps=1e-12, l2=0.0):
    """The published recurrence in float64, with the normalised denominator."""
    path = []
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, steps + 1):
        g = grad(x, t) + l2 * x
        m = b1 * m + (1 - b1) * g
        v = (1 + b2) * v + b2 * g**2
        x = x - lr * m / (np.sqrt(v / ((1 + b2) ** t - 1)) + eps)
        path.append(x)
    return np.stack(path)


@pytest.mark.parametrize("l2", [0.0, 5e-4])
def test_float32_follows_the_recurrence_in_float64(l2):
    curvature = np.linspace(0.1, 2.0, 16)
    x0 = np.linspace(-1.0, 1.0, 16).astype(np.float32)
    phase = np.arange(16)
    steps = 20_000

    def noise(xp, t):
        return 0.5 * xp.sin(0.37 * t + phase)

    shaking = np.stack([noise(np, t) for t in range(1, steps + 1)])
    tx = adax(1.5e-3, l2=l2)

    def step(carry, shake):
        x, state = carry
        updates, state = tx.update(jnp.float32(curvature) * x + shake, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    x = jnp.asarray(x0)
    _, path = jax.jit(lambda c, s: jax.lax.scan(step, c, s))(
        (x, tx.init(x)), jnp.asarray(shaking, jnp.float32)
    )
    exact = literal_adax(
        x0.astype(float),
        lambda x, t: curvature * x + shaking[t - 1],
        steps,
        1.5e-3,
        l2=l2,
    )
    assert np.abs(np.asarray(path) - exact).max() <= 2e-6


def normalised_step(count):
    tx = adax(0.25, b1=0.0, l2=0.0, eps=0.0)
    params = jnp.zeros(3)
    state = optax.tree.set(tx.init(params), count=jnp.int32(count))
    if count:
        # What a gradient of 1 at every step so far has left behind.
        state = optax.tree.set(state, nu=jnp.ones(3))
    updates, state = jax.jit(tx.update)(jnp.ones(3), state, params)
    return np.concatenate([updates, optax.tree.get(state, "nu")])


def literal_step(count):
    """The same step as published, in float32 throughout."""
    grow = np.float32(1 + 1e-4)
    with np.errstate(over="ignore", invalid="ignore"):
        v = np.power(grow, np.float32(count)) - np.float32(1)
        v = grow * v + np.float32(1e-4)
        v_hat = v / (np.power(grow, np.float32(count + 1)) - np.float32(1))
        return np.full(6, [-0.25 / np.sqrt(v_hat)] * 3 + [v_hat] * 3, np.float32)


def assert_unit_step(values):
    np.testing.assert_array_equal(values, np.float32([-0.25] * 3 + [1.0] * 3))


@pytest.mark.parametrize("count", [0, 887_000, 887_400, 2_000_000, 2**31 - 2])
def test_never_overflows(count):
    assert_unit_step(normalised_step(count))


@pytest.mark.parametrize("count", [887_400, 2_000_000, 2**31 - 2])
def test_published_form_overflows(count):
    with pytest.raises(AssertionError):
        assert_unit_step(literal_step(count))


@pytest.mark.parametrize(("wide", "tolerance"), [(False, 1e-6), (True, 1e-11)])
def test_impulse_gain(wide, tolerance):
    with jax.enable_x64(wide):
        tx = scale_by_second_moment(adax_decay(), b1=0.9)
        grads = jnp.zeros(2000).at[0].set(1.0)
        state = tx.init(grads[0])

        def step(state, grad):
            update, state = tx.update(grad, state)
            return state, update

        total = float(np.sum(np.asarray(jax.lax.scan(step, state, grads)[1])))
    assert total == pytest.approx(2.855543514903, rel=tolerance)


def descend_into_the_trap(tx, steps=30_000, decay=0.99, size=2.0, start=100.0):
    """Return x_t for f_t(x) = C lambda^(t-1) x where x >= 0, and constant below."""

    def step(carry, t):
        x, state = carry
        grad = jnp.where(x >= 0, size * decay ** (t - 1), 0.0)
        updates, state = tx.update(grad, state, x)
        x = jnp.clip(x + updates, -2.0, size / (1 - decay))
        return (x, state), x

    x = jnp.asarray(start)
    times = jnp.arange(1, steps + 1, dtype=jnp.float64)
    return np.asarray(
        jax.jit(lambda c: jax.lax.scan(step, c, times)[1])((x, tx.init(x)))
    )


@pytest.mark.parametrize(("b2", "trapped_at"), [(0.5, 1011), (0.8, 1043)])
def test_adam_falls_into_the_trap(b2, trapped_at):
    with jax.enable_x64(True):
        tx = optax.chain(scale_by_second_moment(adam_decay(b2)), optax.scale(-0.1))
        path = descend_into_the_trap(tx)
    assert np.flatnonzero(path < 0)[0] + 1 == trapped_at


@pytest.mark.parametrize(("b1", "end"), [(0.0, 85.073), (0.9, 84.626)])
def test_adax_avoids_the_trap(b1, end):
    with jax.enable_x64(True):
        path = descend_into_the_trap(adax(0.1, b1=b1, l2=0.0, eps=0.0))
    assert path[-1] == pytest.approx(end, abs=5e-4)


def test_penalty_enters_the_gradient():
    params = jnp.asarray([1.0, -2.0, 3.0])
    grads = jnp.asarray([0.1, 0.2, -0.3])
    with_penalty, plain = adax(l2=0.5), adax(l2=0.0)
    got = with_penalty.update(grads, with_penalty.init(params), params)[0]
    expected = plain.update(grads + 0.5 * params, plain.init(params), params)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_decoupled_decay_leaves_the_moments_alone():
    params = jnp.asarray([1.0, -2.0, 3.0])
    grads = jnp.asarray([0.1, 0.2, -0.3])
    with_decay, plain = adaxw(0.1, weight_decay=0.5), adaxw(0.1, weight_decay=0.0)
    got, state = with_decay.update(grads, with_decay.init(params), params)
    expected, other = plain.update(grads, plain.init(params), params)
    np.testing.assert_allclose(got, expected - 0.05 * params, rtol=1e-6)
    np.testing.assert_array_equal(
        optax.tree.get(state, "nu"), optax.tree.get(other, "nu")
    )


def test_without_penalty_the_parameters_need_not_be_passed():
    tx = adax(l2=0.0)
    updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    assert updates.shape == (2,)
