"""Classes split over a mesh axis: the same losses and gradients as on one device."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from zlpr_jax.losses import (
    predict_topk,
    zlpr_linear_loss,
    zlpr_loss,
    zlpr_loss_with_integer_labels,
    zlpr_span_loss,
)

ROWS, WIDTH, CLASSES, DEVICES = 16, 24, 96, 8
DATA = P("data")
BY_CLASS = P(None, "label")
GRID = P("data", "label")


def mesh(data):
    devices = np.array(jax.devices()[:DEVICES]).reshape(data, DEVICES // data)
    return Mesh(devices, ("data", "label"), axis_types=(AxisType.Auto,) * 2)


def linear(operands, axis_name=None, block_size=None):
    return zlpr_linear_loss(
        operands["hidden"],
        operands["kernel"],
        operands["indices"],
        bias=operands["bias"],
        threshold=operands["threshold"],
        where=operands.get("classes"),
        block_size=block_size,
        axis_name=axis_name,
    )


def scored(labels, loss, operands, axis_name=None):
    return loss(
        operands["logits"],
        operands[labels],
        where=operands.get("where"),
        threshold=operands["threshold"],
        axis_name=axis_name,
    )


# The loss, what it differentiates by, and what else it needs.
LOSSES = {
    "bool": (partial(scored, "hard", zlpr_loss), ("logits", "threshold"), "hard"),
    "soft": (
        partial(scored, "soft", zlpr_loss),
        ("logits", "threshold", "soft"),
        "soft",
    ),
    "indices": (
        partial(scored, "indices", zlpr_loss_with_integer_labels),
        ("logits", "threshold"),
        "indices",
    ),
    "blocks": (
        partial(linear, block_size=5),
        ("hidden", "kernel", "bias", "threshold"),
        "indices",
    ),
    "plain linear": (
        partial(linear, block_size=None),
        ("hidden", "kernel", "bias", "threshold"),
        "indices",
    ),
}
SPECS = {
    "logits": GRID,
    "hard": GRID,
    "soft": GRID,
    "where": GRID,
    "indices": DATA,
    "threshold": DATA,
    "hidden": DATA,
    "kernel": BY_CLASS,
    "bias": P("label"),
    "classes": P("label"),
}


@pytest.fixture
def operands(rng):
    indices = rng.integers(-1, CLASSES, (ROWS, 4))
    indices[0] = [0, 1, 2, 3]  # all of them on the first device
    indices[1] = -1
    operands = {
        "logits": 3 * rng.normal(size=(ROWS, CLASSES)),
        "hard": rng.random((ROWS, CLASSES)) < 0.1,
        "soft": rng.uniform(0, 1, (ROWS, CLASSES)),
        "indices": indices.astype(np.int32),
        "threshold": rng.normal(size=ROWS),
        "hidden": rng.normal(size=(ROWS, WIDTH)),
        "kernel": rng.normal(size=(WIDTH, CLASSES)),
        "bias": rng.normal(size=CLASSES),
    }
    return {
        k: jnp.asarray(x, x.dtype if x.dtype != np.float64 else np.float32)
        for k, x in operands.items()
    }


def chosen(name, operands):
    loss, floats, labels = LOSSES[name]
    names = dict.fromkeys((*floats, labels))
    if name in ("blocks", "plain linear") and "classes" in operands:
        names["classes"] = None
    elif "where" in operands:
        names["where"] = None
    return loss, floats, {k: operands[k] for k in names}


def value_and_gradient(loss, floats, axis_name=None, mean=lambda x: x):
    """Of the mean loss, as a function of all operands."""

    def both(operands):
        def total(arguments):
            losses = loss({**operands, **arguments}, axis_name=axis_name)
            return mean(losses.mean()), losses

        arguments = {k: operands[k] for k in floats}
        (_, losses), gradients = jax.value_and_grad(total, has_aux=True)(arguments)
        return losses, gradients

    return both


def sharded(name, operands, data, check_vma=True):
    """Gradients taken inside `shard_map`."""
    loss, floats, operands = chosen(name, operands)
    function = value_and_gradient(
        loss,
        floats,
        axis_name="label",
        mean=partial(jax.lax.pmean, axis_name="data") if data > 1 else lambda x: x,
    )
    specs = {k: SPECS[k] for k in operands}
    return jax.jit(
        jax.shard_map(
            function,
            mesh=mesh(data),
            in_specs=(specs,),
            out_specs=(DATA, {k: specs[k] for k in floats}),
            check_vma=check_vma,
        )
    ), operands


def check(name, operands, actual):
    loss, floats, operands = chosen(name, operands)
    expected = jax.jit(value_and_gradient(loss, floats))(operands)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("data", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_shard_map(operands, name, data):
    function, arguments = sharded(name, operands, data)
    check(name, operands, function(arguments))


@pytest.mark.parametrize("name", LOSSES)
def test_shard_map_without_tracking(operands, name):
    function, arguments = sharded(name, operands, 1, check_vma=False)
    check(name, operands, function(arguments))


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_shard_map(operands, name):
    loss, floats, arguments = chosen(name, operands)
    specs = {k: SPECS[k] for k in arguments}
    mapped = jax.shard_map(
        partial(loss, axis_name="label"),
        mesh=mesh(2),
        in_specs=(specs,),
        out_specs=DATA,
    )

    def outside(operands, axis_name=None):
        return mapped(operands)

    actual = jax.jit(value_and_gradient(outside, floats))(arguments)
    check(name, operands, actual)


@pytest.mark.parametrize("name", LOSSES)
def test_pmap(operands, name):
    loss, floats, arguments = chosen(name, operands)

    def place(array, spec):
        if "label" not in spec:
            return jnp.broadcast_to(array, (DEVICES, *array.shape))
        parts = array.reshape(*array.shape[:-1], DEVICES, -1)
        return jnp.moveaxis(parts, -2, 0)

    def join(array, spec):
        if "label" not in spec:
            for device in range(1, DEVICES):  # the same everywhere
                np.testing.assert_allclose(
                    array[device], array[0], rtol=1e-5, atol=3e-7
                )
            return array[0]
        return jnp.moveaxis(array, 0, -2).reshape(*array.shape[1:-1], -1)

    function = value_and_gradient(loss, floats, axis_name="label")
    placed = {k: place(x, SPECS[k]) for k, x in arguments.items()}
    losses, gradients = jax.pmap(function, axis_name="label")(placed)
    gradients = {k: join(x, SPECS[k]) for k, x in gradients.items()}
    check(name, operands, (join(losses, DATA), gradients))


@pytest.mark.parametrize("name", LOSSES)
def test_zero_class_counts_once(operands, name):
    # All scores equal 0: log(1 + positives) + log(1 + negatives).
    _, _, arguments = chosen(name, jax.tree.map(jnp.zeros_like, operands))
    arguments["indices"] = operands["indices"]
    function, arguments = sharded(name, {**operands, **arguments}, 1)
    losses, _ = function(arguments)
    positives = {
        "bool": np.zeros(ROWS),
        "soft": np.zeros(ROWS),
    }.get(name, [len({*row} - {-1}) for row in np.asarray(operands["indices"])])
    expected = np.log1p(positives) + np.log1p(CLASSES - np.asarray(positives))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_number_of_classes_that_does_not_divide(rng, operands, name):
    # The documented rule: pad the classes, mask the tail, pass the mask along.
    real = CLASSES - 5
    cut = dict(operands)
    for k in ("logits", "hard", "soft", "kernel", "bias"):
        cut[k] = operands[k][..., :real]
    cut["indices"] = jnp.where(operands["indices"] < real, operands["indices"], -1)
    padded = {**operands, "indices": cut["indices"]}
    padded["logits"] = operands["logits"].at[:, real:].set(jnp.nan)
    padded["soft"] = operands["soft"].at[:, real:].set(jnp.nan)
    padded["kernel"] = operands["kernel"].at[:, real:].set(1e6)
    padded["classes"] = jnp.arange(CLASSES) < real
    padded["where"] = jnp.broadcast_to(padded["classes"], (ROWS, CLASSES))
    function, arguments = sharded(name, padded, 2)
    losses, gradients = function(arguments)
    for k, x in gradients.items():
        if "label" in SPECS[k]:
            assert not np.any(np.asarray(x)[..., real:])
            gradients[k] = x[..., :real]
    check(name, cut, (losses, gradients))


def test_indices_past_the_end(operands):
    operands["indices"] = operands["indices"].at[2, 1].set(CLASSES)
    for name in ("indices", "blocks", "plain linear"):
        function, arguments = sharded(name, operands, 1)
        losses, _ = function(arguments)
        np.testing.assert_array_equal(np.isnan(losses), np.arange(ROWS) == 2)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("data", [1, 2])
def test_devices_exchange_sums_only(operands, name, data):
    function, arguments = sharded(name, operands, data)
    program = function.lower(arguments).compile().as_text()
    collectives = set(
        re.findall(
            r" (all-gather|all-to-all|all-reduce|collective-permute|"
            r"reduce-scatter|collective-broadcast)[(-]",
            program,
        )
    )
    assert collectives == {"all-reduce"}


def test_hessian_vector_product_where_axes_are_tracked(operands):
    _, _, arguments = chosen("soft", operands)
    specs = {k: SPECS[k] for k in arguments}

    def mapped(logits):
        return jax.shard_map(
            partial(LOSSES["soft"][0], axis_name="label"),
            mesh=mesh(2),
            in_specs=(specs,),
            out_specs=DATA,
        )({**arguments, "logits": logits}).sum()

    def alone(logits):
        return LOSSES["soft"][0]({**arguments, "logits": logits}).sum()

    tangent = jnp.cos(arguments["logits"])
    products = [
        jax.jit(lambda s, f=f: jax.jvp(jax.grad(f), (s,), (tangent,)))(
            arguments["logits"]
        )
        for f in (mapped, alone)
    ]
    chex.assert_trees_all_close(*products, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 20, CLASSES])
def test_predict_topk(operands, k):
    hidden, kernel, bias = (operands[n] for n in ("hidden", "kernel", "bias"))
    kernel = jnp.round(kernel)  # with ties, also across devices
    classes = jnp.arange(CLASSES) % 7 != 0

    def best(hidden, kernel, bias, classes, axis_name=None):
        return predict_topk(
            hidden, kernel, k, bias=bias, where=classes, axis_name=axis_name
        )

    mapped = jax.shard_map(
        partial(best, axis_name="label"),
        mesh=mesh(2),
        in_specs=(DATA, BY_CLASS, P("label"), P("label")),
        out_specs=DATA,
    )
    bias = jnp.round(bias)
    hidden = jnp.round(hidden)
    actual = jax.jit(mapped)(hidden, kernel, bias, classes)
    expected = best(hidden, kernel, bias, classes)
    chex.assert_trees_all_equal(actual, expected)


def test_explicit_axes_belong_into_shard_map(operands):
    explicit = jax.make_mesh((2, 4), ("data", "label"))
    assert explicit.axis_types == (AxisType.Explicit,) * 2
    hidden, kernel, indices = (operands[k] for k in ("hidden", "kernel", "indices"))
    vectors = jnp.zeros((2, 4, 3))
    with jax.set_mesh(explicit):
        split = jax.device_put(hidden, DATA)
        with pytest.raises(ValueError, match=r"hidden is split.*jax\.shard_map"):
            zlpr_linear_loss(split, kernel, indices, block_size=8)
        with pytest.raises(ValueError, match=r"hidden is split.*AxisType\.Auto"):
            jax.jit(predict_topk, static_argnums=2)(split, kernel, 3)
        with pytest.raises(ValueError, match="query is split"):
            zlpr_span_loss(
                jax.device_put(vectors, DATA), vectors, jnp.zeros((2, 1, 2), int)
            )
        mapped = jax.shard_map(
            partial(zlpr_linear_loss, block_size=8, axis_name="label"),
            in_specs=(DATA, BY_CLASS, DATA),
            out_specs=DATA,
        )
        actual = mapped(
            split, jax.device_put(kernel, BY_CLASS), jax.device_put(indices, DATA)
        )
        whole = zlpr_loss(jax.device_put(operands["logits"], GRID), operands["hard"])
    expected = zlpr_linear_loss(hidden, kernel, indices, block_size=8)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    expected = zlpr_loss(operands["logits"], operands["hard"])
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
