"""Every optimizer inside the wrappers of optax, the transformations of jax and flax."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import PartitionSpec as P

from tests.optim.table import (
    ALIASES,
    OPTIMIZERS,
    SMALL,
    assert_moved,
    every,
    every_alias,
    jit,
    one_step,
    run,
    start,
    tree,
)
from zlpr_jax.optim import adafactor, adax, adaxw, factored_adax

DEVICES = jax.sharding.Mesh(np.array(jax.devices()), ("device",))


def jitted(tx):
    return jit(lambda params, state, grads: one_step(tx, params, state, grads))


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@every
def test_chain_with_clipping_by_the_global_norm(name):
    tx, params, _ = start(name)
    chain = optax.chain(optax.clip_by_global_norm(0.5), tx)
    params, state = one_step(chain, params, chain.init(params), tree(1))
    share = 0.5 / optax.tree.norm(tree(1))
    clipped = jax.tree.map(lambda g: g * share, tree(1))
    # Most steps are the same for gradients of any size; the moments are not.
    chex.assert_trees_all_close(
        (params, state[1]), run(name, clipped), rtol=1e-5, atol=1e-6
    )


@every_alias
def test_masked_leaves_pass_through(name):
    tx = optax.masked(ALIASES[name](), {"w": True, "inner": {"b": False}})
    updates, _ = tx.update(tree(1), tx.init(tree()), tree())
    np.testing.assert_array_equal(updates["inner"]["b"], tree(1)["inner"]["b"])
    alone = ALIASES[name]()
    w, grad = tree()["w"], tree(1)["w"]
    expected, _ = alone.update(grad, alone.init(w), w)
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("matrices", "rest"),
    [("adafactor", "adax"), ("adafactor_stacked", "adaxw"), ("factored_adax", "adax")],
)
def test_partition_between_two_optimizers(matrices, rest):
    tx = optax.partition(
        {"matrix": OPTIMIZERS[matrices](), "rest": OPTIMIZERS[rest]()},
        lambda params: jax.tree.map(
            lambda p: "matrix" if p.ndim > 1 else "rest", params
        ),
    )
    params, step = tree(), jitted(tx)
    state = jit(tx.init)(params)
    for seed in (1, 2):
        params, state = step(params, state, tree(seed))
    grads = tree(1), tree(2)
    expected = {
        "w": run(matrices, *grads)[0]["w"],
        "inner": run(rest, *grads)[0]["inner"],
    }
    chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-6)


@every
def test_multi_steps_with_bad_gradients_left_out(name):
    tx, params, _ = start(name)
    several = optax.MultiSteps(tx, every_k_schedule=2)
    safe = optax.apply_if_finite(several, max_consecutive_errors=3)
    # MultiSteps itself divides a float32 by an int32.
    with jax.numpy_dtype_promotion("standard"):
        step, state = jitted(safe), safe.init(params)
        between, state = step(params, state, tree(1))
        for value in (jnp.inf, jnp.nan):
            bad = tree(9)
            bad["w"] = bad["w"].at[0, 3, 2].set(value)
            between, state = step(between, state, bad)
        chex.assert_trees_all_equal(between, params)
        assert int(state.total_notfinite) == 2
        params, state = step(params, state, tree(2))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, tree(1), tree(2))
    got = params, state.inner_state.inner_opt_state
    chex.assert_trees_all_close(got, run(name, mean), rtol=1e-5, atol=1e-6)


@every
def test_an_ensemble_trained_by_vmap_and_scan_is_a_loop(name):
    tx, _, _ = start(name)

    def train(params, grads):
        step = lambda carry, grad: (one_step(tx, *carry, grad), None)
        return jax.lax.scan(step, (params, tx.init(params)), grads)[0]

    members = [[tree(seed + member) for seed in (1, 3, 5, 7)] for member in range(2)]
    params = stack([first for first, *_ in members])
    grads = stack([stack(rest) for _, *rest in members])
    together = jit(jax.vmap(train))(params, grads)
    for index, (params, *grads) in enumerate(members):
        got = jax.tree.map(lambda x: x[index], together)
        alone = run(name, *grads, params=params)
        chex.assert_trees_all_close(got, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("mapped", "name"),
    [("shard_map", name) for name in OPTIMIZERS]
    + [("pmap", "adafactor"), ("pmap", "adax")],
)
def test_data_parallel_on_eight_devices(name, mapped):
    assert jax.local_device_count() == 8
    tx, *begin = start(name)
    grads = [tree(seed + 1) for seed in range(8)]

    def step(params, state, grads):
        return one_step(tx, params, state, jax.lax.pmean(grads, "device"))

    if mapped == "pmap":
        everywhere = lambda t: jax.tree.map(lambda x: jnp.stack([x] * 8), t)
        got = jax.pmap(step, "device")(*everywhere(begin), stack(grads))
        got = jax.tree.map(lambda x: x[3], got)
    else:
        # With P() for the results, shard_map verifies that they are replicated.
        each = jax.shard_map(
            lambda p, s, g: step(p, s, jax.tree.map(lambda x: x[0], g)),
            mesh=DEVICES,
            in_specs=(P(), P(), P("device")),
            out_specs=P(),
        )
        got = jit(each)(*begin, stack(grads))
    mean = jax.tree.map(lambda *g: sum(g) / jnp.float32(8), *grads)
    chex.assert_trees_all_close(got, run(name, mean), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["adafactor_dense", "adax", "adax_without_momentum", "adaxw", "adaxw_full"]
)
def test_parameters_split_over_eight_devices(name):
    tx, params, state = start(name)
    specs = {"w": P(None, "device"), "inner": {"b": P("device")}}
    state_specs = optax.tree.map_params(
        tx, lambda _, spec: spec, state, specs, transform_non_params=lambda _: P()
    )
    step = jit(
        jax.shard_map(
            lambda *args: one_step(tx, *args),
            mesh=DEVICES,
            in_specs=(specs, state_specs, specs),
            out_specs=(specs, state_specs),
        )
    )
    for seed in (1, 2):
        params, state = step(params, state, tree(seed))
    assert params["w"].sharding.shard_shape(params["w"].shape) == (2, 1, 4)
    expected = run(name, tree(1), tree(2))
    chex.assert_trees_all_close((params, state), expected, rtol=1e-6, atol=1e-7)


@every_alias
def test_linen_train_state(name):
    model, x = nn.Dense(4), jnp.ones((2, 8))
    params = model.init(jax.random.key(0), x)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=ALIASES[name]())

    @jit
    def step(state):
        loss = lambda p: jnp.sum((state.apply_fn({"params": p}, x) - 1) ** 2)
        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    assert_moved(params, step(step(state)).params)


@pytest.mark.parametrize(
    "build",
    [lambda: adafactor(factoring=SMALL, momentum=0.9), adax, adaxw, factored_adax],
)
def test_nnx_optimizer(build):
    model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, build(), wrt=nnx.Param)
    before = np.array(model.kernel[...])

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.sum((m(jnp.ones((2, 8))) - 1) ** 2))(model)
        optimizer.update(model, grads)

    step(model, optimizer)
    step(model, optimizer)
    after = np.array(model.kernel[...])
    assert np.isfinite(after).all()
    assert not np.array_equal(before, after)
