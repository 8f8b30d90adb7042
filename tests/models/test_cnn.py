"""The convolutional classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from zlpr_jax.models.cnn import CNN, CNNConfig
from zlpr_jax.nn import functionalize

SMALL = CNNConfig(
    image_shape=(7, 6, 3), classes=4, channels=(5, 2), features=8, dropout=0.5
)


IMAGES = np.random.default_rng(0).random((3, *SMALL.image_shape), np.float32)


@pytest.fixture(scope="module")
def network():
    """The network and its features as pure functions, drawn parameters, and state.

    To initialise a module would take longer than each of the tests.
    """
    graph = nnx.eval_shape(lambda: CNN(SMALL, rngs=nnx.Rngs(0)))
    apply, params, state = functionalize(graph)
    features = functionalize(graph, method="features").apply
    rng = np.random.default_rng(1)
    draw = lambda shape: np.float32(rng.normal(size=shape.shape) / 2)
    return jax.jit(apply), jax.jit(features), jax.tree.map(draw, params), state


def convolve(x, kernel, bias):
    """A 3 x 3 convolution of stride 2 with zeros around the image, pixel by pixel."""
    height, width = x.shape[:2]
    rows, columns = -(-height // 2), -(-width // 2)
    # an odd size is padded by one on both sides, an even one at its end
    padded = np.pad(x, ((height % 2, 2), (width % 2, 2), (0, 0)))
    made = np.empty((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            made[i, j] = np.tensordot(patch, kernel, 3) + bias
    return made


def test_agrees_with_numpy(network):
    apply, get_features, params, state = network
    wide = jax.tree.map(np.float64, params)
    features = []
    for image in np.float64(IMAGES):
        x = image
        for layer in (wide["convolutions"][0], wide["convolutions"][1]):
            x = np.maximum(convolve(x, layer["kernel"], layer["bias"]), 0)
        x = x.reshape(-1) @ wide["hidden"]["kernel"] + wide["hidden"]["bias"]
        features.append(np.maximum(x, 0))
    assert 0 < np.mean(np.stack(features) > 0) < 1, "else a ReLU would not show"
    logits = np.stack(features) @ wide["output"]["kernel"] + wide["output"]["bias"]
    for function, expected in ((get_features, features), (apply, logits)):
        got, _ = function(params, state, IMAGES)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (5, 9, 1), (1, 1, 1)])
def test_shapes(shape):
    config = CNNConfig(image_shape=shape, classes=3)
    model = nnx.eval_shape(lambda: CNN(config, rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    apply, params, state = functionalize(model)
    logits, _ = jax.eval_shape(apply, params, state, images)
    assert logits.shape == (2, 3)
    apply = functionalize(model, method="features").apply
    features, _ = jax.eval_shape(apply, params, state, images)
    assert features.shape == (2, 64)


def test_dropout_needs_a_key_and_keeps_the_mean(network):
    apply, _, params, state = network
    one = np.broadcast_to(IMAGES[0], (4000, *SMALL.image_shape))
    exact, _ = apply(params, state, IMAGES[:1])
    outputs, _ = jax.jit(apply)(params, state, one, key=jax.random.key(0))
    outputs = np.asarray(outputs)
    assert outputs.std(0).min() > 0.01
    error = outputs.std(0) / len(outputs) ** 0.5
    assert (np.abs(outputs.mean(0) - exact[0]) < 4 * error).all()


def test_images_of_another_shape(network):
    apply, _, params, state = network
    # a transposed image has as many pixels: nothing else would notice
    with pytest.raises(ValueError, match=r"\(7, 6, 3\) .* got \(6, 7, 3\)"):
        apply(params, state, IMAGES.swapaxes(1, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {"image_shape": (8, 0, 1)},
        {"image_shape": (8, 8, 0)},
        {"classes": 0},
        {"channels": ()},
        {"channels": (4, 0)},
        {"features": 0},
        {"dropout": 1.0},
        {"dropout": -0.1},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match="must"):
        CNNConfig(**{"image_shape": (8, 8, 1), "classes": 2, **settings})
