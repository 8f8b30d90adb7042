"""The tasks of the three autoencoders."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from scipy.spatial import KDTree
from scipy.special import digamma, gammaln

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax.data.images import ImageData
from zlpr_jax.data.mnist import read_mnist_subset
from zlpr_jax.models.eae import AutoencoderConfig
from zlpr_jax.optim import adax
from zlpr_jax.tasks.image import (
    ImageCode,
    gaussian_kl,
    make_autoencoder,
    make_eae,
    make_vae,
    squared_error,
)
from zlpr_jax.tasks.pixels import scaled_pixels
from zlpr_jax.training import (
    FitConfig,
    evaluate,
    fit,
    make_mesh,
    param_shardings,
    predict,
    put_batch,
)

CONFIG = AutoencoderConfig(image_shape=(6, 5, 1), latent=3, hidden=(16,))
MODELS = {
    "autoencoder": make_autoencoder(CONFIG),
    "eae": make_eae(CONFIG, entropy_weight=0.7, k=2),
    "vae": make_vae(CONFIG, beta=0.3),
}
ENCODE = {name: jax.jit(model.encode) for name, model in MODELS.items()}
DECODE = {name: jax.jit(model.decode) for name, model in MODELS.items()}
KEY = jax.random.key(5)
each_model = pytest.mark.parametrize("name", MODELS)


def image_data(count, shape=(6, 5, 1)):
    rng = np.random.default_rng(0)
    return ImageData(
        images=rng.integers(0, 256, (count, *shape), np.uint8),
        labels=None,
        label_names=(),
        ids=tuple(f"image {i}" for i in range(count)),
        path="test",
    )


DATA = image_data(16)


def drawn(shapes):
    """Arrays of these shapes; to initialise a model would take longer than its test."""
    rng = np.random.default_rng(1)

    def draw(path, shape):
        if path[-1].key == "var":
            return np.float32(rng.uniform(0.5, 2, shape.shape))
        fan_in = np.prod(shape.shape[:-1])
        return np.float32(rng.normal(size=shape.shape) * fan_in**-0.5)

    return jax.tree.map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def start():
    """Parameters and state of each model, and its compiled loss with gradient."""
    return {
        name: (
            *drawn(jax.eval_shape(model.task.init, jax.random.key(0))),
            jax.jit(jax.value_and_grad(model.task.loss, has_aux=True)),
        )
        for name, model in MODELS.items()
    }


def entropy_oracle(codes, k):
    count, dim = codes.shape
    distances = KDTree(np.float64(codes)).query(np.float64(codes), k + 1)[0][:, k]
    volume = dim / 2 * np.log(np.pi) - gammaln(dim / 2 + 1)
    mean_log = np.log(distances).mean()
    return digamma(count) - digamma(k) + volume + dim * mean_log


def error_oracle(images, made):
    return ((np.float64(images) / 255 - made) ** 2).sum((1, 2, 3))


def kl_oracle(mean, log_variance):
    mean, log_variance = np.float64(mean), np.float64(log_variance)
    return (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(1) / 2


# -- Batches


def test_are_tasks():
    for model in MODELS.values():
        assert isinstance(model.task, Task)
        assert model.task.headline == ("loss", "min")


def test_batches_hold_the_images():
    task = MODELS["eae"].task
    for records in (DATA.take([3, 1]), [DATA[3], DATA[1]]):
        batch = task.batch(records, 4)
        assert batch["images"].dtype == np.uint8
        np.testing.assert_array_equal(batch["images"][:2], DATA.images[[3, 1]])
        np.testing.assert_array_equal(batch["images"][2:], 0)
        np.testing.assert_array_equal(batch["where"], [True, True, False, False])


def test_images_of_another_size():
    # (6, 1, 1) would be broadcast
    for shape in ((6, 5, 3), (6, 1, 1)):
        with pytest.raises(InputError, match=r"image 0 has the shape .* \(6, 5, 1\)"):
            MODELS["eae"].task.batch(image_data(2, shape), 2)


def test_bytes_become_shares():
    pixels = scaled_pixels(jnp.asarray(DATA.images))
    chex.assert_type(pixels, jnp.float32)
    np.testing.assert_allclose(pixels, DATA.images / 255, rtol=1e-6)
    np.testing.assert_array_equal(scaled_pixels(pixels), pixels)


# -- Losses


@each_model
def test_loss_and_metrics_agree_with_numpy(start, name):
    """Of 13 images; the batch has three rows more, which change nothing."""
    model, data = MODELS[name], DATA.take(range(13))
    params, state, step = start[name]
    batch = model.task.batch(data, 16)
    (loss, (new, sums)), grads = step(params, state, batch, KEY)
    if name == "eae":
        plain = {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}
        raw = ENCODE[name](params, {"norm": plain}, batch["images"])[:13]
        raw = np.float64(raw)
        codes = np.float32((raw - raw.mean(0)) / raw.std(0))
        expected = jax.tree.map(
            lambda old, now: 0.9 * old + 0.1 * now,
            state["norm"],
            {"mean": raw.mean(0), "var": raw.var(0)},
        )
        chex.assert_trees_all_close(new["norm"], expected, rtol=1e-5)
        terms = {"batch_entropy": entropy_oracle(codes, 2)}
        extra = -0.7 * terms["batch_entropy"]
    elif name == "vae":
        rows = predict(model.task, params, state, data, 16)
        mean, log_variance = (
            np.stack([getattr(row, field) for row in rows])
            for field in ("code", "log_variance")
        )
        noise = jax.random.normal(KEY, (16, 3))[:13]
        codes = mean + np.exp(log_variance / 2) * noise
        terms = {"kl": kl_oracle(mean, log_variance).mean()}
        extra = 0.3 * terms["kl"]
    else:
        codes = ENCODE[name](params, state, batch["images"])[:13]
        terms, extra = {}, 0.0
    padded = np.pad(codes, ((0, 3), (0, 0)))
    errors = error_oracle(data.images, DECODE[name](params, state, padded)[:13])
    terms = {"loss": errors.mean() + extra, "reconstruction": errors.mean(), **terms}
    assert sums.keys() == terms.keys()
    for term, value in terms.items():
        np.testing.assert_allclose(sums[term][0] / sums[term][1], value, rtol=1e-4)
    np.testing.assert_allclose(loss, terms["loss"], rtol=1e-4)
    chex.assert_tree_all_finite(grads)

    # nor does what stands in them, as long as they are marked
    batch["images"][13:] = 255
    again = step(params, state, batch, KEY)
    chex.assert_trees_all_close(again, ((loss, (new, sums)), grads), rtol=1e-5)
    marked = {**batch, "where": np.ones(16, bool)}
    assert abs(step(params, state, marked, KEY)[0][0] - loss) > 0.01


def test_an_image_counts_once_in_the_entropy_of_a_batch(start):
    """It is there twice where an epoch ends in the batch, or is smaller than it."""
    task = MODELS["eae"].task
    params, state, step = start["eae"]
    entropy = lambda rows: step(params, state, task.batch(rows, 16), KEY)[0][1][1][
        "batch_entropy"
    ][0]
    # three times each: mean and variance, and so the codes, are those of once each
    thrice = DATA.take([*range(5)] * 3)
    once = entropy(DATA.take(range(5)))
    np.testing.assert_allclose(entropy(thrice), once, rtol=1e-5)
    # other images that look the same are samples like any others
    renamed = dataclasses.replace(thrice, ids=DATA.ids[:15])
    assert entropy(renamed) < once - 10
    # fewer than k + 1 images: the estimate is finite, whatever it says
    assert np.isfinite(entropy(DATA.take([0, 1] * 8)))


def test_divergence_from_the_prior():
    rng = np.random.default_rng(0)
    mean, log_variance = np.float32(rng.normal(size=(2, 5, 4)) * 2)
    divergence = jax.jit(gaussian_kl)
    got = divergence(mean, log_variance)
    np.testing.assert_allclose(got, kl_oracle(mean, log_variance), rtol=1e-5)
    # by sampling: E_q[log q(z) - log p(z)]
    noise = rng.normal(size=(50_000, 1, 4))
    z = mean + np.exp(log_variance / 2) * noise
    ratios = ((z**2 - noise**2 - log_variance) / 2).sum(-1)
    error = ratios.std(0) / len(noise) ** 0.5
    assert (np.abs(ratios.mean(0) - got) < 4 * error).all()
    # close to the prior: v^2 / 4 for each of the dimensions
    small = divergence(np.zeros((5, 4), np.float32), np.full((5, 4), np.float32(1e-3)))
    np.testing.assert_allclose(small, 4 * 0.25e-6, rtol=1e-2)


@pytest.mark.parametrize("name", ["eae", "vae"])
def test_eight_devices_are_one(start, name):
    """Loss, metrics, statistics of batch normalisation, and gradients."""
    task = MODELS[name].task
    params, state, step = start[name]
    batch = task.batch(DATA.take(range(13)), 16)
    single = step(params, state, batch, KEY)
    mesh = make_mesh(data=4, fsdp=2)
    placed = jax.device_put(params, param_shardings(mesh, params))
    arrays = put_batch(mesh, batch, 16)
    assert len(arrays["images"].sharding.device_set) == 8
    assert arrays["images"].addressable_shards[0].data.shape[0] == 2
    chex.assert_trees_all_close(
        step(placed, state, arrays, KEY), single, rtol=1e-5, atol=1e-5
    )


def mapped_by_shard_map(step, check_vma):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    whole, rows = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(whole, whole, rows, whole),
        out_specs=whole,
        check_vma=check_vma,
    )
    return jax.jit(mapped)


def mapped_by_pmap(step):
    run = jax.pmap(step, axis_name="data", in_axes=(None, None, 0, None))

    def whole(params, state, batch, key):
        split = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
        devices = jax.device_get(run(params, state, split, key))
        one, *others = (jax.tree.map(lambda x: x[i], devices) for i in range(8))
        for other in others:
            chex.assert_trees_all_close(other, one, rtol=1e-6)
        return one

    return whole


@pytest.mark.parametrize("how", ["shard_map", "shard_map unchecked", "pmap"])
def test_mapped_over_eight_devices_is_one(start, how):
    """With rows that are padding on two of the devices, and an image on two."""
    params, state, step = start["eae"]
    batch = MODELS["eae"].task.batch(DATA.take([*range(12), 3]), 16)
    expected = step(params, state, batch, KEY)
    task = make_eae(CONFIG, entropy_weight=0.7, k=2, axis_name="data").task
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.eval_shape(task.init, KEY), jax.eval_shape(MODELS["eae"].task.init, KEY)
    )

    def mapped(params, state, batch, key):
        value, grads = jax.value_and_grad(task.loss, has_aux=True)(
            params, state, batch, key
        )
        if how != "shard_map":  # there the sum over devices is part of the gradient
            grads = jax.lax.pmean(grads, "data")
        return value, grads

    run = (
        mapped_by_pmap(mapped)
        if how == "pmap"
        else mapped_by_shard_map(mapped, how == "shard_map")
    )
    got = run(params, state, batch, KEY)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16(start):
    task = MODELS["eae"].task
    params, state, step = start["eae"]
    batch = task.batch(DATA, 16)
    (loss, (exact, _)), _ = step(params, state, batch, KEY)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    got, (new, sums) = jax.jit(task.loss)(half, state, batch, KEY)
    chex.assert_type(jax.tree.leaves((got, new, sums)), jnp.float32)
    np.testing.assert_allclose(got, loss, rtol=0.03)
    chex.assert_trees_all_close(new, exact, atol=0.02)


# -- Predictions and scores


@each_model
def test_predictions_and_scores(start, name):
    model = MODELS[name]
    params, state, _ = start[name]
    scores, rows = evaluate(model.task, params, state, DATA, 10)
    assert len(rows) == 16
    assert all(isinstance(row, ImageCode) for row in rows)
    codes = ENCODE[name](params, state, jnp.asarray(DATA.images))
    chex.assert_shape(codes, (16, 3))
    chex.assert_type(codes, jnp.float32)
    chex.assert_trees_all_close(np.stack([row.code for row in rows]), codes, atol=1e-5)
    errors = error_oracle(DATA.images, DECODE[name](params, state, codes))
    got = np.stack([row.squared_error for row in rows])
    np.testing.assert_allclose(got, errors, rtol=1e-5)

    extra = 0.0
    if name == "vae":
        log_variance = np.stack([row.log_variance for row in rows])
        kl = kl_oracle(codes, log_variance).mean()
        np.testing.assert_allclose(scores.pop("kl"), kl, rtol=1e-5)
        noise = jax.random.normal(jax.random.key(0), (16, 3))
        codes, extra = codes + np.exp(log_variance / 2) * noise, 0.3 * kl
    entropy = entropy_oracle(codes, 2 if name == "eae" else 1)
    if name == "eae":
        extra = -0.7 * entropy
    radius = np.linalg.norm(np.float64(codes), axis=1)
    expected = {
        "loss": errors.mean() + extra,
        "reconstruction": errors.mean(),
        "entropy": entropy,
        "radius_mean": radius.mean(),
        "radius_std": radius.std(),
    }
    assert all(type(value) is float for value in scores.values())
    assert list(scores) == list(expected)
    chex.assert_trees_all_close(scores, expected, rtol=1e-4)


def test_evaluation_does_not_depend_on_the_batch(start):
    model = MODELS["eae"]
    params, state, _ = start["eae"]
    whole, parts = (predict(model.task, params, state, DATA, n) for n in (16, 5))
    chex.assert_trees_all_close(whole, parts, atol=1e-5)


@each_model
def test_codes_and_images(start, name):
    params, state, _ = start[name]
    codes = ENCODE[name](params, state, DATA.images)
    same = ENCODE[name](params, state, np.float32(DATA.images) / 255)
    chex.assert_trees_all_close(codes, same, atol=1e-6)
    made = DECODE[name](params, state, codes)
    chex.assert_shape(made, (16, 6, 5, 1))
    chex.assert_type(made, jnp.float32)
    rows = squared_error(scaled_pixels(jnp.asarray(DATA.images)), made)
    np.testing.assert_allclose(rows, error_oracle(DATA.images, made), rtol=1e-5)


@pytest.mark.parametrize("name", ["eae", "vae"])
def test_diverged_predictions(name):
    task = MODELS[name].task
    code, bad = np.zeros(3, np.float32), np.float32([0, np.nan, 0])
    rest = (code,) if name == "vae" else ()
    good = ImageCode(np.float32(1), code, *rest)
    for row in (
        good._replace(code=bad),
        good._replace(squared_error=np.float32("inf")),
    ):
        with pytest.raises(InputError, match="lower the learning rate"):
            task.score([good, good, row], DATA.take(range(3)))


def test_too_few_images_for_an_entropy():
    rows = [ImageCode(np.float32(1), np.zeros(3, np.float32))] * 2
    with pytest.raises(InputError, match="more than 2 of them, and the split has 2"):
        MODELS["eae"].task.score(rows, DATA.take(range(2)))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_bad_weights(weight):
    with pytest.raises(ValueError, match=r"entropy_weight must lie in \[0, inf\)"):
        make_eae(CONFIG, entropy_weight=weight)
    with pytest.raises(ValueError, match=r"beta must lie in \[0, inf\)"):
        make_vae(CONFIG, beta=weight)


# -- Training


@pytest.mark.parametrize("name", ["eae", "vae"])
def test_overfits_real_images(name):
    digits = read_mnist_subset().take(range(0, 5000, 313))
    config = AutoencoderConfig(image_shape=(28, 28, 1), hidden=(64,))
    eae = name == "eae"
    task = (
        make_eae(config, entropy_weight=0.1) if eae else make_vae(config, beta=0.01)
    ).task
    initial = drawn(jax.eval_shape(task.init, jax.random.key(0)))
    settings = FitConfig(steps=80, batch_size=16)
    result = fit(task, adax(3e-2, l2=0.0), digits, settings, initial=initial)
    scores, _ = evaluate(task, result.params, result.state, digits, 16)
    pixels = digits.images / 255
    variation = np.square(pixels - pixels.mean(0)).sum((1, 2, 3)).mean()
    assert scores["reconstruction"] < variation / 10
