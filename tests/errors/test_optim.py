"""The optimizers' own messages; run without the shape hook."""

import jax.numpy as jnp
import pytest

from zlpr_jax.optim import (
    Factoring,
    adafactor,
    adam_decay,
    adax,
    adax_decay,
    adaxw,
    average_updates,
    capped,
    clip_by_block_rms,
    factored_adax,
    power_decay,
    relative_step,
    scale_by_parameter_rms,
    scale_by_second_moment,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("build", "settings", "named"),
    [
        (adam_decay, {"b2": 1.0}, "b2"),
        (adam_decay, {"b2": -0.1}, "b2"),
        (adax_decay, {"b2": 0.0}, "b2"),
        (adax_decay, {"b2": jnp.float32(-1.0)}, "b2"),
        (power_decay, {"exponent": 0.0}, "exponent"),
        (power_decay, {"exponent": 1.1}, "exponent"),
        (power_decay, {"exponent": NAN}, "exponent"),
        (power_decay, {"offset": -1}, "offset"),
        (
            lambda max_beta2: capped(adax_decay(), max_beta2),
            {"max_beta2": 1.1},
            "max_b",
        ),
        (clip_by_block_rms, {"threshold": 0.0}, "threshold"),
        (scale_by_parameter_rms, {"min_scale": -1.0}, "min_scale"),
        (scale_by_parameter_rms, {"max_scale": 0.0}, "max_scale"),
        (relative_step, {"cap": 0.0}, "cap"),
        (relative_step, {"warmup": 0}, "warmup"),
        (average_updates, {"decay": 1.0}, "momentum"),
        (Factoring, {"min_dim": 0}, "min_dim"),
        (adafactor, {"learning_rate": -1.0}, "learning_rate"),
        (adafactor, {"clip": 0.0}, "clip"),
        (adafactor, {"eps": -1e-30}, "eps"),
        (adafactor, {"momentum": 1.0}, "momentum"),
        (adafactor, {"weight_decay": -1.0}, "weight_decay"),
        (adax, {"learning_rate": -1.0}, "learning_rate"),
        (adax, {"b1": 1.0}, "b1"),
        (adax, {"b2": 0.0}, "b2"),
        (adax, {"eps": -1.0}, "eps"),
        (adax, {"l2": -1.0}, "l2"),
        (adaxw, {"b2": -1e-4}, "b2"),
        (adaxw, {"weight_decay": -1.0}, "weight_decay"),
        (factored_adax, {"b2": 0.0}, "b2"),
        (factored_adax, {"max_beta2": 2.0}, "max_beta2"),
    ],
)
def test_bad_settings_are_named_at_construction(build, settings, named):
    with pytest.raises(ValueError, match=f"^{named}.* must lie in .*, got "):
        build(**settings)


def test_settings_that_are_not_numbers():
    with pytest.raises(TypeError, match=r"^b2 must be a number in .*'small'"):
        adax(b2="small")
    with pytest.raises(TypeError, match="decay must have a method weight"):
        scale_by_second_moment(0.999)
    with pytest.raises(TypeError, match="decay must have a method weight"):
        capped(lambda step: 0.5)


@pytest.mark.parametrize("build", [adafactor, adax, adaxw, factored_adax])
def test_missing_parameters(build):
    tx, params = build(), jnp.ones(3)
    with pytest.raises(ValueError, match="requires the current value of parameters"):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize("build", [adafactor, adax, adaxw, factored_adax])
def test_integer_parameters_are_named(build):
    with pytest.raises(
        TypeError, match="'table/ids' must be floating point, got int32"
    ):
        build().init({"table": {"ids": jnp.arange(3)}})


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (("row",), "axes must give 2 roles for the parameter 'layer/w' of shape"),
        (("row", None), "rows need columns"),
        (("col", "batch"), "'layer/w': rows need columns"),
        (("row", "column"), "the role 'column' for the parameter 'layer/w'"),
    ],
)
def test_roles_that_do_not_fit_name_the_parameter(roles, message):
    tx = adafactor(factoring=Factoring(axes=lambda path, shape: roles))
    with pytest.raises(ValueError, match=message):
        tx.init({"layer": {"w": jnp.ones((2, 3))}})
