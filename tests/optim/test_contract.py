"""What every optimizer promises, whatever its equations."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from zlpr_jax.optim import (
    FactoredMoment,
    Factoring,
    adafactor,
    adam_decay,
    adax,
    adaxw,
    factored_adax,
    power_decay,
    scale_by_second_moment,
)

SMALL = Factoring(min_dim=2)


def plain_chain():
    return optax.chain(
        scale_by_second_moment(adam_decay(), b1=0.9), optax.scale_by_learning_rate(1e-2)
    )


OPTIMIZERS = {
    "adafactor": lambda: adafactor(factoring=SMALL),
    "adafactor_full": lambda: adafactor(
        optax.constant_schedule(1e-2),
        factoring=SMALL,
        momentum=0.9,
        momentum_dtype=jnp.bfloat16,
        weight_decay=1e-2,
        decay=power_decay(offset=1),
    ),
    "adax": adax,
    "adaxw": adaxw,
    "adaxw_schedule": lambda: adaxw(
        optax.linear_schedule(1e-2, 0.0, 10), mask={"w": True, "inner": {"b": False}}
    ),
    "factored_adax": lambda: factored_adax(factoring=SMALL),
    "factored_adax_momentum": lambda: factored_adax(
        1e-2, factoring=SMALL, momentum=0.9, weight_decay=1e-2
    ),
    "chain_of_parts": plain_chain,
}
ALIASES = {
    "adafactor": adafactor,
    "adax": adax,
    "adaxw": adaxw,
    "factored_adax": factored_adax,
}

every = pytest.mark.parametrize("name", OPTIMIZERS)
every_alias = pytest.mark.parametrize("name", ALIASES)


def tree(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.normal(size=(8, 4)), dtype),
        "inner": {"b": jnp.asarray(rng.normal(size=(4,)), dtype)},
    }


def one_step(tx, params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def assert_moved(before, after):
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    chex.assert_tree_all_finite(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert not np.array_equal(old, new)


@every
def test_jit_is_eager_and_compiles_once(name):
    tx, params = OPTIMIZERS[name](), tree()
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    eager = jitted = (params, tx.init(params))
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(lambda p, s, g: one_step(tx, p, s, g), n=1))
    for seed in range(3):
        eager = one_step(tx, *eager, tree(seed + 1))
        jitted = step(*jitted, tree(seed + 1))
    assert_moved(params, jitted[0])
    chex.assert_trees_all_close(eager, jitted, rtol=1e-5, atol=1e-7)


@every
def test_pmap_on_eight_devices(name):
    assert jax.local_device_count() == 8
    tx, params = OPTIMIZERS[name](), tree()
    grads = [tree(seed + 1) for seed in range(8)]

    def step(params, state, grads):
        return one_step(tx, params, state, jax.lax.pmean(grads, "device"))

    replicate = lambda t: jax.tree.map(lambda x: jnp.stack([x] * 8), t)
    got = jax.pmap(step, axis_name="device")(
        replicate(params),
        replicate(tx.init(params)),
        jax.tree.map(lambda *g: jnp.stack(g), *grads),
    )
    mean = jax.tree.map(lambda *g: sum(g) / jnp.float32(8), *grads)
    expected = one_step(tx, params, tx.init(params), mean)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[3], got), expected, rtol=2e-4, atol=1e-6
    )


@every
def test_linen_train_state(name):
    model = nn.Dense(4)
    x = jnp.ones((2, 8))
    params = model.init(jax.random.key(0), x)["params"]
    params = {"w": params["kernel"], "inner": {"b": params["bias"]}}

    def apply(p, x):
        return model.apply({"params": {"kernel": p["w"], "bias": p["inner"]["b"]}}, x)

    state = TrainState.create(apply_fn=apply, params=params, tx=OPTIMIZERS[name]())

    @jax.jit
    def step(state):
        grads = jax.grad(lambda p: jnp.sum(state.apply_fn(p, x) ** 2 + 1e-3))(
            state.params
        )
        return state.apply_gradients(grads=grads)

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


@every_alias
def test_inject_hyperparams_at_the_defaults_under_jit(name):
    plain, injected = ALIASES[name](), optax.inject_hyperparams(ALIASES[name])()
    params, grads = tree(), tree(1)
    expected = one_step(plain, params, plain.init(params), grads)[0]
    state = jax.jit(injected.init)(params)
    step = jax.jit(lambda p, s, g: one_step(injected, p, s, g))
    got, state = step(params, state, grads)
    chex.assert_trees_all_close(got, expected, rtol=1e-5)
    assert_moved(params, step(got, state, grads)[0])


@pytest.mark.parametrize("build", [adax, adaxw, factored_adax])
def test_b2_changes_at_run_time(build):
    tx, params = optax.inject_hyperparams(build)(), tree()
    state = tx.init(params)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(lambda p, s, g: one_step(tx, p, s, g), n=1))
    params, state = step(params, state, tree(1))
    changed = state._replace(
        hyperparams=state.hyperparams | {"b2": jnp.asarray(0.5, jnp.float32)}
    )
    same = step(params, state, tree(2))[1]
    other = step(params, changed, tree(2))[1]
    nu = lambda s: jax.tree.leaves(optax.tree.get(s, "nu"))[0]
    assert not np.allclose(nu(same), nu(other), rtol=1e-3)


@every_alias
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("injected", [False, True])
def test_half_precision_parameters(name, dtype, injected):
    build = ALIASES[name]
    tx = (optax.inject_hyperparams(build) if injected else build)()
    params, grads = tree(dtype=dtype), tree(1, dtype)
    state = tx.init(params)
    updates, after = jax.jit(tx.update)(grads, state, params)
    chex.assert_trees_all_equal_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    chex.assert_tree_all_finite(updates)
    nu = jax.tree.leaves(optax.tree.get(after, "nu"))
    assert all(leaf.dtype == jnp.float32 for leaf in nu)


@every
def test_updates_of_bfloat16_are_those_of_float32_rounded_once(name):
    tx = OPTIMIZERS[name]()
    params, grads = tree(dtype=jnp.bfloat16), tree(1, jnp.bfloat16)
    wide = lambda t: jax.tree.map(lambda x: x.astype(jnp.float32), t)
    got, state = tx.update(grads, tx.init(params), params)
    exact, wide_state = tx.update(wide(grads), tx.init(wide(params)), wide(params))
    chex.assert_trees_all_equal_dtypes(got, params)
    chex.assert_trees_all_close(wide(got), exact, rtol=2**-7)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, wide_state)


@every
def test_float64_parameters(name):
    with jax.enable_x64(True):
        tx, params = OPTIMIZERS[name](), tree(dtype=jnp.float64)
        state = tx.init(params)
        updates, after = jax.jit(tx.update)(tree(1, jnp.float64), state, params)
        chex.assert_trees_all_equal_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        nu = jax.tree.leaves(optax.tree.get(after, "nu"))
        assert all(leaf.dtype == jnp.float64 for leaf in nu)


@every
def test_zero_gradients_leave_zero_parameters_alone(name):
    tx, params = OPTIMIZERS[name](), tree()
    zeros = jax.tree.map(jnp.zeros_like, params)
    params = jax.tree.map(jnp.zeros_like, params)
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(zeros, state, params)
        chex.assert_trees_all_equal(updates, zeros)


@pytest.mark.parametrize(
    "build",
    [
        lambda rate, mask: adaxw(rate, weight_decay=0.25, mask=mask),
        lambda rate, mask: adafactor(
            rate, weight_decay=0.25, mask=mask, factoring=SMALL
        ),
        lambda rate, mask: adafactor(
            rate, weight_decay=0.25, mask=mask, momentum=0.9, factoring=SMALL
        ),
        lambda rate, mask: factored_adax(
            rate, weight_decay=0.25, mask=mask, momentum=0.9
        ),
    ],
)
@pytest.mark.parametrize("scheduled", [False, True])
def test_weight_decay_is_scaled_by_the_rate_and_masked(build, scheduled):
    rates = [0.5, 0.25, 0.125]
    mask = {"w": True, "inner": {"b": False}}
    schedule = lambda count: jnp.exp2(-1.0 - count.astype(float))
    tx = build(schedule if scheduled else 0.5, mask)
    params = tree()
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = tx.init(params)
    for step in range(3):
        updates, state = tx.update(zeros, state, params)
        rate = rates[step] if scheduled else 0.5
        np.testing.assert_array_equal(updates["w"], -rate * 0.25 * params["w"])
        np.testing.assert_array_equal(updates["inner"]["b"], 0)


@pytest.mark.parametrize("build", [adafactor, adaxw, factored_adax])
def test_weight_decay_with_a_mask_function(build):
    tx = build(
        0.5,
        weight_decay=0.25,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    params = tree()
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_array_equal(updates["w"], -0.125 * params["w"])
    np.testing.assert_array_equal(updates["inner"]["b"], 0)


@every_alias
def test_multi_steps(name):
    params, tx = tree(), ALIASES[name]()
    several = optax.MultiSteps(tx, every_k_schedule=2)
    state, update = several.init(params), jax.jit(several.update)
    for _ in range(2):
        # MultiSteps itself divides a float32 by an int32.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = update(tree(1), state, params)
    expected = tx.update(tree(1), tx.init(params), params)[0]
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)


@every_alias
def test_masked_leaves_pass_through(name):
    params = tree()
    mask = {"w": True, "inner": {"b": False}}
    tx = optax.masked(ALIASES[name](), mask)
    updates, _ = jax.jit(tx.update)(tree(1), tx.init(params), params)
    np.testing.assert_array_equal(updates["inner"]["b"], tree(1)["inner"]["b"])
    assert not np.array_equal(updates["w"], tree(1)["w"])


@every
def test_state_mirrors_the_parameters(name):
    tx, params = OPTIMIZERS[name](), tree()
    state = tx.init(params)
    names = optax.tree.map_params(
        tx,
        lambda leaf, name: name,
        state,
        {"w": "w", "inner": {"b": "b"}},
        is_leaf=lambda node: isinstance(node, FactoredMoment),
        transform_non_params=lambda _: None,
    )
    assert optax.tree.get(names, "nu") == {"w": "w", "inner": {"b": "b"}}
    shapes = jax.eval_shape(tx.init, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, state)
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(structs), state)


@every_alias
def test_scalars_empty_arrays_and_empty_trees(name):
    tx = ALIASES[name](1e-2)
    params = {"scalar": jnp.float32(2.0), "empty": jnp.zeros((0, 3)), "none": None}
    grads = {"scalar": jnp.float32(1.0), "empty": jnp.zeros((0, 3)), "none": None}
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    assert updates["scalar"].shape == ()
    assert float(updates["scalar"]) < 0
    assert updates["empty"].shape == (0, 3)
    assert tx.update({}, tx.init({}), {})[0] == {}


@every
def test_descends_on_a_quadratic_inside_scan(name):
    tx, params = OPTIMIZERS[name](), tree()
    target = tree(5)

    def loss(p):
        gaps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), p, target)
        return sum(jax.tree.leaves(gaps))

    def body(carry, _):
        return one_step(tx, *carry, jax.grad(loss)(carry[0])), None

    (trained, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=200))(
        (params, tx.init(params))
    )
    assert loss(trained) < loss(params)
