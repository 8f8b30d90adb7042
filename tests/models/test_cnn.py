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


def images_of(rows, config=SMALL):
    return jax.random.uniform(jax.random.key(0), (rows, *config.image_shape))


@pytest.fixture(scope="module")
def model():
    return CNN(SMALL, rngs=nnx.Rngs(0))


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


def test_agrees_with_numpy(model):
    apply, params, state = functionalize(model)
    get_features = functionalize(model, method="features").apply
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.125, params)  # biases too
    wide = jax.tree.map(np.float64, params)
    images = images_of(3)
    features = []
    for image in np.asarray(images, np.float64):
        x = image
        for layer in (wide["convolutions"][0], wide["convolutions"][1]):
            x = np.maximum(convolve(x, layer["kernel"], layer["bias"]), 0)
        x = x.reshape(-1) @ wide["hidden"]["kernel"] + wide["hidden"]["bias"]
        features.append(np.maximum(x, 0))
    logits = np.stack(features) @ wide["output"]["kernel"] + wide["output"]["bias"]
    for function, expected in ((get_features, features), (apply, logits)):
        got, _ = jax.jit(function)(params, state, images)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


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


def test_logits_are_those_of_the_features(model):
    images = images_of(5)
    features = model.features(images)
    assert float(features.min()) >= 0
    np.testing.assert_array_equal(model.output(features), model(images))


def test_dropout_needs_a_key_and_keeps_the_mean(model):
    apply, params, state = functionalize(model)
    keys = jax.random.split(jax.random.key(0), 2000)
    images = images_of(4)

    @jax.jit
    def dropped(params, images):
        return jax.vmap(lambda key: apply(params, state, images, key=key)[0])(keys)

    outputs = dropped(params, images)
    assert float(outputs.std(0).min()) > 0
    np.testing.assert_allclose(outputs.mean(0), model(images), atol=0.05)


def test_images_of_another_shape(model):
    # a transposed image has as many pixels: nothing else would notice
    with pytest.raises(ValueError, match=r"\(7, 6, 3\) .* got \(6, 7, 3\)"):
        model(jnp.zeros((2, 6, 7, 3)))


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
