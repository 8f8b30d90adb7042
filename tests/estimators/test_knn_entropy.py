"""The estimator against KD-trees, closed forms and the identities that hold exactly."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln
from scipy.stats import differential_entropy
from sklearn.neighbors import KDTree

from zlpr_jax.estimators import (
    gaussian_entropy_bound,
    gaussian_knn_entropy,
    gaussian_radius,
    radius_statistics,
)
from zlpr_jax.estimators import knn_entropy as eager_knn_entropy

knn_entropy = jax.jit(
    eager_knn_entropy, static_argnames=("k", "metric", "block_size", "axis_name")
)


def oracle(samples, k=1, metric="euclidean"):
    """The estimate in float64, neighbours found by a KD-tree."""
    tree = KDTree(samples, metric=metric)
    distance = tree.query(samples, k + 1)[0][:, k]
    return of_distances(distance, samples.shape[1], k, metric)


def of_distances(distance, d, k=1, metric="euclidean"):
    """The estimate from the distance of each sample to its k-th neighbour."""
    ball = d / 2 * np.log(np.pi) - gammaln(d / 2 + 1)
    volume = ball if metric == "euclidean" else d * np.log(2)
    constant = digamma(len(distance)) - digamma(k) + volume
    return constant + d * np.log(distance).mean()


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    ("d", "k", "block_size", "metric"),
    [
        (1, 1, None, "chebyshev"),
        (5, 3, 7, "euclidean"),
        (5, 1, 1000, "euclidean"),
        (16, 2, 100, "chebyshev"),
        (130, 4, None, "chebyshev"),
        (130, 1, 64, "euclidean"),
    ],
)
def test_equals_a_kd_tree(d, k, block_size, metric):
    samples = normal(d, 300, d) * np.geomspace(0.1, 10, d)
    expected = oracle(samples, k, metric)
    with jax.enable_x64(True):
        wide = jnp.asarray(samples)
        value = knn_entropy(wide, k, metric=metric, block_size=block_size)
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, expected, rtol=1e-10)
    single = samples.astype(np.float32)
    value = knn_entropy(jnp.asarray(single), k, metric=metric, block_size=block_size)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, oracle(single.astype(float), k, metric), 1e-4)


def test_near_pairs_far_from_the_origin():
    """|x|^2 - 2xy + |y|^2 would not know the nearest of these."""
    samples = (1000 + normal(0, 400, 4) * 0.01).astype(np.float32)
    value = knn_entropy(jnp.asarray(samples))
    np.testing.assert_allclose(value, oracle(samples.astype(float)), 1e-4)


def test_published_value_of_another_estimator():
    """SciPy's is by spacings in one dimension: the same quantity, loosely."""
    samples = normal(0, 4000, 1)
    expected = differential_entropy(samples[:, 0])
    np.testing.assert_allclose(knn_entropy(jnp.asarray(samples)), expected, atol=0.06)


@pytest.mark.parametrize(("metric", "k"), [("euclidean", 3), ("chebyshev", 1)])
def test_gradient(metric, k):
    samples = normal(1, 200, 6)
    with jax.enable_x64(True):
        z = jnp.asarray(samples)
        estimate = functools.partial(eager_knn_entropy, k=k, metric=metric)
        gradient = jax.jit(jax.grad(estimate))(z)
        # scaling, translation and the difference quotient of the oracle
        np.testing.assert_allclose((z * gradient).sum(), 6, rtol=1e-10)
        np.testing.assert_allclose(gradient.sum(0), np.zeros(6), atol=1e-10)
        along = normal(2, 200, 6)
        up, down = (oracle(samples + h * along, k, metric) for h in (1e-6, -1e-6))
        difference = (up - down) / 2e-6
        np.testing.assert_allclose((gradient * along).sum(), difference, rtol=1e-5)
    estimate = functools.partial(estimate, block_size=30)
    gradient = jax.jit(jax.grad(estimate))(jnp.asarray(samples, jnp.float32))
    np.testing.assert_allclose((samples * gradient).sum(), 6, rtol=1e-5)
    np.testing.assert_allclose(gradient.sum(0), np.zeros(6), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 7.0, 1e30])
def test_scale(scale):
    samples = jnp.asarray(normal(3, 256, 8), jnp.float32)
    moved = knn_entropy(samples * scale) - 8 * np.log(scale)
    np.testing.assert_allclose(moved, knn_entropy(samples), rtol=1e-5)


def test_rotation_and_translation():
    samples = normal(4, 500, 8)
    turn, _ = np.linalg.qr(normal(5, 8, 8))
    moved = (samples @ turn + 3).astype(np.float32)
    first = knn_entropy(jnp.asarray(samples, jnp.float32))
    np.testing.assert_allclose(knn_entropy(jnp.asarray(moved)), first, rtol=1e-5)


