"""The multi-layer perceptron."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from zlpr_jax.models.mlp import MLP, MLPConfig
from zlpr_jax.nn import SparseFeatures, functionalize


def test_agrees_with_numpy():
    config = MLPConfig(features=6, labels=3, hidden=(5, 4))
    _, params, _ = functionalize(MLP(config, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=(2, 6))
    expected = x
    layers = [params["input"], params["layers"][0], params["layers"][1]]
    for number, layer in enumerate(layers):
        if number:
            expected = np.maximum(expected, 0)
        expected = expected @ np.asarray(layer["kernel"], np.float64)
        expected += np.asarray(layer["bias"], np.float64)
    got = MLP(config, rngs=nnx.Rngs(0))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_no_hidden_layer_is_a_linear_model():
    model = MLP(MLPConfig(features=6, labels=3, hidden=()), rngs=nnx.Rngs(0))
    x = jnp.ones((2, 6))
    np.testing.assert_allclose(model(2 * x), 2 * model(x), rtol=1e-6)


@pytest.mark.parametrize("key", [None, jax.random.key(1)])
def test_output_layer_of_encode_is_the_model(key):
    config = MLPConfig(
        features=6, labels=3, hidden=(5, 4), dropout=0.4, input_dropout=0.2
    )
    model = MLP(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (7, 6))
    hidden = model.encode(x, key=key)
    assert hidden.shape == (7, 4)
    np.testing.assert_array_equal(model.layers[-1](hidden), model(x, key=key))


def test_a_linear_model_has_nothing_to_encode():
    model = MLP(MLPConfig(features=6, labels=3, hidden=()), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="give hidden a width"):
        model.encode(jnp.ones((2, 6)))


@pytest.mark.parametrize("name", ["dropout", "input_dropout"])
def test_dropout_needs_a_key_and_keeps_the_mean(name):
    config = MLPConfig(features=400, labels=2, hidden=(400,), **{name: 0.5})
    model = MLP(config, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 400))
    keys = jax.random.split(jax.random.key(0), 200)
    outputs = jax.vmap(lambda key: model(x, key=key))(keys)
    assert float(outputs.std(0).min()) > 0
    np.testing.assert_array_equal(model(x), model(x))
    if name == "dropout":  # linear in what is dropped, so unbiased
        np.testing.assert_allclose(outputs.mean(0), model(x), atol=0.2)


def test_input_dropout_of_sparse_rows():
    config = MLPConfig(features=8, labels=2, input_dropout=0.5)
    model = MLP(config, rngs=nnx.Rngs(0))
    rows = SparseFeatures(jnp.array([[1, 2, 3]]), jnp.ones((1, 3)))
    outputs = {
        float(model(rows, key=key)[0, 0])
        for key in jax.random.split(jax.random.key(0), 9)
    }
    assert len(outputs) > 1


@pytest.mark.parametrize(
    "settings",
    [
        {"features": 0, "labels": 1},
        {"features": 1, "labels": 0},
        {"features": 1, "labels": 1, "hidden": (4, 0)},
        {"features": 1, "labels": 1, "dropout": 1.0},
        {"features": 1, "labels": 1, "input_dropout": -0.1},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match="must be"):
        MLPConfig(**settings)
