"""Blocks against NumPy, and the stack against a loop."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.nn import oracles
from zlpr_jax.nn import (
    Attention,
    Block,
    DotProductScores,
    FixedRandomScores,
    Places,
    Stack,
    causal_mask,
    functionalize,
)

WIDTH, HEADS, LENGTH, LAYERS = 8, 2, 5, 3


def block(rngs, norm="pre", dropout=0.0, activation=jax.nn.gelu):
    scores = [
        DotProductScores(WIDTH, HEADS, rngs=rngs),
        FixedRandomScores(HEADS, LENGTH, rngs=rngs),
    ]
    attention = Attention(WIDTH, HEADS, scores, rngs=rngs)
    return Block(
        WIDTH,
        2 * WIDTH,
        attention,
        norm=norm,
        epsilon=0.01,
        dropout=dropout,
        activation=activation,
        rngs=rngs,
    )


def tokens(seed=0, dtype=jnp.float32):
    x = np.random.default_rng(seed).normal(size=(2, LENGTH, WIDTH))
    return jnp.asarray(x, dtype)


def run(module):
    """The module, with a causal mask, in one compilation."""
    return oracles.jit(lambda x, key=None: module(x, mask=causal_mask(LENGTH), key=key))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_block_agrees_with_numpy(norm):
    with jax.enable_x64(True):
        module = oracles.noisy(lambda: block(oracles.rngs(), norm), dtype=np.float64)
        x = tokens(dtype=jnp.float64)
        got = run(module)(x)
        assert got.dtype == jnp.float64
    w, x = oracles.weights(module), np.asarray(x)
    mask = np.tril(np.ones((1, 1, LENGTH, LENGTH), bool))
    slots = np.tile(np.arange(LENGTH), (2, 1))

    def attention(x):
        own = w["attention"]
        logits = [
            oracles.dot_logits(own["scores"][0], x, HEADS, slots),
            np.broadcast_to(own["scores"][1]["matrix"], (2, HEADS, LENGTH, LENGTH)),
        ]
        return oracles.attention(own, x, logits, mask, slots)

    def network(x):
        return oracles.linear(oracles.gelu(oracles.linear(x, w["hidden"])), w["output"])

    first, second = (
        lambda x, name=name: oracles.layer_norm(x, w[name], 0.01)
        for name in ("attention_norm", "output_norm")
    )
    if norm == "pre":
        x = x + attention(first(x))
        x = x + network(second(x))
    else:
        x = first(x + attention(x))
        x = second(x + network(x))
    np.testing.assert_allclose(got, x, atol=1e-12)


def test_another_activation():
    plain, relu = (
        run(oracles.noisy(lambda a=activation: block(oracles.rngs(), activation=a)))(
            tokens()
        )
        for activation in (jax.nn.gelu, jax.nn.relu)
    )
    assert np.abs(plain - relu).max() > 0.01


def test_blocks_give_what_they_remember():
    module = oracles.noisy(lambda: block(oracles.rngs()))
    x = tokens()
    y, memory = module.remember_and_attend(x, mask=causal_mask(LENGTH))
    np.testing.assert_allclose(y, run(module)(x), atol=1e-5)
    expected = module.attention.remember(module.attention_norm(x))
    chex.assert_trees_all_close(memory, expected, atol=1e-6)
    # the last token, with all that is remembered
    y, same = module.remember_and_attend(
        x[:, -1:],
        memory=lambda new: memory,
        places=Places(jnp.full((2, 1), LENGTH - 1)),
    )
    assert same is memory
    np.testing.assert_allclose(y[:, 0], run(module)(x)[:, -1], atol=1e-5)


# -- Stack


def stack(**flags):
    def make(rngs):
        return block(rngs, **flags)

    return oracles.noisy(lambda: Stack(LAYERS, make, rngs=oracles.rngs()))


def test_scan_is_the_loop():
    module, x = stack(), tokens()
    expected = x
    for one in module.unstacked():
        expected = run(one)(expected)
    np.testing.assert_allclose(run(module)(x), expected, atol=1e-5)


def test_places_and_masks_reach_the_blocks():
    """The first two of a row are padding, and there is something else before it."""
    module, x = stack(), tokens()[:, : LENGTH - 2]
    mask = causal_mask(LENGTH - 2)
    expected = oracles.jit(lambda x: module(x, mask=mask))(x)
    mask = causal_mask(LENGTH) & (jnp.arange(LENGTH) >= 2)[None, None]
    positions = jnp.tile(jnp.array([[0, 0, 0, 1, 2]]), (2, 1))
    places = Places(positions, positions)
    padded = jnp.pad(x, [(0, 0), (2, 0), (0, 0)], constant_values=9)
    got = oracles.jit(lambda x: module(x, mask=mask, places=places))(padded)
    np.testing.assert_allclose(got[:, 2:], expected, atol=1e-5)


def test_layers_begin_differently():
    def init(key):
        made = Stack(LAYERS, block, rngs=nnx.Rngs(key))
        return functionalize(made)[1:]

    init = oracles.jit(init)
    arrays = init(jax.random.key(0))
    layers = [jax.tree.map(lambda x: x[layer], arrays) for layer in range(LAYERS)]
    for one, other in itertools.combinations(layers, 2):
        params, state = jax.tree.map(lambda a, b: (a != b).any(), one, other)
        blocks = params["blocks"]
        for kernel in (
            blocks["hidden"]["kernel"],
            blocks["attention"]["value"]["kernel"],
            blocks["attention"]["scores"][0]["query"]["kernel"],
            *jax.tree.leaves(state),
        ):
            assert kernel
    # as a block alone: variance 1 / inputs
    for params, _ in layers:
        deviation = params["blocks"]["hidden"]["kernel"].std() * WIDTH**0.5
        np.testing.assert_allclose(deviation, 1, rtol=0.3)
    chex.assert_trees_all_equal(init(jax.random.key(0)), arrays)


def test_rematerialisation_changes_nothing_but_memory():
    def loss_of(length, **flags):
        def make(rngs):
            scores = [DotProductScores(WIDTH, HEADS, rngs=rngs)]
            attention = Attention(WIDTH, HEADS, scores, rngs=rngs)
            return Block(WIDTH, 2 * WIDTH, attention, rngs=rngs)

        module = Stack(6, make, rngs=oracles.rngs(), **flags)
        apply, params, state = functionalize(module)
        x = jnp.float32(np.random.default_rng(0).normal(size=(1, length, WIDTH)))

        def loss(params, x):
            y, _ = apply(params, state, x, mask=causal_mask(length))
            return (y**2).mean()

        step = oracles.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        compiled = step.lower(params, x).compile()
        temporary = compiled.memory_analysis().temp_size_in_bytes
        return compiled(params, x), temporary

    plain, much = loss_of(128)
    remat, less = loss_of(128, remat=True)
    chex.assert_trees_all_close(plain, remat, rtol=1e-4, atol=1e-6)
    assert less < much / 2


def test_no_layer():
    with pytest.raises(ValueError, match="layers must be >= 1, got 0"):
        Stack(0, block, rngs=oracles.rngs())


# -- Dropout


def test_dropout_is_of_the_key():
    module, x = stack(dropout=0.5), tokens()
    of = run(module)
    np.testing.assert_array_equal(of(x), run(stack())(x))  # none without a key
    one, other = jax.random.key(0), jax.random.key(1)
    np.testing.assert_array_equal(of(x, one), of(x, one))
    assert (of(x, one) != of(x, other)).any()
    assert (of(x, one) != of(x)).any()


def test_dropout_keeps_the_mean_of_each_part():
    """Of a block whose attention is 0, and of one whose network is 0."""
    x, keys = tokens(), jax.random.split(jax.random.key(0), 400)
    for silent in ("attention", "network"):
        module = oracles.noisy(lambda: block(oracles.rngs(), dropout=0.25))
        layer = module.attention.output if silent == "attention" else module.output
        layer.kernel[...] *= 0
        if layer.bias is not None:
            layer.bias[...] *= 0

        def added(keys, module=module):
            mask = causal_mask(LENGTH)
            return jax.vmap(lambda key: module(x, mask=mask, key=key) - x)(keys)

        added, whole = oracles.jit(added)(keys), run(module)(x) - x
        scaled = np.isclose(added, whole / 0.75, atol=1e-5)
        dropped = added == 0
        assert (scaled | dropped).all()
        np.testing.assert_allclose(dropped.mean(), 0.25, atol=0.01)


def test_layers_drop_differently():
    """Each of three adds 2, where it drops nothing: one mask would show as 0 or 6."""

    def make(rngs):
        made = block(rngs, dropout=0.5)
        for layer in (made.attention.output, made.output):
            layer.kernel[...] *= 0
        made.output.bias[...] += 1
        return made

    module = Stack(LAYERS, make, rngs=oracles.rngs())
    added = run(module)(tokens(), jax.random.key(3)) - tokens()
    counts = np.asarray(added / 2).round(3)
    assert set(np.unique(counts)) == {0, 1, 2, 3}
