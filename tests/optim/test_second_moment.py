"""The one update rule, its two storages and the rule that chooses between them."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zlpr_jax.optim import (
    Factoring,
    adam_decay,
    adax_decay,
    capped,
    clip_by_block_rms,
    power_decay,
    scale_by_parameter_rms,
    scale_by_second_moment,
)

EVERY = Factoring(min_dim=1)


def run(tx, grads, params=None):
    """Return the updates of every step; `grads` are stacked along the first axis."""
    first = jax.tree.map(lambda g: g[0], grads)
    state = tx.init(first if params is None else params)

    def step(state, grad):
        updates, state = tx.update(grad, state, params)
        return state, updates

    return jax.jit(lambda s, g: jax.lax.scan(step, s, g))(state, grads)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("b2", [0.9, 0.999])
def test_adam_decay_is_optax_adam_without_momentum(b2):
    grads = noise(50, 6, 5)
    ours = run(scale_by_second_moment(adam_decay(b2), eps=1e-8), grads)[1]
    # optax takes 1 - b2^t from a float32 power, which is off by 1e-5: hence float64.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        wide = grads.astype(jnp.float64)
        adam = np.asarray(run(optax.scale_by_adam(b1=0.0, b2=b2, eps=1e-8), wide)[1])
        same = run(scale_by_second_moment(adam_decay(b2), eps=1e-8), wide)[1]
        np.testing.assert_allclose(same, adam, rtol=1e-12)
    np.testing.assert_allclose(ours, adam, rtol=1e-6)


def test_vanishing_growth_is_the_mean_square():
    grads = noise(60, 7)
    ours = run(scale_by_second_moment(adax_decay(1e-12)), grads)[1]
    exact = np.asarray(grads, float)
    mean = np.cumsum(exact**2, axis=0) / np.arange(1, 61)[:, None]
    np.testing.assert_allclose(ours, exact / np.sqrt(mean), rtol=1e-6)


@pytest.mark.parametrize(
    "decay", [adax_decay(), adam_decay(), power_decay(), capped(adax_decay())]
)
@pytest.mark.parametrize("factoring", [None, EVERY])
def test_constant_gradients_leave_the_moment_exactly_at_their_square(decay, factoring):
    grad = jnp.asarray([[0.3, -1.7, 1e-3], [0.3, -1.7, 1e-3]], jnp.float32)
    tx = scale_by_second_moment(decay, factoring=factoring)

    def body(_, state):
        return tx.update(grad, state)[1]

    run_for = jax.jit(lambda n: jax.lax.fori_loop(0, n, body, tx.init(grad)))
    first, last = run_for(1).nu, run_for(5000).nu
    chex.assert_trees_all_equal(last, first)
    if factoring is None:
        np.testing.assert_array_equal(last, np.float32(grad) ** 2)


def test_factored_moments_are_the_means_of_the_dense_ones():
    grads = noise(20, 9, 6)
    dense = run(scale_by_second_moment(adax_decay(0.1)), grads)[0].nu
    factored = run(scale_by_second_moment(adax_decay(0.1), factoring=EVERY), grads)[0]
    np.testing.assert_allclose(factored.nu.row, dense.mean(1), rtol=1e-6)
    np.testing.assert_allclose(factored.nu.col, dense.mean(0), rtol=1e-6)


def test_rank_one_squares_are_rebuilt_exactly():
    grad = noise(8, 1) * noise(1, 5, seed=1)
    update = scale_by_second_moment(power_decay(), factoring=EVERY)
    np.testing.assert_allclose(
        update.update(grad, update.init(grad))[0], jnp.sign(grad), rtol=1e-6
    )


@pytest.mark.parametrize("eps_sq", [0.0, 1e-30])
@pytest.mark.parametrize("factoring", [None, EVERY])
def test_zero_gradients_give_zero_updates(factoring, eps_sq):
    tx = scale_by_second_moment(power_decay(), factoring=factoring, eps_sq=eps_sq)
    leaf = jnp.zeros((3, 6, 5))
    row = leaf.at[:, 1].set(noise(5)[None])
    col = leaf.at[:, :, 2].set(1.0)
    for grads in (leaf, row, col):
        state, updates = run(tx, grads)
        chex.assert_tree_all_finite((state, updates))
        np.testing.assert_array_equal(np.asarray(updates)[np.asarray(grads) == 0], 0)


@pytest.mark.parametrize("factoring", [None, EVERY])
@pytest.mark.parametrize("size", [1e-12, 1e-15, 1e15])
def test_tiny_and_huge_gradients_are_scaled_as_any_other(factoring, size):
    grads = noise(10, 6, 5)
    tx = scale_by_second_moment(power_decay(), factoring=factoring)
    np.testing.assert_allclose(run(tx, grads * size)[1], run(tx, grads)[1], rtol=1e-4)


def test_gradients_below_the_range_of_their_square_give_no_infinity():
    tx = scale_by_second_moment(adax_decay(), b1=0.9)
    updates = run(tx, jnp.full((3, 2), 1e-25))[1]
    np.testing.assert_array_equal(updates, 0)


@pytest.mark.parametrize("factoring", [None, EVERY])
def test_half_precision_gradients_are_squared_in_float32(factoring):
    grads = jnp.full((4, 6, 5), 300, jnp.float16)
    tx = scale_by_second_moment(power_decay(), factoring=factoring)
    state, updates = run(tx, grads)
    assert updates.dtype == jnp.float16
    assert all(nu.dtype == jnp.float32 for nu in jax.tree.leaves(state.nu))
    np.testing.assert_allclose(np.asarray(updates, np.float32), 1, rtol=1e-3)


def test_state_of_bfloat16_parameters_does_not_stall():
    grads = jnp.full((1,), 1.5, jnp.bfloat16)
    tx = scale_by_second_moment(power_decay())
    state = tx.init(grads)._replace(count=jnp.int32(2999), nu=jnp.ones(1, jnp.float32))
    body = lambda _, s: tx.update(grads, s)[1]
    state = jax.jit(lambda s: jax.lax.fori_loop(0, 2000, body, s))(state)
    truth = 1.0
    for step in range(3000, 5000):
        truth += step**-0.8 * (2.25 - truth)
    np.testing.assert_allclose(state.nu, truth, rtol=1e-3)
    assert truth == pytest.approx(2.163, abs=1e-3)


def test_first_moment_is_not_bias_corrected():
    grads = noise(30, 4)
    updates = run(scale_by_second_moment(adax_decay(), b1=0.9, eps=1e-12), grads)[1]
    m, v, exact = np.zeros(4), np.zeros(4), []
    for t, g in enumerate(np.asarray(grads, float), 1):
        m = 0.9 * m + 0.1 * g
        v = (1 + 1e-4) * v + 1e-4 * g**2
        exact.append(m / np.sqrt(v / ((1 + 1e-4) ** t - 1)))
    np.testing.assert_allclose(updates, exact, rtol=1e-5, atol=1e-6)


def test_complex_gradients():
    grads = jax.lax.complex(noise(5, 3), noise(5, 3, seed=1))
    state, updates = run(scale_by_second_moment(power_decay()), grads)
    assert updates.dtype == jnp.complex64
    assert state.nu.dtype == jnp.float32
    np.testing.assert_allclose(jnp.abs(updates[0]), 1, rtol=1e-6)


def test_missing_gradients_leave_the_state_alone():
    params = {"a": jnp.ones(3), "b": {"c": jnp.ones((4, 4))}}
    tx = scale_by_second_moment(power_decay(), factoring=EVERY, b1=0.9)
    state = tx.init(params)
    updates, after = tx.update({"a": jnp.ones(3), "b": {"c": None}}, state)
    assert updates["b"]["c"] is None
    chex.assert_trees_all_equal(after.nu["b"], state.nu["b"])
    chex.assert_trees_all_equal(after.mu["b"], state.mu["b"])


def test_count_stops_at_its_largest_value():
    tx = scale_by_second_moment(adax_decay())
    state = tx.init(jnp.ones(1))._replace(count=jnp.int32(2**31 - 1))
    assert int(tx.update(jnp.ones(1), state)[1].count) == 2**31 - 1


@pytest.mark.parametrize(
    ("shape", "roles"),
    [
        ((), ()),
        ((4096,), (None,)),
        ((0, 512), (None, None)),
        ((127, 512), (None, None)),
        ((128, 512), ("row", "col")),
        ((768, 12, 64), ("row", "col", "col")),
        ((12, 64, 768), ("row", "row", "col")),
        ((3, 3, 512, 256), ("row", "row", "row", "col")),
    ],
)
def test_default_factoring_has_the_smallest_state(shape, roles):
    assert Factoring().roles("path", shape) == roles


def test_factoring_sees_the_path_and_may_leave_a_parameter_to_the_default():
    seen = []

    def axes(path, shape):
        seen.append((path, shape))
        return ("row", "col") if path == "a/0" else None

    params = {"a": [jnp.ones((2, 3)), jnp.ones((2, 3))]}
    state = scale_by_second_moment(power_decay(), factoring=Factoring(axes=axes)).init(
        params
    )
    assert seen == [("a/0", (2, 3)), ("a/1", (2, 3))]
    assert state.nu["a"][0].row.shape == (2,)
    assert state.nu["a"][1].shape == (2, 3)


def test_attention_kernel_is_factored_as_its_matrix():
    grads = noise(5, 16, 4, 8)
    tx = scale_by_second_moment(power_decay(), factoring=Factoring(min_dim=8))
    matrix = run(tx, grads.reshape(5, 16, 32))[1]
    np.testing.assert_allclose(run(tx, grads)[1].reshape(5, 16, 32), matrix, rtol=1e-6)


def test_batch_axis_is_a_loop_over_layers():
    stacked = Factoring(axes=lambda path, shape: ("batch", "row", "col"))
    scale = jnp.asarray([0.01, 0.2, 1.0, 30.0]).reshape(1, 4, 1, 1)
    grads, params = noise(6, 4, 5, 7) * scale, noise(4, 5, 7, seed=2) * scale[0]

    def chain(factoring):
        return optax.chain(
            scale_by_second_moment(power_decay(), factoring=factoring),
            clip_by_block_rms(0.5, factoring=factoring),
            scale_by_parameter_rms(factoring=factoring),
        )

    together = run(chain(stacked), grads, params)[1]
    for layer in range(4):
        alone = run(chain(EVERY), grads[:, layer], params[layer])[1]
        np.testing.assert_allclose(together[:, layer], alone, rtol=1e-6)


@pytest.mark.parametrize("factoring", [None, EVERY])
@pytest.mark.parametrize(
    "settings", [{"eps_sq": 1e-30}, {"eps": 0.1}, {"b1": 0.9}, {"b1": 0.9, "eps": 0.1}]
)
def test_clipping_inside_is_clipping_afterwards(factoring, settings):
    scale = jnp.asarray([1e-3, 1.0, 50.0, 1.0, 1e3, 1e-2]).reshape(6, 1, 1)
    grads = noise(6, 5, 7) * scale
    moment = partial(
        scale_by_second_moment, power_decay(), factoring=factoring, **settings
    )
    together = run(moment(clip=0.05), grads)[1]
    apart = run(optax.chain(moment(), clip_by_block_rms(0.05)), grads)[1]
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    assert not np.allclose(apart, run(moment(), grads)[1], rtol=0.1)


def test_penalty_is_part_of_the_gradient():
    grads, params = noise(6, 5, 7), noise(5, 7, seed=1)
    moment = partial(scale_by_second_moment, power_decay(), factoring=EVERY, clip=0.5)
    inside = run(moment(l2=0.25), grads, params)[1]
    added = run(moment(), grads + 0.25 * params[None], params)[1]
    np.testing.assert_allclose(inside, added, rtol=1e-5)


def test_state_holds_no_placeholders():
    params = {"kernel": jnp.ones((128, 256)), "bias": jnp.ones(256)}
    state = scale_by_second_moment(power_decay(), factoring=Factoring()).init(params)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state))
    assert sizes == [1, 128, 256, 256]
