"""Averages in bfloat16, and the rounding at random that keeps them moving."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zlpr_jax.optim import adafactor, adaxw, average_updates

STEPS = 4000


def follow(tx, target, start):
    """Return the averages after each step towards `target`."""
    state = tx.init(target)._replace(mu=jnp.full_like(target, start, jnp.bfloat16))

    def step(state, _):
        state = tx.update(target, state)[1]
        return state, state.mu.astype(jnp.float32)

    return np.asarray(jax.lax.scan(step, state, length=STEPS)[1])


def test_nearest_stalls_and_random_follows_the_exact_average():
    target = jnp.full((64,), 1.9)
    exact = 1.9 - 0.9 * 0.999 ** np.arange(1, STEPS + 1)
    nearest = follow(average_updates(0.999, jnp.bfloat16), target, 1.0)
    np.testing.assert_array_equal(nearest, 1.0)
    random = follow(
        average_updates(0.999, jnp.bfloat16, stochastic_rounding=True), target, 1.0
    )
    # Rounding to steps of 1/128 forgets as fast as the average does: its noise is
    # 1/256 in the root mean square of about 1 / sqrt(2 * 0.001) = 22 such roundings.
    assert np.abs(random - exact[:, None]).max() < 5 * 22 / 256
    np.testing.assert_allclose(random[1000:].mean(), exact[1000:].mean(), atol=0.01)


def test_rounding_keeps_the_mean_of_any_number():
    rng = np.random.default_rng(0)
    numbers = jnp.asarray(rng.normal(size=50) * 10.0 ** rng.integers(-6, 6, 50))
    numbers = numbers.astype(jnp.float32)
    tx = average_updates(0.0, jnp.bfloat16, stochastic_rounding=True)
    draws = 20_000
    wide = jnp.broadcast_to(numbers, (draws, 50))
    mu = tx.update(wide, tx.init(wide))[1].mu
    below, above = mu.astype(jnp.float32).min(0), mu.astype(jnp.float32).max(0)
    assert (np.sign(below) == np.sign(above)).all()
    assert ((below <= numbers) & (numbers <= above)).all()
    gap = np.abs(np.asarray(above - below))
    np.testing.assert_array_less(gap, np.abs(numbers) / 127)
    error = np.asarray(mu, np.float64).mean(0) - np.asarray(numbers, np.float64)
    assert (np.abs(error) <= 5 * 0.5 * gap / np.sqrt(draws)).all()


def test_rounding_is_independent_between_entries_steps_and_arrays():
    tx = average_updates(0.0, jnp.bfloat16, stochastic_rounding=True)
    updates = {name: jnp.full((200, 50), 1 + 1 / 256) for name in "ab"}
    state, ups = tx.init(updates), []
    for _ in range(3):
        state = tx.update(updates, state)[1]
        ups += [np.asarray(state.mu[name], np.float32) > 1 for name in "ab"]
    assert all(abs(up.mean() - 0.5) < 0.02 for up in ups)
    assert all(np.ptp(up.mean(axis)) < 0.6 for up in ups for axis in (0, 1))
    pairs = [(a, b) for i, a in enumerate(ups) for b in ups[:i]]
    pairs += [(up[:, :-1], up[:, 1:]) for up in ups]
    pairs += [(up[:-1], up[1:]) for up in ups]
    for a, b in pairs:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_same_bits_in_every_run_and_special_numbers_kept():
    tx = average_updates(0.0, jnp.bfloat16, stochastic_rounding=True)
    largest = float(jnp.finfo(jnp.bfloat16).max)
    special = jnp.asarray([0.0, -0.0, 1.0, jnp.inf, -jnp.inf, jnp.nan, largest])
    first = tx.update(special, tx.init(special))[1].mu
    again = jax.jit(tx.update)(special, tx.init(special))[1].mu
    np.testing.assert_array_equal(np.asarray(first, np.float32), special)
    np.testing.assert_array_equal(first.view(jnp.uint16), again.view(jnp.uint16))


@pytest.mark.parametrize(
    ("rounded", "exact"),
    [
        (
            adafactor(
                1e-2,
                momentum=0.9,
                momentum_dtype=jnp.bfloat16,
                stochastic_rounding=True,
            ),
            adafactor(1e-2, momentum=0.9),
        ),
        (
            adaxw(1e-2, mu_dtype=jnp.bfloat16, stochastic_rounding=True),
            adaxw(1e-2),
        ),
    ],
    ids=["adafactor", "adaxw"],
)
def test_optimizers_with_a_rounded_momentum_stay_close(rounded, exact):
    params = jnp.asarray(np.random.default_rng(1).normal(size=(16, 8)), jnp.float32)

    def descend(tx):
        def step(carry, _):
            x, state = carry
            updates, state = tx.update(x - 1.0, state, x)
            return (x + updates, state), None

        carry = jax.lax.scan(step, (params, tx.init(params)), length=300)[0]
        assert jax.tree.all(
            jax.tree.map(lambda a, b: a.dtype == b.dtype, carry[1], tx.init(params))
        )
        return np.asarray(carry[0])

    moved = np.abs(descend(exact) - params).max()
    assert np.abs(descend(rounded) - descend(exact)).max() < 0.02 * moved
