"""What every optimizer promises by itself, whatever its equations."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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
from zlpr_jax.optim import FactoredMoment, adafactor, adax, adaxw, factored_adax


@every
def test_jit_is_eager_and_compiles_once(name):
    tx, *jitted = start(name)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    chex.clear_trace_counter()
    step = jit(chex.assert_max_traces(lambda p, s, g: one_step(tx, p, s, g), n=1))
    grads = [tree(seed) for seed in (1, 2, 3)]
    for grad in grads:
        jitted = step(*jitted, grad)
    assert_moved(tree(), jitted[0])
    chex.assert_trees_all_close(run(name, *grads), tuple(jitted), rtol=1e-5, atol=1e-7)


@every_alias
def test_inject_hyperparams_at_the_defaults_under_jit(name):
    plain, injected = ALIASES[name](), optax.inject_hyperparams(ALIASES[name])()
    params, grads = tree(), tree(1)
    expected = one_step(plain, params, plain.init(params), grads)[0]
    state = jit(injected.init)(params)
    step = jit(lambda p, s, g: one_step(injected, p, s, g))
    got, state = step(params, state, grads)
    chex.assert_trees_all_close(got, expected, rtol=1e-5)
    assert_moved(params, step(got, state, grads)[0])


NUMBERS = {
    "adafactor": {"learning_rate", "clip", "eps", "momentum", "weight_decay"},
    "adax": {"learning_rate", "b1", "b2", "eps", "l2"},
    "adaxw": {"learning_rate", "b1", "b2", "eps", "weight_decay"},
}
NUMBERS["factored_adax"] = NUMBERS["adafactor"] | {"b2", "max_beta2"}


@every_alias
def test_every_number_changes_at_run_time(name):
    momentum = {"momentum": 0.9} if "momentum" in NUMBERS[name] else {}
    tx = optax.inject_hyperparams(ALIASES[name])(learning_rate=1e-2, **momentum)
    params = tree()
    chex.clear_trace_counter()
    step = jit(chex.assert_max_traces(lambda p, s, g: one_step(tx, p, s, g), n=1))
    params, state = step(params, tx.init(params), tree(1))
    change = lambda state: step(params, state, tree(2))[0]["w"] - params["w"]
    usual = change(state)
    assert state.hyperparams.keys() == NUMBERS[name]
    for number in NUMBERS[name]:
        numbers = state.hyperparams | {number: jnp.float32(0.2)}
        other = change(state._replace(hyperparams=numbers))
        assert np.abs(other / usual - 1).max() > 0.01, number


@every
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtypes_of_updates_and_state(name, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        tx, params = OPTIMIZERS[name](), tree(dtype=dtype)
        state = jax.eval_shape(tx.init, params)

        def train(params, state):
            def body(carry, skip):
                # Both branches of a cond, and all turns of a scan, have the same types.
                step = lambda: one_step(tx, *carry, params)
                return jax.lax.cond(skip, lambda: carry, step), None

            return jax.lax.scan(body, (params, state), jnp.zeros(3, bool))[0]

        after = jax.eval_shape(train, params, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, (params, state))
        updates, _ = jax.eval_shape(tx.update, params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        held = jnp.float64 if dtype == jnp.float64 else jnp.float32
        nu = jax.tree.leaves(optax.tree.get(state, "nu"))
        assert all(leaf.dtype == held for leaf in nu)


@every_alias
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_injected_hyperparameters_of_half_precision(name, dtype):
    tx = optax.inject_hyperparams(ALIASES[name])()
    params, grads = tree(dtype=dtype), tree(1, dtype)
    state = tx.init(params)
    updates, after = jit(tx.update)(grads, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (params, state))
    chex.assert_tree_all_finite(updates)


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
def test_zero_gradients_leave_zero_parameters_alone(name):
    tx, params, _ = start(name)
    params = zeros = jax.tree.map(jnp.zeros_like, params)
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(zeros, state, params)
        chex.assert_trees_all_equal(updates, zeros)


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (adaxw, {}),
        (adafactor, {"factoring": SMALL}),
        (adafactor, {"factoring": SMALL, "momentum": 0.9}),
        (factored_adax, {"momentum": 0.9}),
    ],
)
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("injected", [False, True])
def test_weight_decay_is_scaled_by_the_rate_and_masked(
    build, settings, scheduled, injected
):
    rates = [0.5, 0.25, 0.125]
    mask = {"w": True, "inner": {"b": False}}
    schedule = lambda count: jnp.exp2(-1.0 - count.astype(float))
    build = optax.inject_hyperparams(build) if injected else build
    tx = build(schedule if scheduled else 0.5, weight_decay=0.25, mask=mask, **settings)
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


@every
def test_state_mirrors_the_parameters(name):
    tx, params, state = start(name)
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
    updates, _ = jit(tx.update)(grads, tx.init(params), params)
    assert updates["scalar"].shape == ()
    assert float(updates["scalar"]) < 0
    assert updates["empty"].shape == (0, 3)
    assert tx.update({}, tx.init({}), {})[0] == {}


@pytest.mark.parametrize(
    ("build", "bytes_per_parameter"),
    [(adafactor, 37), (factored_adax, 33), (adax, 52), (adaxw, 44)],
)
def test_donated_parameters_and_state_are_updated_in_place(build, bytes_per_parameter):
    tx = build()
    params = {
        "kernel": jax.ShapeDtypeStruct((512, 512), jnp.float32),
        "bias": jax.ShapeDtypeStruct((512,), jnp.float32),
    }
    state = jax.eval_shape(tx.init, params)
    step = jax.jit(lambda p, s, g: one_step(tx, p, s, g), donate_argnums=(0, 1))
    compiled = step.lower(params, state, params).compile()
    size = lambda t: sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(t))
    aliased = compiled.memory_analysis().alias_size_in_bytes
    assert aliased == size(params) + size(state)
    accessed = compiled.cost_analysis()["bytes accessed"]
    assert accessed <= bytes_per_parameter * size(params) / 4


# Steps at a constant relative rate never settle closer than it lets them.
@pytest.mark.parametrize(
    ("build", "rates"),
    [
        (adax, (5e-3, 1e-2)),
        (lambda rate: adaxw(rate, weight_decay=1e-3), (5e-3, 1e-2)),
        (lambda rate: adafactor(rate, factoring=SMALL), (2e-3, 5e-3)),
        (lambda rate: factored_adax(rate, factoring=SMALL), (2e-3, 5e-3)),
    ],
    ids=["adax", "adaxw", "adafactor", "factored_adax"],
)
def test_converges_where_optax_asks_its_optimizers_to(build, rates):
    goal = {
        "parabola": jnp.asarray([1.0, -1.0, 1.0]),
        "rosenbrock": jnp.ones(2),
        "matrix": jnp.asarray([[1.0, 2.0], [3.0, 4.0]]),
    }
    begin = jax.tree.map(jnp.zeros_like, goal)
    begin["parabola"] = jnp.asarray([-1.0, 10.0, 1.0])

    def loss(params):
        gaps = jax.tree.map(lambda p, g: jnp.sum((p - g) ** 2), params, goal)
        x, y = params["rosenbrock"]
        valley = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        return gaps["parabola"] + gaps["matrix"] + valley

    @jax.jit
    @jax.vmap
    def train(rate):
        tx = build(rate)

        def body(carry, _):
            return one_step(tx, *carry, jax.grad(loss)(carry[0])), None

        carry = begin, tx.init(begin)
        return jax.lax.scan(body, carry, length=30_000)[0][0]

    reached = train(jnp.asarray(rates))
    goals = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), goal)
    chex.assert_trees_all_close(reached, goals, atol=3e-2)
