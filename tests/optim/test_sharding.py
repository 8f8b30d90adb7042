"""States of optimizers split over eight host devices."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.tpu_compile import COLLECTIVE
from zlpr_jax.optim import (
    Factoring,
    adafactor,
    adax,
    adaxw,
    factored_adax,
    state_shardings,
)

SMALL = Factoring(
    min_dim=4,
    axes=lambda path, shape: ("batch", "row", "col") if "layers" in path else None,
)
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}

MODEL = {
    "attention": {"query": ((16, 4, 2), P(None, "x"))},
    "embedding": ((16, 8), P(("x", "y"))),
    "square": ((8, 8), P("x", "y")),
    "layers": ((2, 8, 4), P(None, "x", "y")),
    "bias": ((8,), P("y")),
    "whole": ((4, 8), P()),
}
OPTIMIZERS = {
    "adafactor": lambda: adafactor(factoring=SMALL, momentum=0.9, weight_decay=0.1),
    "adax": adax,
    "adaxw": adaxw,
    "factored_adax": lambda: factored_adax(factoring=SMALL),
}


def grid(kind="auto"):
    devices = np.array(jax.devices()).reshape(4, 2)
    return Mesh(devices, ("x", "y"), axis_types=(KINDS[kind],) * 2)


def is_described(node):
    return isinstance(node, tuple)


def shardings_of(model, mesh):
    def sharding(described):
        shape, spec = described
        # As jax writes it: on explicit axes with one entry for each axis of the array.
        if AxisType.Explicit in mesh.axis_types:
            spec = at_full_length(spec, np.empty(shape))
        return NamedSharding(mesh, spec)

    return jax.tree.map(sharding, model, is_leaf=is_described)


def arrays_of(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda described: np.asarray(rng.normal(size=described[0]), np.float32),
        model,
        is_leaf=is_described,
    )


def by_path(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def specs_of(shardings):
    assert all(isinstance(s, NamedSharding) for s in jax.tree.leaves(shardings))
    return {path: tuple(sharding.spec) for path, sharding in by_path(shardings).items()}


def second_moments(state):
    return optax.tree.get(state, "SecondMomentState").nu


def in_one_link(paths):
    """Without the place of a transformation in its chain."""
    short = {re.sub(r"^(\d+/)+", "", path): value for path, value in paths.items()}
    assert len(short) == len(paths)
    return short


def at_full_length(spec, leaf):
    return P(*spec, *[None] * (leaf.ndim - len(spec)))


def update(tx, params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("kind", KINDS)
def test_row_and_column_means_by_role(kind):
    model = MODEL | {
        "kernel": ((768, 12, 64), P(None, "x")),
        "out": ((4, 2, 16), P("x", None, "y")),
        "scale": ((), P()),
        # Parameters of one name, with one of them inside.
        "inner": {"bias": ((8,), P("x"))},
        # Its row is as long as, and has the name of, another parameter.
        "head": ((8, 8), P(None, "y")),
        "row": ((8,), P("x")),
    }
    tx, params, mesh = adafactor(factoring=SMALL), arrays_of(model), grid(kind)
    placed = state_shardings(tx, params, shardings_of(model, mesh))
    assert all(sharding.mesh == mesh for sharding in jax.tree.leaves(placed))
    state = jax.eval_shape(tx.init, params)
    specs = jax.tree.map(lambda s, leaf: at_full_length(s.spec, leaf), placed, state)
    expected = {
        "attention/query/row": (),
        "attention/query/col": ("x",),
        "bias": ("y",),
        "inner/bias": ("x",),
        "embedding/row": (("x", "y"),),
        "embedding/col": (),
        "head/row": (),
        "head/col": ("y",),
        "kernel/row": (),
        "kernel/col": ("x",),
        "layers/row": (None, "x"),
        "layers/col": (None, "y"),
        "out/row": ("x",),
        "out/col": ("y",),
        "row": ("x",),
        "scale": (),
        "square/row": ("x",),
        "square/col": ("y",),
        "whole/row": (),
        "whole/col": (),
    }
    lengths = by_path(second_moments(state))
    assert by_path(second_moments(specs)) == {
        path: at_full_length(spec, lengths[path]) for path, spec in expected.items()
    }


@functools.cache
def three_steps_on_one_device(name):
    tx, params = OPTIMIZERS[name](), arrays_of(MODEL)
    state = tx.init(params)
    step = jax.jit(lambda *arguments: update(tx, *arguments))
    for seed in (1, 2, 3):
        params, state = step(params, state, arrays_of(MODEL, seed))
    return params, state


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adafactor", "auto"),
        ("adafactor", "explicit"),
        ("adax", "auto"),
        ("adaxw", "explicit"),
        ("factored_adax", "auto"),
    ],
)
def test_steps_on_eight_devices(name, kind):
    tx, shardings = OPTIMIZERS[name](), shardings_of(MODEL, grid(kind))
    params = jax.device_put(arrays_of(MODEL), shardings)
    placed = state_shardings(tx, params, shardings)
    state = jax.jit(tx.init, out_shardings=placed)(params)
    where = by_path((shardings, placed))

    step = jax.jit(lambda *a: update(tx, *a), donate_argnums=(0, 1))
    text = step.lower(params, state, params).compile().as_text()
    factored = name in ("adafactor", "factored_adax")
    assert set(COLLECTIVE.findall(text)) == ({"all-reduce"} if factored else set())
    for seed in (1, 2, 3):
        before = (params, state)
        assert by_path(jax.tree.map(lambda a: a.sharding, before)) == where
        grads = jax.device_put(arrays_of(MODEL, seed), shardings)
        params, state = step(params, state, grads)
        assert all(array.is_deleted() for array in jax.tree.leaves(before))
    assert by_path(jax.tree.map(lambda a: a.sharding, (params, state))) == where
    assert step._cache_size() == 1
    chex.assert_trees_all_close(
        (params, state), three_steps_on_one_device(name), rtol=1e-6, atol=1e-6
    )


PAIR = {"square": ((8, 8), P("x", "y")), "inner": {"bias": ((8,), P("y"))}}
WRAPPED = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "masked": lambda tx: optax.masked(tx, {"square": True, "inner": {"bias": False}}),
    "masked_by_rank": lambda tx: optax.masked(
        tx, lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    ),
    "multi_steps": lambda tx: optax.MultiSteps(tx, every_k_schedule=2),
    "multi_steps_in_a_chain": lambda tx: optax.chain(
        optax.MultiSteps(tx, every_k_schedule=2).gradient_transformation()
    ),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(
        lambda learning_rate: optax.chain(tx, optax.scale(learning_rate))
    )(optax.constant_schedule(0.1)),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "partition": lambda tx: optax.partition(
        {"matrix": tx, "vector": optax.adamw(1e-3)},
        {"square": "matrix", "inner": {"bias": "vector"}},
    ),
    "with_adamw": lambda tx: optax.chain(tx, optax.adamw(1e-3)),
    "with_ema": lambda tx: optax.chain(tx, optax.ema(0.9)),
    "with_noise": lambda tx: optax.chain(optax.add_noise(0.1, 0.5, 0), tx),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_in_other_transformations(name):
    tx = WRAPPED[name](adafactor(factoring=SMALL, momentum=0.9))
    params, mesh = arrays_of(PAIR), grid()
    shardings = shardings_of(PAIR, mesh)
    placed = state_shardings(tx, params, shardings)
    state = jax.jit(tx.init, out_shardings=placed)(params)
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    ends = {"square/row": "x", "square/col": "y", "square": ("x", "y"), "bias": "y"}
    found = set()
    for path, sharding in by_path(placed).items():
        end = next((end for end in ends if path.endswith(end)), None)
        expected = P(*ends[end]) if end else P()
        assert sharding == NamedSharding(mesh, expected), path
        found.add(end)
    assert found >= {"square/row", "square/col", "square", None}
    assert ("bias" in found) == (not name.startswith("masked"))
    # Shapes are enough, and an outer mesh makes no difference.
    shapes = jax.eval_shape(lambda: arrays_of(PAIR))
    with jax.set_mesh(mesh):
        assert state_shardings(tx, shapes, shardings) == placed


def test_states_of_other_libraries():
    tx = optax.adafactor(1e-3, min_dim_size_to_factor=4)
    params, mesh = arrays_of(PAIR), grid()
    placed = state_shardings(tx, params, shardings_of(PAIR, mesh))
    specs = specs_of(placed)
    state = jax.jit(tx.init, out_shardings=placed)(params)
    assert {
        path.partition("/")[2]: specs[path]
        for path, array in by_path(state).items()
        if array.size > 1
    } == {"v_row/square": ("x",), "v_col/square": ("y",), "v/inner/bias": ("y",)}
    assert all(specs[path] == () for path, a in by_path(state).items() if a.size == 1)


def computed_at_once(param):
    with jax.ensure_compile_time_eval():
        zero = jnp.ones(()) - 1
    return jnp.zeros_like(param) + zero


@pytest.mark.parametrize(
    ("like", "followed"),
    [
        (lambda p: np.zeros(p.shape, np.float32), True),
        (lambda p: jnp.zeros(p.shape), True),
        # Not along an axis that is split.
        (jnp.sort, False),
        # Not with the devices of a mesh of shapes.
        (computed_at_once, False),
    ],
    ids=["numpy", "by shape", "sort", "at once"],
)
def test_what_jax_cannot_follow(like, followed):
    def init(params):
        likes = jax.tree.map(like, params)
        return {"like": likes, "sum": jax.tree.map(lambda a: a.sum(0), likes)}

    other = optax.GradientTransformation(init, lambda u, s, _=None: (u, s))
    tx = optax.chain(other, adafactor(factoring=SMALL, momentum=0.9))
    params = arrays_of(PAIR)
    placed = state_shardings(tx, params, shardings_of(PAIR, grid()))
    state = jax.jit(tx.init, out_shardings=placed)(params)
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    specs = specs_of(placed)
    momentum = specs_of(optax.tree.get(placed, "MomentumState").mu)
    assert momentum == {"square": ("x", "y"), "inner/bias": ("y",)}
    assert specs["0/like/square"] == ("x", "y")
    assert specs["0/like/inner/bias"] == ("y",)
    assert specs["0/sum/square"] == ()
    row = optax.tree.get(placed, "row")
    assert tuple(row.spec) == (("x",) if followed else ())


class Partitioned(nnx.Module):
    def __init__(self, rngs):
        kernel = nnx.with_partitioning(nnx.initializers.normal(), ("x", "y"))
        self.linear = nnx.Linear(8, 8, kernel_init=kernel, rngs=rngs)


def test_parameters_in_boxes():
    mesh = grid()
    with jax.set_mesh(mesh):
        model = nnx.eval_shape(lambda: Partitioned(nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)
    boxed = nnx.get_named_sharding(params, mesh)
    bare = jax.tree.map(
        lambda box: box.get_value(),
        boxed,
        is_leaf=lambda node: isinstance(node, nnx.Variable),
    )
    tx = optax.chain(adafactor(factoring=SMALL, momentum=0.9), optax.adamw(1e-3))
    placed = state_shardings(tx, params, boxed)
    assert state_shardings(tx, params, bare) == placed
    lowered = jax.jit(tx.init, out_shardings=placed).lower(params)
    assert jax.tree.structure(placed) == lowered.out_tree
    split = {path: spec for path, spec in specs_of(placed).items() if spec}
    assert in_one_link(split) == {
        "nu/linear/kernel/row": ("x",),
        "nu/linear/kernel/col": ("y",),
        "mu/linear/kernel": ("x", "y"),
        "mu/linear/kernel/value": ("x", "y"),
        "nu/linear/kernel/value": ("x", "y"),
    }


def test_nnx_optimizer_with_partitioned_kernels():
    tx = adafactor(factoring=SMALL, momentum=0.9)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.sum((m.linear(jnp.ones((2, 8))) - 1) ** 2))
        optimizer.update(model, grads(model))

    with jax.set_mesh(grid()):
        model = Partitioned(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        before = np.array(model.linear.kernel[...])
        step(model, optimizer)
        step(model, optimizer)
    after = model.linear.kernel[...]
    assert after.sharding.spec == P("x", "y")
    assert np.isfinite(after).all()
    assert (np.abs(after - before) > 0).all()
    arrays = by_path(nnx.state(optimizer))
    got = {
        path: tuple(array.sharding.spec)
        for path, array in arrays.items()
        if "kernel" in path
    }
    assert sorted(got.values()) == [("x",), ("x", "y"), ("y",)]


def test_none_scalars_and_empty_arrays():
    mesh = grid()
    params = {"none": None, "scalar": jnp.ones(()), "empty": jnp.zeros((0, 3))}
    shardings = {
        "none": None,
        "scalar": NamedSharding(mesh, P()),
        "empty": NamedSharding(mesh, P("x")),
    }
    for tx in (adafactor(factoring=SMALL), adax()):
        placed = state_shardings(tx, params, shardings)
        assert jax.tree.structure(placed) == jax.tree.structure(tx.init(params))


def test_one_array_on_a_mesh_of_shapes():
    mesh = AbstractMesh((4, 2), ("x", "y"))
    whole = NamedSharding(mesh, P("x", "y"))
    struct = jax.ShapeDtypeStruct((8, 8), jnp.bfloat16)
    nu = second_moments(state_shardings(adafactor(factoring=SMALL), struct, whole))
    assert nu.row == NamedSharding(mesh, P("x"))
    assert nu.col == NamedSharding(mesh, P("y"))
    assert second_moments(state_shardings(adax(), struct, whole)) == whole


def test_moments_stay_in_the_memory_of_their_parameter():
    mesh = grid()
    host = NamedSharding(mesh, P("x", "y"), memory_kind="pinned_host")
    tx = adafactor(factoring=SMALL, momentum=0.9)
    placed = state_shardings(tx, jnp.ones((8, 8)), host)
    assert optax.tree.get(placed, "MomentumState").mu == host
    assert optax.tree.get(placed, "row") == NamedSharding(mesh, P("x"))


@pytest.mark.parametrize("kind", KINDS)
def test_outside_of_jit_the_state_of_placed_parameters_is_placed_too(kind):
    mesh = grid(kind)
    placed = shardings_of(MODEL, mesh)
    params = jax.device_put(arrays_of(MODEL), placed)
    tx = adafactor(factoring=SMALL)
    moments = tx.init(params)[0].nu
    expected = state_shardings(tx, params, placed)[0].nu
    for moment, sharding in zip(
        jax.tree.leaves(moments), jax.tree.leaves(expected), strict=True
    ):
        assert moment.sharding.is_equivalent_to(sharding, moment.ndim)
