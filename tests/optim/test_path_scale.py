"""Learning rates by path and by layer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from zlpr_jax.optim import adaxw, layerwise_rules, scale_by_path


def params():
    return {
        "encoder": {
            "tokens": jnp.ones((3, 2)),
            "stack": {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((2, 4))},
        },
        "output": {"bias": jnp.ones(4)},
    }


def test_first_rule_that_matches_decides():
    rules = [("^encoder/stack/", (0.25, 0.5)), ("^encoder/", 0.125), ("bias$", 7)]
    tx = scale_by_path(rules)
    updates, state = jax.jit(tx.update)(params(), tx.init(params()))
    assert jax.tree.leaves(state) == []
    layers = np.array([0.25, 0.5])
    np.testing.assert_array_equal(updates["encoder"]["tokens"], np.full((3, 2), 0.125))
    stack = updates["encoder"]["stack"]
    np.testing.assert_array_equal(
        stack["kernel"], np.broadcast_to(layers[:, None, None], (2, 3, 4))
    )
    np.testing.assert_array_equal(
        stack["bias"], np.broadcast_to(layers[:, None], (2, 4))
    )
    np.testing.assert_array_equal(updates["output"]["bias"], np.full(4, 7))


def test_is_a_learning_rate_of_its_own():
    """Behind an optimizer it is that optimizer with other rates, weight decay too."""
    chained = optax.chain(
        adaxw(0.1, weight_decay=0.3), scale_by_path([("^encoder/", 0.5), ("", 1.0)])
    )
    half, whole = adaxw(0.05, weight_decay=0.3), adaxw(0.1, weight_decay=0.3)
    both = optax.partition(
        {"half": half, "whole": whole},
        {"encoder": {"tokens": "half", "stack": "half"}, "output": "whole"},
    )
    got, expected = params(), params()
    states = [chained.init(got), both.init(expected)]
    grads = jax.tree.map(lambda x: jnp.linspace(-1, 2, x.size).reshape(x.shape), got)
    for _ in range(3):
        updates, states[0] = chained.update(grads, states[0], got)
        got = optax.apply_updates(got, updates)
        updates, states[1] = both.update(grads, states[1], expected)
        expected = optax.apply_updates(expected, updates)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_keeps_dtypes_and_boxes(dtype):
    boxed = {"a": nnx.Param(jnp.ones((2, 2), dtype)), "none": None}
    tx = scale_by_path([("^a", (0.5, 2.0))])
    updates, _ = tx.update(boxed, tx.init(boxed))
    assert isinstance(updates["a"], nnx.Param)
    assert updates["a"][...].dtype == dtype
    assert updates["none"] is None
    np.testing.assert_array_equal(
        np.float32(updates["a"][...]), [[0.5, 0.5], [2.0, 2.0]]
    )


def test_wrong_rules_are_refused():
    with pytest.raises(
        ValueError, match="'^decoder' matches no parameter".replace("^", r"\^")
    ):
        scale_by_path([("^decoder", 1.0)]).init(params())
    with pytest.raises(ValueError, match="3 factors, one for each layer"):
        scale_by_path([("^encoder/stack/", (1.0, 1.0, 1.0))]).init(params())
    for wrong in (-1.0, float("nan"), (0.5, -0.5)):
        with pytest.raises(ValueError, match="number >= 0"):
            scale_by_path([("^encoder", wrong)])


def test_layerwise_rules():
    rules = layerwise_rules([("^stack/", 3), ("^tokens", 0)], 0.5, rate=4.0)
    assert rules == [("^stack/", (1.0, 2.0, 4.0)), ("^tokens", 0.5)]
    assert layerwise_rules([("a", 2)], 1.0) == [("a", (1.0, 1.0))]
    for decay, rate in ((0.0, 1.0), (1.1, 1.0), (0.5, 0.0), (0.5, float("inf"))):
        with pytest.raises(ValueError, match="must be"):
            layerwise_rules([("a", 2)], decay, rate=rate)
