"""States on disk and back: bitwise, also onto another arrangement of the devices."""

import chex
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.optim.table import OPTIMIZERS, every, one_step, run, start, tree
from zlpr_jax.optim import state_shardings

BEFORE, AFTER = (tree(1), tree(2)), (tree(3), tree(4))


def train(name, params, state, grads):
    tx = OPTIMIZERS[name]()
    for grad in grads:
        params, state = one_step(tx, params, state, grad)
    return params, state


def assert_same(got, expected):
    chex.assert_trees_all_equal_structs(got, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    chex.assert_trees_all_equal(got, expected)


@every
def test_msgpack_resumes_bitwise(name):
    _, *fresh = start(name)
    saved = run(name, *BEFORE)
    restored = serialization.from_bytes(tuple(fresh), serialization.to_bytes(saved))
    assert_same(restored, saved)
    # What comes back are NumPy arrays, which a jitted step would take as they are.
    restored = jax.device_put(restored)
    assert_same(train(name, *restored, AFTER), run(name, *BEFORE, *AFTER))


def test_orbax_keeps_the_state_of_every_optimizer(tmp_path):
    fresh = {name: tuple(start(name)[1:]) for name in OPTIMIZERS}
    saved = {name: run(name, *BEFORE) for name in OPTIMIZERS}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "states", fresh)
    assert_same(restored, saved)
    name = "adafactor_full"
    resumed = train(name, *restored[name], AFTER)
    assert_same(resumed, run(name, *BEFORE, *AFTER))


@pytest.mark.parametrize("name", ["adafactor_full", "adaxw_full"])
def test_orbax_restores_onto_another_mesh(name, tmp_path):
    def placed(mesh, specs):
        tx, params, _ = start(name)
        where = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        return where, state_shardings(tx, params, where)

    devices = np.array(jax.devices())
    line = placed(Mesh(devices, "d"), {"w": P(None, "d"), "inner": {"b": P("d")}})
    grid = placed(
        Mesh(devices.reshape(4, 2), ("x", "y")),
        {"w": P("y", None, "x"), "inner": {"b": P("x")}},
    )
    saved = run(name, *BEFORE)
    describe = lambda leaf, where: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=where
    )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", jax.device_put(saved, line))
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(
            tmp_path / "state", jax.tree.map(describe, saved, grid)
        )
    assert_same(restored, saved)
    shards = lambda t: jax.tree.map(lambda x: x.sharding, t)
    assert shards(restored) == grid
    assert restored[0]["w"].sharding.shard_shape((2, 8, 4)) == (1, 8, 1)
    nu = jax.tree.leaves(optax.tree.get(restored[1], "nu")["w"])
    assert all(len(leaf.sharding.device_set) == 8 for leaf in nu)
    assert not any(leaf.sharding.is_fully_replicated for leaf in nu)
    step = jax.jit(lambda *args: train(name, *args), out_shardings=grid)
    got = step(*restored, AFTER)
    chex.assert_trees_all_close(got, run(name, *BEFORE, *AFTER), rtol=1e-5, atol=1e-6)
