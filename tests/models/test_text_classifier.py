"""The classifier of texts: pooling by hand, padding, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.nn import oracles
from zlpr_jax.models.bert import BertConfig
from zlpr_jax.models.text_classifier import (
    TextClassifier,
    TextClassifierConfig,
    classifier_rules,
)
from zlpr_jax.nn import functionalize
from zlpr_jax.optim import scale_by_path

ENCODER = BertConfig(
    vocabulary=20, width=8, layers=2, heads=2, hidden=12, max_length=10, pooler=False
)


def config(**changes):
    return TextClassifierConfig(**{"encoder": ENCODER, "labels": 3, **changes})


def texts(seed=0):
    tokens = np.random.default_rng(seed).integers(0, 20, (3, 6))
    where = np.arange(6)[None] < np.array([6, 4, 1])[:, None]
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(where)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_pooling_by_hand(pooling):
    model = oracles.noisy(
        lambda: TextClassifier(config(pooling=pooling), rngs=oracles.rngs())
    )
    tokens, where = texts()
    got = oracles.jit(lambda t, w: model(t, where=w))(tokens, where)
    hidden = np.float64(
        oracles.jit(lambda t, w: model.encoder(t, where=w))(tokens, where)
    )
    if pooling == "first":
        pooled = hidden[:, 0]
    else:
        pooled = np.stack(
            [h[w].mean(0) for h, w in zip(hidden, np.asarray(where), strict=True)]
        )
    weights = oracles.weights(model)["output"]
    np.testing.assert_allclose(
        got, pooled @ weights["kernel"] + weights["bias"], atol=1e-5
    )


def test_padding_changes_nothing():
    model = oracles.noisy(lambda: TextClassifier(config(), rngs=oracles.rngs()))
    tokens, where = texts()
    run = oracles.jit(lambda t, w: model(t, where=w))
    other = jnp.where(where, tokens, 19 - tokens)
    np.testing.assert_array_equal(run(tokens, where), run(other, where))
    wide = jnp.pad(tokens, ((0, 0), (0, 3)))
    np.testing.assert_allclose(
        run(tokens, where), run(wide, jnp.pad(where, ((0, 0), (0, 3)))), atol=1e-5
    )
    nothing = run(tokens, jnp.zeros_like(where))
    np.testing.assert_allclose(nothing, np.tile(model.output.bias[...], (3, 1)))


def test_dropout_needs_a_key():
    model = oracles.noisy(
        lambda: TextClassifier(config(dropout=0.5), rngs=oracles.rngs())
    )
    tokens, where = texts()
    run = oracles.jit(lambda key: model(tokens, where=where, key=key))
    one, other = run(jax.random.key(0)), run(jax.random.key(1))
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(one, run(jax.random.key(0)))


def test_learning_rates_name_every_parameter_of_the_encoder():
    params = functionalize(TextClassifier(config(), rngs=oracles.rngs())).params
    tx = scale_by_path(classifier_rules(config(), decay=0.5, rate=0.25))
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(ones, tx.init(params))
    stack = updates["encoder"]["stack"]["blocks"]["hidden"]["kernel"]
    np.testing.assert_allclose(stack[:, 0, 0], [0.125, 0.25])
    for name in ("tokens", "positions", "token_types", "norm"):
        for leaf in jax.tree.leaves(updates["encoder"][name]):
            np.testing.assert_allclose(leaf, np.full(leaf.shape, 0.0625))
    np.testing.assert_allclose(updates["output"]["bias"], np.ones(3))
