"""AdaFactor compiled by the TPU compiler, its parameters split over eight chips."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.tpu_compile import COLLECTIVE, INSTALLED, call, devices, spread
from zlpr_jax.optim import Factoring, adafactor, state_shardings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not INSTALLED, reason='needs libtpu, the TPU compiler: pip install -e ".[tpu]"'
    ),
]

# Two layers of a transformer, stacked along the first axis.
MODEL = {
    "embedding": ((32_768, 1024), P("data", "model")),
    "layers": {
        "query": ((2, 1024, 16, 64), P(None, "data", "model")),
        "up": ((2, 1024, 4096), P(None, "data", "model")),
        "down": ((2, 4096, 1024), P(None, "model", "data")),
        "norm": ((2, 1024), P()),
    },
    "square": ((1024, 1024), P("data", "model")),
    "bias": ((4096,), P("model")),
}


def stacked(path, shape):
    if not path.startswith("layers") or len(shape) < 3:
        return None
    return ("batch", "row", *["col"] * (len(shape) - 2))


def program(topology):
    mesh = Mesh(np.array(devices(topology)).reshape(4, 2), ("data", "model"))
    tx = adafactor(
        factoring=Factoring(axes=stacked), momentum=0.9, momentum_dtype=jnp.bfloat16
    )
    params = jax.tree.map(
        lambda described: spread(
            described[0], jnp.bfloat16, NamedSharding(mesh, described[1])
        ),
        MODEL,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    shardings = jax.tree.map(lambda param: param.sharding, params)
    placed = state_shardings(tx, params, shardings)
    state = jax.tree.map(
        lambda leaf, sharding: spread(leaf.shape, leaf.dtype, sharding),
        jax.eval_shape(tx.init, params),
        placed,
    )

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    compiled = step.lower(params, state, params).compile()
    memory = compiled.memory_analysis()
    got = jax.tree_util.tree_leaves_with_path(compiled.output_shardings)
    held = [
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves((params, state))
    ]
    return {
        "collectives": sorted(set(COLLECTIVE.findall(compiled.as_text()))),
        "moved": [
            f"{jax.tree_util.keystr(path)}: {sharding}, not {expected}"
            for (path, sharding), expected in zip(
                got, jax.tree.leaves((shardings, placed)), strict=True
            )
            if sharding != expected
        ],
        "held_mib": sum(held) / 2**20,
        "reused_mib": memory.alias_size_in_bytes / 2**20,
        "temp_mib": memory.temp_size_in_bytes / 2**20,
    }


def test_a_step_on_tpu():
    measured = call(program, "v5e:2x4")
    assert measured["collectives"] == ["all-reduce"]
    assert measured["moved"] == []
    # Parameters and state are donated. Beside them there is no room for one array of
    # float32 like the embedding: 16 MiB on each chip.
    assert measured["reused_mib"] >= measured["held_mib"] > 25
    assert measured["temp_mib"] <= 8
