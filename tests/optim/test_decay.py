"""The weights w_t of each decay, against exact arithmetic."""

from decimal import Decimal, getcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zlpr_jax.optim import adam_decay, adax_decay, capped, power_decay

SMALLEST_NORMAL = Decimal("1.1754944e-38")
STEPS = np.unique(
    np.concatenate([np.arange(1, 300), np.logspace(2, 5, 200).astype(int)])
)


def weights(decay, steps=STEPS):
    return np.asarray(jax.jit(jax.vmap(decay.weight))(jnp.asarray(steps, jnp.int32)))


def exact(kappa, step):
    getcontext().prec = 60
    kappa = Decimal(kappa)
    return kappa / ((1 + kappa) ** int(step) - 1)


@pytest.mark.parametrize("b2", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8])
def test_adax_weight_is_exact_and_at_most_one_over_t(b2):
    got = weights(adax_decay(b2))
    assert abs(got[0] - 1) <= 1e-7
    for step, weight in zip(STEPS, got, strict=True):
        truth = exact(b2, step)
        if truth > SMALLEST_NORMAL:
            assert abs(Decimal(float(weight)) / truth - 1) <= Decimal("1e-6"), step
        assert 0 <= weight <= (1 + 1e-6) / step


@pytest.mark.parametrize("b2", [0.5, 0.9, 0.99, 0.999, 0.9999])
def test_adam_weight_is_the_bias_corrected_average(b2):
    got = weights(adam_decay(b2))
    for step, weight in zip(STEPS, got, strict=True):
        truth = exact(Decimal(b2) - 1, step)
        assert abs(Decimal(float(weight)) / truth - 1) <= Decimal("1e-6"), step


def test_vanishing_growth_is_the_mean_of_all_squares():
    steps = STEPS[STEPS <= 10_000]
    np.testing.assert_allclose(weights(adax_decay(1e-12), steps) * steps, 1, rtol=1e-6)
    np.testing.assert_allclose(weights(power_decay(1.0), steps) * steps, 1, rtol=1e-6)


def test_power_decay_and_its_offset():
    np.testing.assert_allclose(
        weights(power_decay()), STEPS.astype(float) ** -0.8, rtol=2e-6
    )
    shifted = weights(power_decay(0.8, offset=100), np.arange(1, 150))
    np.testing.assert_array_equal(shifted[:101], 1)
    np.testing.assert_allclose(shifted[101:], np.arange(2, 50) ** -0.8, rtol=1e-6)


def test_no_memory():
    np.testing.assert_array_equal(weights(adam_decay(0.0), np.arange(1, 9)), 1)


@pytest.mark.parametrize("step", [887_000, 887_400, 2_000_000, 2**31 - 1])
def test_long_memory_never_overflows(step):
    assert 0 <= float(adax_decay().weight(step)) < 1e-37
    assert 0 <= float(adax_decay(0.5).weight(step)) < 1e-37
    assert float(capped(adax_decay()).weight(step)) == pytest.approx(1e-3)


def test_cap_bounds_the_memory_from_below_only():
    decay = adax_decay()
    got = weights(capped(decay, 0.99))
    np.testing.assert_array_equal(got, np.maximum(weights(decay), np.float32(0.01)))


@pytest.mark.parametrize("build", [adam_decay, adax_decay, power_decay])
def test_setting_may_be_traced(build):
    value = {"adam_decay": 0.9, "adax_decay": 1e-3, "power_decay": 0.7}[build.__name__]
    traced = jax.jit(lambda v: build(v).weight(1000))(jnp.float32(value))
    np.testing.assert_allclose(traced, build(value).weight(1000), rtol=2e-6)


def test_weight_is_float64_under_x64():
    with jax.enable_x64(True):
        weight = adax_decay().weight(1000)
        assert weight.dtype == jnp.float64
        np.testing.assert_allclose(float(weight), float(exact(1e-4, 1000)), rtol=1e-12)


@pytest.mark.parametrize(
    "decay", [adam_decay(), adax_decay(), power_decay(), capped(adax_decay())]
)
def test_decays_are_frozen_and_not_callable(decay):
    assert not callable(decay)
    assert hash(decay) == hash(decay)
    with pytest.raises(AttributeError):
        decay.b2 = 0.5
