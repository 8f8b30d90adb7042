"""What `state_shardings` says of trees that do not fit; run without the shape hook."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from zlpr_jax.optim import adafactor, adax, state_nbytes, state_shardings

DEVICES = np.array(jax.devices())
MESH = Mesh(DEVICES.reshape(4, 2), ("x", "y"))
OTHER = Mesh(DEVICES.reshape(2, 4), ("x", "y"))
WHOLE = NamedSharding(MESH, P())
PARAMS = {
    "layer": {"kernel": jnp.ones((8, 6)), "bias": jnp.ones(6)},
    "scale": jnp.ones(()),
}


def placed(kernel=WHOLE, bias=WHOLE, scale=WHOLE):
    return {"layer": {"kernel": kernel, "bias": bias}, "scale": scale}


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (P("x"), "P"),
        (None, "None"),
        (SingleDeviceSharding(DEVICES[0]), "SingleDeviceSharding"),
        ("x", "'x'"),
        ({"row": WHOLE}, "{'row'"),
        ([], "[]"),
    ],
)
def test_anything_but_a_named_sharding(given, got):
    message = (
        "param_shardings must give a NamedSharding for the parameter 'layer/kernel', "
        f"got {got}"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        state_shardings(adax(), PARAMS, placed(kernel=given))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"layer": placed()["layer"]}, "nothing for the parameter 'scale'"),
        (WHOLE, "nothing for the parameter 'layer/bias'"),
        (
            placed() | {"head": {"kernel": WHOLE}},
            "'head/kernel', which params does not have",
        ),
        (tuple(placed().values()), "nothing for the parameter 'layer/bias'"),
    ],
)
def test_trees_that_differ(given, problem):
    message = f"param_shardings must be a tree like params, got {problem}: give one"
    with pytest.raises(ValueError, match=re.escape(message)):
        state_shardings(adax(), PARAMS, given)


def test_containers_that_differ():
    with pytest.raises(ValueError, match=r"got other containers: .*: give one"):
        state_shardings(adax(), (jnp.ones(3),), [WHOLE])


def test_parameters_that_are_none_have_no_sharding():
    with pytest.raises(ValueError, match="got 'b', which params does not have"):
        state_shardings(adax(), {"a": jnp.ones(3), "b": None}, {"a": WHOLE, "b": WHOLE})


def test_several_meshes():
    with pytest.raises(
        ValueError,
        match=r"on one mesh: the parameter 'layer/bias' is on Mesh\('x': 4, 'y': 2.* "
        r"and 'scale' on Mesh\('x': 2, 'y': 4.*build all of them",
    ):
        state_shardings(adax(), PARAMS, placed(scale=NamedSharding(OTHER, P())))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            P(None, "x"),
            "axis 1 of the parameter 'layer/kernel' of shape (8, 6) must be divisible "
            "by 4 to be split over 'x', got 6: pad",
        ),
        (
            P(None, ("x", "y")),
            "axis 1 of the parameter 'layer/kernel' of shape (8, 6) must be divisible "
            "by 8 to be split over ('x', 'y'), got 6: pad",
        ),
        (
            P("x", None, "y"),
            "the spec of the parameter 'layer/kernel' must have at most 2 entries, for "
            "its shape (8, 6), got ",
        ),
        (
            P(P.UNCONSTRAINED),
            "the spec of the parameter 'layer/kernel' must name mesh axes, or None, "
            "for axis 0, got ",
        ),
    ],
)
def test_specs_that_do_not_fit(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        state_shardings(adax(), PARAMS, placed(kernel=NamedSharding(MESH, spec)))


@pytest.mark.parametrize("params", [{}, None, {"a": None}])
def test_no_arrays(params):
    with pytest.raises(ValueError, match="params must hold at least one array, got"):
        state_shardings(adax(), params, params)


def test_errors_of_the_transformation_are_its_own():
    params, shardings = {"table": {"ids": jnp.arange(8)}}, {"table": {"ids": WHOLE}}
    message = "^the parameter 'table/ids' must be floating point, got int32"
    for tx in (adafactor(), optax.chain(optax.sgd(0.1, momentum=0.9), adax())):
        with pytest.raises(TypeError, match=message) as raised:
            state_shardings(tx, params, shardings)
        assert raised.value.__context__ is None
        with pytest.raises(TypeError, match=message):
            state_nbytes(tx, params)