def standardised_error(draw, expected, count=20_000):
    """The error of the estimate of `count` samples, in its standard errors.

    The error goes down with the root of the number of samples, as that of a mean does:
    32 estimates of 1,000 samples tell it.
    """

    def estimate(seed, count):
        return float(knn_entropy(jnp.asarray(draw(seed, count), jnp.float32)))

    spread = np.std([estimate(seed, 1000) for seed in range(32)], ddof=1)
    return abs(estimate(32, count) - expected) / (spread * (1000 / count) ** 0.5)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_correlated_gaussian(d):
    mixing = np.tril(normal(6, d, d)) + 2 * np.eye(d)
    scale = np.log(np.abs(np.diag(mixing))).sum()
    expected = d / 2 * np.log(2 * np.pi * np.e) + scale
    error = standardised_error(lambda seed, n: normal(seed, n, d) @ mixing.T, expected)
    assert error < 3


@pytest.mark.parametrize("d", [1, 2])
def test_uniform_cube(d):
    draw = lambda seed, n: np.random.default_rng(seed).uniform(size=(n, d))
    assert standardised_error(draw, 0) < 3


@pytest.mark.parametrize(("d", "excess"), [(3, 0.03), (4, 0.09)])
def test_uniform_cube_has_a_surface(d, excess):
    """No neighbours lie beyond it: 3 and 7 standard errors, of 0.01 each, too high.

    On a torus, which has none, the same samples have the entropy 0.
    """
    draws = [np.random.default_rng(seed).uniform(size=(20_000, d)) for seed in range(6)]
    found = knn_entropy(jnp.asarray(draws[0], jnp.float32))
    np.testing.assert_allclose(found, excess, atol=0.03)
    nearest = [cKDTree(z, boxsize=1).query(z, 2)[0][:, 1] for z in draws]
    assert abs(np.mean([of_distances(distance, d) for distance in nearest])) < 0.015


def test_equal_samples_stay_finite():
    z = normal(7, 64, 3).astype(np.float32)
    z[[10, 11]] = z[20]
    value, gradient = jax.jit(jax.value_and_grad(eager_knn_entropy))(z)
    assert np.isfinite(value)
    chex.assert_tree_all_finite(gradient)
    assert not np.any(gradient[10])
    z[10], z[11] = z[10] + 0.1, z[11] - 0.1
    assert value < knn_entropy(jnp.asarray(z))
    assert np.isfinite(knn_entropy(jnp.zeros((64, 3))))


