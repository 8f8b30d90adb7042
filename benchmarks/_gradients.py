"""Gradients of every fast path beside NumPy float64; prints one JSON object.

Run by `losses.py` on 8 host devices, with x64 off and on. Every row has a cotangent of
its own, some classes are masked, and the class count is divided neither by the blocks
nor by the devices.
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from zlpr_jax.losses import (
    zlpr_linear_loss,
    zlpr_loss,
    zlpr_loss_with_integer_labels,
    zlpr_span_loss,
)

ROWS, WIDTH, CLASSES, NAMED, BLOCK = 32, 64, 1003, 5, 128
LENGTH, TILE = 48, 20
DTYPE = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(DTYPE)


def oracle(scores, labels, where, cotangent):
    """The gradient of `sum(cotangent * loss)` with respect to float64 scores."""

    def shares(exponents, weights):
        weights = weights * where
        peak = np.maximum(np.where(weights > 0, exponents, 0).max(1, keepdims=True), 0)
        powers = weights * np.exp(np.where(weights > 0, exponents - peak, -np.inf))
        return powers / (np.exp(-peak) + powers.sum(1, keepdims=True))

    return cotangent[:, None] * (shares(scores, 1 - labels) - shares(-scores, labels))


def multi_hot(indices, classes):
    labels = np.zeros((len(indices), classes))
    for row, named in zip(labels, indices, strict=True):
        row[named[named >= 0]] = 1
    return labels


def gradients(loss, arrays, *others, cotangent, split=None):
    """Of the losses of all rows with respect to `arrays`, over 8 devices if `split`."""

    def total(arrays, others, cotangent):
        return jnp.sum(cotangent * loss(*arrays, *others))

    if split is not None:
        mesh = Mesh(np.array(jax.devices()), ("label",))
        total = jax.shard_map(total, mesh=mesh, in_specs=(*split, P()), out_specs=P())
    return jax.jit(jax.grad(total))(arrays, others, cotangent)


def padded(array, fill):
    """The last axis filled up to what 8 devices divide."""
    tail = [(0, 0)] * (array.ndim - 1) + [(0, -CLASSES % 8)]
    return np.pad(array, tail, constant_values=fill)


def dense_paths(cotangent):
    """Dense boolean, soft and integer labels, on one device and split."""
    logits, soft = 3 * normal(ROWS, CLASSES), RNG.random((ROWS, CLASSES)).astype(DTYPE)
    indices = RNG.integers(-1, CLASSES, (ROWS, NAMED)).astype(np.int32)
    where = RNG.random((ROWS, CLASSES)) < 0.9
    hard = multi_hot(indices, CLASSES) > 0
    for name, loss, labels, dense in (
        ("bool", zlpr_loss, hard, hard),
        ("soft", zlpr_loss, soft, soft),
        ("integer", zlpr_loss_with_integer_labels, indices, hard),
    ):
        exact = oracle(np.float64(logits), np.float64(dense), where, cotangent)

        def masked(logits, labels, where, loss=loss, **options):
            return loss(logits, labels, where=where, **options)

        (found,) = gradients(masked, (logits,), labels, where, cotangent=cotangent)
        yield f"{name}: logits", found, exact
        columns = P(None, "label")
        (found,) = gradients(
            partial(masked, axis_name="label"),
            (padded(logits, np.nan),),
            labels if name == "integer" else padded(labels, 0),
            padded(where, False),
            cotangent=cotangent,
            split=((columns,), (P() if name == "integer" else columns, columns)),
        )
        yield f"{name}, split: logits", found, padded(exact, 0)


def linear_paths(cotangent):
    """In blocks and plain, on one device and split; every gradient."""
    hidden, kernel, bias = normal(ROWS, WIDTH), normal(WIDTH, CLASSES), normal(CLASSES)
    kernel /= WIDTH**0.5
    arrays = (hidden, kernel, bias)
    indices = RNG.integers(-1, CLASSES, (ROWS, NAMED)).astype(np.int32)
    where = RNG.random(CLASSES) < 0.9
    h, w, b = (np.float64(array) for array in arrays)
    scores = oracle(h @ w + b, multi_hot(indices, CLASSES), where, cotangent)
    exact = {"hidden": scores @ w.T, "kernel": h.T @ scores, "bias": scores.sum(0)}

    def masked(hidden, kernel, bias, labels, where, **options):
        return zlpr_linear_loss(
            hidden, kernel, labels, bias=bias, where=where, **options
        )

    for name, size in (("blocks", BLOCK), ("plain", None)):
        loss = partial(masked, block_size=size)
        found = gradients(loss, arrays, indices, where, cotangent=cotangent)
        for (array, expected), value in zip(exact.items(), found, strict=True):
            yield f"linear, {name}: {array}", value, expected
        size = size and size // 3  # 126 classes a device
        found = gradients(
            partial(masked, block_size=size, axis_name="label"),
            (hidden, padded(kernel, np.nan), padded(bias, np.nan)),
            indices,
            padded(where, False),
            cotangent=cotangent,
            split=((P(), P(None, "label"), P("label")), (P(), P("label"))),
        )
        for (array, expected), value in zip(exact.items(), found, strict=True):
            wide = expected if array == "hidden" else padded(expected, 0)
            yield f"linear, {name}, split: {array}", value, wide


def span_path(cotangent):
    query, key = normal(ROWS, LENGTH, 8), normal(ROWS, LENGTH, 8)
    spans = np.sort(RNG.integers(0, LENGTH, (ROWS, NAMED, 2)).astype(np.int32))
    spans[RNG.random((ROWS, NAMED)) < 0.2] = -1
    where = np.arange(LENGTH) < RNG.integers(1, LENGTH + 1, (ROWS, 1))
    q, k = np.float64(query), np.float64(key)
    flat = np.where(spans[..., 0] < 0, -1, spans[..., 0] * LENGTH + spans[..., 1])
    counted = np.triu(where[:, :, None] & where[:, None, :])
    scores = oracle(
        np.einsum("bid,bjd->bij", q, k).reshape(ROWS, -1),
        multi_hot(flat, LENGTH**2),
        counted.reshape(ROWS, -1),
        cotangent,
    ).reshape(ROWS, LENGTH, LENGTH)

    def masked(query, key, spans, where):
        return zlpr_span_loss(query, key, spans, where=where, block_size=TILE)

    found = gradients(masked, (query, key), spans, where, cotangent=cotangent)
    yield "spans: query", found[0], np.einsum("bij,bjd->bid", scores, k)
    yield "spans: key", found[1], np.einsum("bij,bid->bjd", scores, q)


def main():
    cotangent = normal(ROWS)
    errors = {}
    for paths in (dense_paths, linear_paths, span_path):
        for name, found, exact in paths(cotangent):
            difference = np.abs(np.asarray(found, np.float64) - exact).max()
            errors[name] = difference / np.abs(exact).max()
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
