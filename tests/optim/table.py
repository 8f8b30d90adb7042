"""The optimizers of the contract tests, and how these step them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zlpr_jax.optim import (
    Factoring,
    adafactor,
    adam_decay,
    adax,
    adaxw,
    clip_by_block_rms,
    factored_adax,
    power_decay,
    scale_by_second_moment,
)

SMALL = Factoring(min_dim=2)
STACKED = Factoring(
    axes=lambda path, shape: ("batch", "row", "col") if len(shape) == 3 else None
)

OPTIMIZERS = {
    "adafactor": lambda: adafactor(factoring=SMALL),
    "adafactor_dense": lambda: adafactor(
        1e-2, factoring=None, clip=None, parameter_scale=False
    ),
    "adafactor_stacked": lambda: adafactor(factoring=STACKED, momentum=0.9),
    "adafactor_full": lambda: adafactor(
        optax.constant_schedule(1e-2),
        factoring=SMALL,
        momentum=0.9,
        momentum_dtype=jnp.bfloat16,
        stochastic_rounding=True,
        weight_decay=1e-2,
        decay=power_decay(offset=1),
    ),
    "adax": adax,
    "adax_without_momentum": lambda: adax(b1=0.0, l2=0.0),
    "adaxw": adaxw,
    "adaxw_full": lambda: adaxw(
        optax.linear_schedule(1e-2, 0.0, 10),
        mask={"w": True, "inner": {"b": False}},
        mu_dtype=jnp.bfloat16,
    ),
    "factored_adax": lambda: factored_adax(factoring=SMALL),
    "factored_adax_full": lambda: factored_adax(
        1e-2, factoring=SMALL, momentum=0.9, weight_decay=1e-2, max_beta2=None
    ),
    "chain_of_parts": lambda: optax.chain(
        scale_by_second_moment(adam_decay(), factoring=SMALL, b1=0.9),
        clip_by_block_rms(),
        optax.scale_by_learning_rate(1e-2),
    ),
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
    """Parameters or gradients: a stack of two matrices, and a vector."""
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.normal(size=(2, 8, 4)), dtype),
        "inner": {"b": jnp.asarray(rng.normal(size=(8,)), dtype)},
    }


def one_step(tx, params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def jit(function):
    """Compile quickly: that is where these tests spend their time, and not in steps."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function, compiler_options=options)


def start(name):
    """An optimizer of the table, the parameters it begins with, and its state."""
    tx, params = OPTIMIZERS[name](), tree()
    return tx, params, tx.init(params)


def run(name, *gradients, params=None):
    """Return the parameters and the state after a step on each of `gradients`.

    Without `jax.jit`: the operations on these shapes are compiled once for all tests.
    """
    tx, default, _ = start(name)
    params = default if params is None else params
    state = tx.init(params)
    for grads in gradients:
        params, state = one_step(tx, params, state, grads)
    return params, state


def assert_moved(before, after):
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    chex.assert_tree_all_finite(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert not np.array_equal(old, new)
