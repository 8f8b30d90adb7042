"""functionalize: plain dicts that every jax transformation takes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from zlpr_jax.nn import functionalize


class Block(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        x = self.norm(self.linear(x))
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (8, 3))


def test_trees_are_plain_dicts_of_arrays():
    _, params, state = functionalize(Block(rngs=nnx.Rngs(0)))
    assert type(params) is dict
    assert set(params) == {"linear", "norm", "layers"}
    assert set(state) == {"norm"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def test_agrees_with_the_module(x):
    module = Block(rngs=nnx.Rngs(0))
    apply, params, state = functionalize(module)
    output, state = jax.jit(apply)(params, state, x)
    np.testing.assert_allclose(output, module(x), rtol=1e-6, atol=1e-6)
    # batch statistics moved on, as the module's own did
    chex.assert_trees_all_close(state["norm"]["mean"], module.norm.mean[...], rtol=1e-6)
    assert float(jnp.abs(state["norm"]["mean"]).max()) > 0


def test_another_method(x):
    class Scaled(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(jnp.float32(3))

        def __call__(self, x):
            return self.scale[...] * x

        def twice(self, x, *, shift):
            return self(self(x)) + shift

    apply, params, state = functionalize(Scaled(), method="twice")
    output, _ = jax.jit(apply)(params, state, x, shift=1.0)
    np.testing.assert_allclose(output, 9 * x + 1, rtol=1e-6)


def test_the_module_is_left_alone(x):
    module = Block(rngs=nnx.Rngs(0))
    before = np.asarray(module.norm.mean[...])
    apply, params, state = functionalize(module)
    apply(params, state, x)
    np.testing.assert_array_equal(module.norm.mean[...], before)


def test_trains_under_scan(x):
    apply, params, state = functionalize(Block(rngs=nnx.Rngs(0)))
    tx = optax.sgd(0.1)

    def loss(params, state):
        output, state = apply(params, state, x)
        return jnp.mean(output**2), state

    def step(carry, _):
        params, state, opt_state = carry
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), state, opt_state), value

    _, losses = jax.lax.scan(step, (params, state, tx.init(params)), length=20)
    assert losses[-1] < 0.5 * losses[0]


def test_one_trace_for_many_calls(x):
    apply, params, state = functionalize(Block(rngs=nnx.Rngs(0)))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def forward(params, state):
        return apply(params, state, x)

    for _ in range(3):
        _, state = forward(params, state)