def test_samples_that_do_not_count():
    z = normal(8, 90, 4)
    where = np.arange(90) % 3 > 0
    padded = np.where(where[:, None], z, np.nan).astype(np.float32)
    step = jax.jit(
        jax.value_and_grad(lambda z, where: eager_knn_entropy(z, 2, where=where))
    )
    value, gradient = step(padded, where)
    np.testing.assert_allclose(value, oracle(z[where], 2), rtol=1e-5)
    gradient = np.asarray(gradient)
    assert np.isfinite(gradient).all()
    assert not gradient[~where].any()
    assert np.isnan(step(padded, np.arange(90) < 2)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_show(value):
    z = jnp.asarray(normal(9, 20, 2), jnp.float32)
    assert not jnp.isfinite(knn_entropy(z.at[3, 0].set(value)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_single(dtype):
    z = jnp.asarray(normal(10, 200, 3), dtype)
    value, gradient = jax.jit(jax.value_and_grad(eager_knn_entropy))(z)
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(value, knn_entropy(z.astype(jnp.float32)))


@pytest.mark.parametrize("block_size", [None, 33])
def test_vmap(block_size):
    z = normal(11, 3, 100, 4)
    each = [oracle(part, 2) for part in z]
    estimate = functools.partial(eager_knn_entropy, k=2, block_size=block_size)
    got = jax.jit(jax.vmap(estimate))(z.astype(np.float32))
    np.testing.assert_allclose(got, each, 1e-5)


# -- several devices: 96 samples over 8


SAMPLES = normal(12, 96, 5).astype(np.float32)
MATRIX = normal(13, 5, 5).astype(np.float32)


@pytest.fixture(scope="module")
def one_device():
    """Estimate and gradient by the samples."""
    return jax.jit(jax.value_and_grad(eager_knn_entropy))(SAMPLES)


@pytest.fixture(scope="module")
def of_a_matrix():
    """Estimate and gradient by a parameter, which all samples depend on."""
    loss = lambda matrix: eager_knn_entropy(jnp.tanh(SAMPLES @ matrix), 2)
    return jax.jit(jax.value_and_grad(loss))(MATRIX)


@pytest.mark.parametrize("block_size", [None, 20])
def test_jit_over_sharded_samples(one_device, block_size):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    z = jax.device_put(SAMPLES, NamedSharding(mesh, PartitionSpec("data")))
    value = jax.jit(jax.value_and_grad(lambda z: knn_entropy(z, block_size=block_size)))
    chex.assert_trees_all_close(value(z), one_device, rtol=1e-5)


@pytest.mark.parametrize(("check_vma", "block_size"), [(True, 5), (False, None)])
def test_shard_map(of_a_matrix, check_vma, block_size):
    """The gradient of a parameter: by the samples of all devices."""
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def loss(matrix, z):
        return eager_knn_entropy(
            jnp.tanh(z @ matrix), 2, axis_name="data", block_size=block_size
        )

    def step(matrix, z):
        value, gradient = jax.value_and_grad(loss)(matrix, z)
        if not check_vma:
            gradient = jax.lax.pmean(gradient, "data")
        return value, gradient

    whole = PartitionSpec()
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(whole, PartitionSpec("data")),
        out_specs=(whole, whole),
        check_vma=check_vma,
    )
    got = jax.jit(mapped)(MATRIX, SAMPLES)
    chex.assert_trees_all_close(got, of_a_matrix, rtol=1e-5, atol=1e-5)


def test_pmap(of_a_matrix):
    def step(matrix, z):
        value, gradient = jax.value_and_grad(
            lambda m: eager_knn_entropy(jnp.tanh(z @ m), 2, axis_name="batch")
        )(matrix)
        return value, jax.lax.pmean(gradient, "batch")

    mapped = jax.pmap(step, axis_name="batch", in_axes=(None, 0))
    got = jax.device_get(mapped(MATRIX, SAMPLES.reshape(8, 12, 5)))
    for device in range(8):
        one = jax.tree.map(lambda x: x[device], got)
        chex.assert_trees_all_close(one, of_a_matrix, rtol=1e-5, atol=1e-5)


def test_memory_is_that_of_a_block():
    """60,000 x 60,000 distances would be 14.4 GB."""
    shape = jax.ShapeDtypeStruct((60_000, 16), jnp.float32)
    step = jax.jit(jax.value_and_grad(eager_knn_entropy))
    memory = step.lower(shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 250e6


# -- what estimates are compared with


def test_bound_is_the_entropy_of_a_gaussian():
    variances = np.array([0.5, 1, 4.0])
    expected = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.diag(variances))[1]
    bound = gaussian_entropy_bound(jnp.asarray(variances))
    np.testing.assert_allclose(bound, expected, rtol=1e-6)


def test_reference_is_biased_as_measured():
    """The bias at d = 16 and N = 256 from 200 draws of another program."""
    bound = float(gaussian_entropy_bound(jnp.ones(16)))
    estimates = np.asarray(gaussian_knn_entropy(256, 16, key=jax.random.key(1)))
    assert estimates.shape == (16,)
    assert abs(estimates.mean() - bound - 0.70) < 3 * estimates.std() / 4 + 0.01


def test_radius_of_gaussians():
    for dim in (1, 2, 16):
        z = np.random.default_rng(dim).normal(size=(200_000, dim))
        radii = np.linalg.norm(z, axis=1)
        expected = gaussian_radius(dim)
        np.testing.assert_allclose(expected, (radii.mean(), radii.std()), rtol=5e-3)
        found = radius_statistics(jnp.asarray(z, jnp.float32))
        np.testing.assert_allclose(found, (radii.mean(), radii.std()), rtol=1e-4)


def test_optimised_points_show():
    """The estimate can be gamed; the shell that the points then lie in tells."""

    def codes(z):
        return (z - z.mean(0, keepdims=True)) / z.std(0, keepdims=True)

    def climb(z, _):
        return z + 0.3 * jax.grad(lambda z: eager_knn_entropy(codes(z)))(z), None

    @jax.jit
    def optimised(z):
        points = codes(jax.lax.scan(climb, z, length=2000)[0])
        spreads = (radius_statistics(x).std for x in (points, codes(z)))
        return eager_knn_entropy(points), *spreads

    entropy, spread, spread_before = optimised(normal(0, 100, 16).astype(np.float32))
    gaussian = gaussian_radius(16)
    assert entropy > 8 * np.log(2 * np.pi * np.e) + 2
    assert spread < gaussian.std / 3
    assert abs(spread_before - gaussian.std) < 0.2
