"""The autoencoders: shapes, arithmetic, batch normalisation, interpolation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from zlpr_jax.models._batch_norm import EPSILON, MOMENTUM
from zlpr_jax.models.eae import (
    EAE,
    VAE,
    Autoencoder,
    AutoencoderConfig,
    sample_gaussian,
    spherical_interpolation,
)
from zlpr_jax.nn import functionalize

SMALL = AutoencoderConfig(image_shape=(4, 3, 2), latent=3, hidden=(16,))


def pictures(*shape):
    return np.random.default_rng(7).random(shape, np.float32)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def network_of(network, config, method="__call__"):
    """A pure function, parameters drawn by NumPy (no bias is zero), and state.

    To initialise a module would take longer than each of the tests.
    """
    graph = nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))
    apply, params, state = functionalize(graph, method=method)
    rng = np.random.default_rng(0)

    def draw(shape):
        fan_in = np.prod(shape.shape[:-1])
        return np.float32(rng.normal(size=shape.shape) * fan_in**-0.5)

    params = jax.tree.map(draw, params)
    if network is EAE:
        state = {"norm": {"mean": np.zeros(config.latent, np.float32)}}
        state["norm"]["var"] = np.ones(config.latent, np.float32)
    static = ("training",) if network is EAE else ()
    return jax.jit(apply, static_argnames=static), params, state


# -- A float64 oracle


def relu(x):
    return np.maximum(x, 0)


def linear(layer, x):
    return x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])


def conv(layer, x, stride):
    """3x3 "same" convolution; if the padding is odd the larger part lies behind."""
    kernel = np.float64(layer["kernel"])
    sizes = [-(-n // stride) for n in x.shape[1:3]]
    pads = [(m - 1) * stride + 3 - n for n, m in zip(x.shape[1:3], sizes, strict=True)]
    x = np.pad(x, [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)])
    out = np.zeros((len(x), *sizes, kernel.shape[-1]))
    for row in range(sizes[0]):
        for column in range(sizes[1]):
            i, j = row * stride, column * stride
            patch = x[:, i : i + 3, j : j + 3]
            out[:, row, column] = np.einsum("nijc,ijcd->nd", patch, kernel)
    return out + np.float64(layer["bias"])


def encoded(params, x):
    params, x = params["encoder"], np.float64(x)
    for number in sorted(params.get("convolutions", {})):
        x = relu(conv(params["convolutions"][number], x, 2))
    x = x.reshape(len(x), -1)
    for number in sorted(params.get("hidden", {})):
        x = relu(linear(params["hidden"][number], x))
    return linear(params["output"], x)


def decoded(params, z, grids):
    params, x = params["decoder"], np.float64(z)
    for number in sorted(params["layers"]):
        x = linear(params["layers"][number], relu(x) if number else x)
    x = x.reshape(len(x), *grids[-1])
    for number, (height, width, _) in enumerate(grids[-2::-1]):
        wide = np.kron(relu(x), np.ones((1, 2, 2, 1)))[:, :height, :width]
        x = conv(params["convolutions"][number], wide, 1)
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("channels", [(), (4, 5)])
@pytest.mark.parametrize("hidden", [(), (6, 5)])
def test_agrees_with_numpy(hidden, channels):
    config = AutoencoderConfig(
        image_shape=(7, 6, 2), latent=3, hidden=hidden, channels=channels
    )
    apply, params, _ = network_of(Autoencoder, config)
    images = pictures(2, 7, 6, 2)
    (made, codes), _ = apply(params, {}, images)
    chex.assert_trees_all_close(codes, encoded(params, images), rtol=1e-4)
    oracle = decoded(params, codes, config.grids)
    chex.assert_trees_all_close(made, oracle, rtol=1e-4)
    assert oracle.std() > 0.1, "else a saturated sigmoid hides everything"


@pytest.mark.parametrize(
    ("network", "image_shape"),
    [
        (Autoencoder, (28, 28, 1)),
        (Autoencoder, (9, 12, 3)),
        (Autoencoder, (1, 1, 1)),
        (EAE, (7, 7, 1)),
        (VAE, (32, 32, 3)),
    ],
)
def test_images_come_back_in_their_size(network, image_shape):
    for channels in ((), (4, 4, 4)):
        config = AutoencoderConfig(
            image_shape=image_shape, latent=2, hidden=(4,), channels=channels
        )
        graph = nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))
        apply, params, state = functionalize(graph)
        x = jax.ShapeDtypeStruct((5, *image_shape), jnp.float32)
        made, *codes = jax.eval_shape(apply, params, state, x)[0]
        chex.assert_shape(made, (5, *image_shape))
        chex.assert_shape(codes, (5, 2))
        chex.assert_type([made, *codes], jnp.float32)


def test_grids_are_halved_and_rounded_up():
    config = AutoencoderConfig(image_shape=(28, 9, 3), channels=(8, 4, 2))
    assert config.grids == ((28, 9, 3), (14, 5, 8), (7, 3, 4), (4, 2, 2))


def test_pictures_stay_in_the_unit_interval():
    decode, params, _ = network_of(Autoencoder, SMALL, "decode")
    made, _ = decode(params, {}, 1e4 * (pictures(50, 3) - 0.5))
    assert 0 <= made.min() < made.max() <= 1


# -- Batch normalisation of the codes


CONFIG = AutoencoderConfig(image_shape=(1, 1, 4), latent=4, hidden=())
CODES = normal(256, 1, 1, 4)


@pytest.fixture(scope="module")
def normalise():
    """Normalised codes of an EAE whose encoder gives `mean + std x`."""
    apply, params, state = network_of(EAE, CONFIG, "encode")

    def run(mean, std):
        kernel = std * np.eye(4, dtype=np.float32)
        output = {"kernel": kernel, "bias": np.full(4, mean, np.float32)}
        encoder = {**params["encoder"], "output": output}
        codes, _ = apply({**params, "encoder": encoder}, state, CODES, training=True)
        before = np.float32(mean) + CODES[:, 0, 0] * np.float32(std)
        return np.float64(codes), np.float64(before)

    return run


@pytest.mark.parametrize("mean", [0.0, -1e2, 1e3, 1e4])
@pytest.mark.parametrize("std", [0.01, 1.0, 10.0])
def test_codes_have_mean_zero_and_variance_one(normalise, mean, std):
    codes, before = normalise(mean, std)
    # the float32 mean is off by some units in its last place, and all else follows
    shift = 4 * np.finfo(np.float32).eps * abs(mean) / before.std() + 1e-6
    assert np.abs(codes.mean(0)).max() < shift
    assert np.abs(codes.std(0) - 1).max() < max(shift**2, 2e-4)
    oracle = (before - before.mean(0)) / before.std(0)
    assert np.abs(codes - oracle).max() < shift + 1e-3


def test_the_defaults_of_flax_would_be_wrong(normalise):
    codes, before = normalise(100.0, 0.01)
    assert np.abs(codes.std(0) - 1).max() < 1e-3

    def std(**options):
        norm = nnx.BatchNorm(
            4, use_scale=False, use_bias=False, rngs=nnx.Rngs(0), **options
        )
        return np.std(norm(jnp.float32(before)), axis=0)

    assert np.abs(std(use_fast_variance=True) - 1).max() > 0.5
    # with the right variance, but what is added to it
    small = std(use_fast_variance=False)
    assert small.min() > 0.9
    assert small.max() < 0.97


def test_no_parameter_undoes_the_normalisation():
    _, params, state = network_of(EAE, SMALL)
    assert sorted(params) == ["decoder", "encoder"]
    chex.assert_shape([state["norm"]["mean"], state["norm"]["var"]], (3,))


def test_running_statistics():
    apply, params, state = network_of(EAE, SMALL)
    mean, var = np.zeros(3), np.ones(3)
    for scale in (1.0, 0.5, 0.1):
        x = scale * pictures(20, 4, 3, 2)
        raw = encoded(params, x)
        (_, codes), state = apply(params, state, x, training=True)
        oracle = (raw - raw.mean(0)) / np.sqrt(raw.var(0) + EPSILON)
        chex.assert_trees_all_close(codes, oracle, atol=1e-4)
        mean = MOMENTUM * mean + (1 - MOMENTUM) * raw.mean(0)
        var = MOMENTUM * var + (1 - MOMENTUM) * raw.var(0)
    expected = {"mean": mean, "var": var}
    chex.assert_trees_all_close(state["norm"], expected, rtol=1e-5, atol=1e-6)
    x = pictures(5, 4, 3, 2)
    (made, codes), after = apply(params, state, x)
    chex.assert_trees_all_equal(after, state)
    oracle = (encoded(params, x) - mean) / np.sqrt(var + EPSILON)
    chex.assert_trees_all_close(codes, oracle, atol=1e-5)
    chex.assert_trees_all_close(made, decoded(params, oracle, SMALL.grids), rtol=1e-5)
    alone = jnp.concatenate([apply(params, state, row[None])[0][1] for row in x])
    chex.assert_trees_all_close(codes, alone, atol=1e-6)


def test_padding_enters_no_statistic():
    apply, params, state = network_of(EAE, SMALL)
    x, where = pictures(9, 4, 3, 2), np.arange(9) < 6
    (_, codes), after = apply(params, state, x[:6], training=True)
    for padding in (0.0, 100.0):
        padded = np.where(where[:, None, None, None], x, np.float32(padding))
        (_, got), state_after = apply(params, state, padded, training=True, where=where)
        chex.assert_trees_all_close(got[:6], codes, atol=1e-6)
        chex.assert_trees_all_close(state_after, after, atol=1e-7)
    (_, wrong), _ = apply(params, state, padded, training=True)
    assert np.abs(wrong[:6] - codes).max() > 0.1


def test_codes_without_variance_stay_finite():
    apply, params, state = network_of(EAE, SMALL)
    x = np.full((6, 4, 3, 2), 1 / 3, np.float32)

    def loss(params):
        (made, codes), _ = apply(params, state, x, training=True)
        return jnp.square(made - x).sum() + codes.sum()

    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(loss))(params))


@pytest.mark.parametrize("network", [EAE, VAE])
def test_bfloat16_parameters(network):
    config = AutoencoderConfig(
        image_shape=(4, 4, 1), latent=3, hidden=(16,), channels=(4,)
    )
    apply, params, state = network_of(network, config)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    options = {"training": True} if network is EAE else {}
    x = pictures(20, 4, 4, 1)
    exact, _ = apply(params, state, x, **options)
    output, state = apply(half, state, x, **options)
    chex.assert_type(jax.tree.leaves((output, state)), jnp.float32)
    chex.assert_trees_all_close(output, exact, atol=0.1)
    if network is EAE:
        np.testing.assert_allclose(np.std(output[1], axis=0), 1, atol=1e-4)
    # the layers compute in bfloat16, but codes have more than its 8 bits
    codes = np.asarray(output[1])
    assert (codes != codes.astype(jnp.bfloat16).astype(np.float32)).any()
    text = str(jax.make_jaxpr(lambda x: apply(half, state, x, **options))(x))
    assert "bf16[20,16] = dot_general" in text


# -- The variational one


def test_vae_reconstructs_from_a_sample():
    apply, params, _ = network_of(VAE, SMALL)
    x = pictures(5, 4, 3, 2)
    (made, mean, log_variance), _ = apply(params, {}, x)
    both = np.concatenate([mean, log_variance], 1)
    chex.assert_trees_all_close(both, encoded(params, x), rtol=1e-4, atol=1e-6)
    oracle = decoded(params, mean, SMALL.grids)
    chex.assert_trees_all_close(made, oracle, rtol=1e-5)
    for key in jax.random.split(jax.random.key(0)):
        (made, *same), _ = apply(params, {}, x, key=key)
        chex.assert_trees_all_equal(same, [mean, log_variance])
        noise = np.asarray(jax.random.normal(key, mean.shape))
        codes = mean + np.exp(np.float64(log_variance) / 2) * noise
        assert np.abs(codes - mean).max() > 0.1
        oracle = decoded(params, codes, SMALL.grids)
        chex.assert_trees_all_close(made, oracle, rtol=1e-5)


def test_samples_have_their_mean_and_variance():
    mean, log_variance = (np.float32([row] * 20_000) for row in ((3, -1), (-4, 2)))

    def draw(mean, log_variance):
        return sample_gaussian(mean, log_variance, jax.random.key(0))

    drawn, pull = jax.vjp(jax.jit(draw), mean, log_variance)
    drawn, std = np.float64(drawn), np.exp(np.float64(log_variance[0]) / 2)
    assert (np.abs(drawn.mean(0) - mean[0]) < 4 * std / 20_000**0.5).all()
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.02)
    # z = mean + exp(log_variance / 2) noise
    by_mean, by_log_variance = pull(jnp.ones((20_000, 2)))
    np.testing.assert_array_equal(by_mean, 1)
    np.testing.assert_allclose(by_log_variance, (drawn - mean) / 2, atol=1e-5)


# -- Interpolation

interpolate = jax.jit(spherical_interpolation, static_argnums=2)


def test_interpolation_agrees_with_numpy():
    a, b = normal(2, 5, 16)
    path = interpolate(a, b, 7)
    chex.assert_shape(path, (7, 5, 16))
    x, y = np.float64(a), np.float64(b)
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    angle = np.arccos(cosine)[:, None]
    for step, t in enumerate(np.linspace(0, 1, 7)):
        oracle = (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)
        np.testing.assert_allclose(path[step], oracle, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal((path[0], path[-1]), (a, b))


def test_interpolation_keeps_the_norm():
    a, b = normal(2, 100)
    b = b * np.linalg.norm(a) / np.linalg.norm(b)
    norms = np.linalg.norm(interpolate(a, b, 11), axis=-1)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)
    assert np.linalg.norm((a + b) / 2) < 0.8 * norms[0], "as a straight line does not"


@pytest.mark.parametrize("scale", [1.0, 3.0, -1.0, -0.5, 0.0, 1 + 1e-6])
def test_interpolation_without_an_angle(scale):
    a = normal(4, 16)
    path = interpolate(a, np.float32(scale) * a, 5)
    t = np.linspace(0, 1, 5)[:, None, None]
    line = (1 - t) * np.float64(a) + t * scale * np.float64(a)
    np.testing.assert_allclose(path, line, atol=1e-5)
    chex.assert_tree_all_finite(interpolate(0 * a, 0 * a, 5))


@pytest.mark.parametrize("angle", [1e-3, 0.1, 3.1])
def test_interpolation_at_small_and_large_angles(angle):
    a = np.array([1.0, 0.0])
    b = np.array([np.cos(angle), np.sin(angle)])
    path = interpolate(jnp.float32(a), jnp.float32(b), 5)
    turned = np.linspace(0, angle, 5)
    circle = np.stack([np.cos(turned), np.sin(turned)], 1)
    np.testing.assert_allclose(path, circle, atol=2e-5)


def test_interpolation_has_two_ends():
    with pytest.raises(ValueError, match="steps must be >= 2"):
        spherical_interpolation(jnp.ones(2), jnp.ones(2), 1)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"image_shape": (0, 8, 1)}, "image_shape"),
        ({"latent": 0}, "latent"),
        ({"hidden": (4, 0)}, "hidden"),
        ({"channels": (-1,)}, "channels"),
    ],
)
def test_bad_settings(settings, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        AutoencoderConfig(**{"image_shape": (8, 8, 1), **settings})
