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
    add_parameters,
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
INFINITY = float("inf")
ALIASES = [adafactor, adax, adaxw, factored_adax]
every_alias = pytest.mark.parametrize("build", ALIASES)


def tree(shape=(8, 4)):
    return {"layer": {"w": jnp.ones(shape)}, "bias": jnp.ones(4)}


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
            "max_beta2",
        ),
        (clip_by_block_rms, {"threshold": 0.0}, "threshold"),
        (scale_by_parameter_rms, {"min_scale": -1.0}, "min_scale"),
        (scale_by_parameter_rms, {"max_scale": 0.0}, "max_scale"),
        (relative_step, {"cap": 0.0}, "cap"),
        (relative_step, {"warmup": 0}, "warmup"),
        (average_updates, {"decay": 1.0}, "decay"),
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
        (factored_adax, {"momentum": -0.1}, "momentum"),
        (factored_adax, {"clip": NAN}, "clip"),
        (scale_by_second_moment, {"decay": adax_decay(), "eps_sq": -1.0}, "eps_sq"),
        (scale_by_second_moment, {"decay": adax_decay(), "b1": 1.0}, "b1"),
        *[(build, {"learning_rate": NAN}, "learning_rate") for build in ALIASES],
        *[(build, {"learning_rate": INFINITY}, "learning_rate") for build in ALIASES],
    ],
)
def test_bad_settings_are_named_at_construction(build, settings, named):
    with pytest.raises(ValueError, match=rf"^{named} must lie in .*, got "):
        build(**settings)


def test_settings_that_are_not_numbers():
    with pytest.raises(TypeError, match=r"^b2 must be a number in .*'small'"):
        adax(b2="small")
    with pytest.raises(TypeError, match="decay must have a method weight"):
        scale_by_second_moment(0.999)
    with pytest.raises(TypeError, match="decay must have a method weight"):
        capped(lambda step: 0.5)
    with pytest.raises(TypeError, match="decay must have a method weight"):
        adafactor(decay=0.999)
    for build in ALIASES:
        with pytest.raises(TypeError, match=r"^learning_rate must be a number in"):
            build(learning_rate=jnp.ones(3))
        with pytest.raises(TypeError, match=r"^learning_rate must be a number in"):
            build(learning_rate="0.1")
    with pytest.raises(TypeError, match=r"^min_dim must be a number in"):
        Factoring(min_dim="128")
    with pytest.raises(TypeError, match="decay must have a method weight"):
        adafactor(decay=type(power_decay()))
    for build in (adafactor, factored_adax, clip_by_block_rms, scale_by_parameter_rms):
        with pytest.raises(TypeError, match=r"^factoring must be a Factoring or None"):
            build(factoring=2)
    with pytest.raises(TypeError, match="axes must be a function"):
        Factoring(axes="rc")


@pytest.mark.parametrize("roles", [5, "rc", {"row", "col"}])
def test_roles_that_are_none_name_the_parameter(roles):
    tx = adafactor(factoring=Factoring(axes=lambda path, shape: roles))
    with pytest.raises(TypeError, match=r"must give a tuple of roles .* 'layer/w'"):
        tx.init({"layer": {"w": jnp.ones((8, 4))}})


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int8, bool])
def test_averages_are_floating_point(dtype):
    for build, name in (
        (lambda dtype: adafactor(momentum=0.9, momentum_dtype=dtype), "momentum_dtype"),
        (lambda dtype: adax(mu_dtype=dtype), "mu_dtype"),
        (lambda dtype: average_updates(0.9, dtype), "dtype"),
    ):
        with pytest.raises(TypeError, match=f"^{name} must be floating point, got "):
            build(dtype)


@pytest.mark.parametrize(
    "tx", [adax(mu_dtype=jnp.bfloat16), average_updates(0.9, jnp.bfloat16)]
)
def test_complex_averages_keep_their_imaginary_part(tx):
    with pytest.raises(TypeError, match=r"'w' is complex64, .* cannot hold it"):
        tx.init({"w": jnp.ones(3, jnp.complex64)})


def test_stochastic_rounding_names_the_dtype_that_it_needs():
    for build, name in (
        (lambda **settings: adafactor(momentum=0.9, **settings), "dtype"),
        (adax, "mu_dtype"),
        (adaxw, "mu_dtype"),
    ):
        with pytest.raises(ValueError, match=f"needs .*{name}=jnp.bfloat16, got None"):
            build(stochastic_rounding=True)


@every_alias
def test_missing_parameters(build):
    tx, params = build(), jnp.ones(3)
    with pytest.raises(ValueError, match="requires the current value of parameters"):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize("part", [scale_by_parameter_rms(), add_parameters(0.1)])
def test_parts_that_need_the_parameters(part):
    with pytest.raises(ValueError, match="requires the current value of parameters"):
        part.update(tree(), part.init(tree()))


@every_alias
@pytest.mark.parametrize("shape", [(1, 4), (8, 1), (4,), (4, 8), (), (1, 8, 4)])
def test_gradients_of_another_shape_are_not_broadcast(build, shape):
    tx, params = build(), tree()
    grads = tree() | {"layer": {"w": jnp.ones(shape)}}
    with pytest.raises(ValueError, match=r"^the gradient of 'layer/w' has the shape"):
        tx.update(grads, tx.init(params), params)


@every_alias
@pytest.mark.parametrize("shape", [(1, 4), (4, 4), (8, 1)])
def test_parameters_of_another_shape_are_not_broadcast(build, shape):
    tx, grads = build(), tree()
    with pytest.raises(ValueError, match=r"^the parameter of 'layer/w' must have the"):
        tx.update(grads, tx.init(grads), tree(shape))


def test_averages_of_another_shape_are_not_broadcast():
    tx = average_updates(0.9)
    with pytest.raises(ValueError, match=r"^the update of 'layer/w' must have the"):
        tx.update(tree((1, 4)), tx.init(tree()))


@every_alias
@pytest.mark.parametrize("shape", [(1, 4), (4, 4), (8, 1)])
def test_states_of_other_parameters_are_not_broadcast(build, shape):
    tx, params = build(), tree()
    with pytest.raises(ValueError, match=r"^the gradient of 'layer/w' has the shape"):
        tx.update(params, tx.init(tree(shape)), params)


def test_state_that_is_not_factored_as_the_gradient():
    params = {"w": jnp.ones((128, 128))}
    dense, factored = adafactor(factoring=None), adafactor()
    for tx, other in ((dense, factored), (factored, dense)):
        with pytest.raises(ValueError, match=r"^the gradient of 'w' has the shape"):
            tx.update(params, other.init(params), params)


@every_alias
def test_gradients_of_another_structure(build):
    tx, params = build(), tree()
    for grads in ({"layer": params["layer"]}, params | {"more": jnp.ones(4)}):
        with pytest.raises(ValueError, match=r"mismatch|structure"):
            tx.update(grads, tx.init(params), params)


@every_alias
def test_integer_gradients_are_named(build):
    tx, params = build(), tree()
    grads = tree() | {"layer": {"w": jnp.ones((8, 4), int)}}
    with pytest.raises(TypeError, match="'layer/w' must be floating point, got int32"):
        tx.update(grads, tx.init(params), params)


@every_alias
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
