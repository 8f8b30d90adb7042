"""ZLPR of a linear layer, without its logits."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from zlpr_jax import _checks
from zlpr_jax._typing import AxisName
from zlpr_jax.losses import _blocks, _indices, _logs, _mesh, _terms
from zlpr_jax.losses._integer import zlpr_loss_with_integer_labels


def zlpr_linear_loss(
    hidden: Float[Array, "*rows D"],
    kernel: Float[Array, "D C"],
    labels: Integer[Array, "*rows K"],
    *,
    bias: Float[Array, " C"] | None = None,
    threshold: float | int | Float[Array, "..."] | None = None,
    where: Bool[Array, " C"] | None = None,
    block_size: int | None = None,
    axis_name: AxisName | None = None,
) -> Float[Array, "*rows"]:
    r"""ZLPR of the scores `hidden @ kernel + bias`, which are never held.

    With $s_i = h \cdot W_i + b_i$ and the *set* P of classes that the indices of a row
    name,

    $$
    L = \log\Big(1 + \sum_{i \notin P} e^{s_i}\Big)
      + \log\Big(1 + \sum_{j \in P} e^{-s_j}\Big).
    $$

    The classes are visited in blocks, forward and backward, so the memory beyond the
    gradients themselves is that of a few blocks: `[batch, classes]` scores exist
    neither in the loss nor in its gradient. The price is that the backward pass
    computes the scores once more.

    Args:
        hidden: the last layer's input, floating point `[..., D]`. The matrix products
            are taken in its dtype and accumulated in at least float32.
        kernel: `[D, C]`, floating point; cast to the dtype of `hidden` block by block,
            so that half-precision products need no second copy of a float32 kernel. It
            is neither padded nor copied as a whole.
        labels: class indices, integers `[..., K]`, as for
            `zlpr_loss_with_integer_labels`: a negative index is padding, a repeated one
            counts once, one past the last class makes its row NaN. K may be 0.
        bias: `[C]`, floating point.
        threshold: score of the threshold class in place of 0: a scalar, or one a row.
        where: classes that count, boolean `[C]`; the others may have NaN in `kernel`
            and `bias`, get a zero gradient, and are ignored where an index names them.
        block_size: classes per block. None chooses: all classes at once where the
            scores are smaller than the kernel, so that blocks would save nothing (all
            modes of differentiation work there), and else blocks of some megabytes.
        axis_name: the mesh axis, or axes, that the classes are split over, inside
            `shard_map` or `pmap`. `kernel`, `bias` and `where` are then this device's
            part, and `hidden` and `labels`, the latter with global indices, the same on
            all of its devices, and so is the loss. The devices exchange a few numbers a
            row, and in the backward pass the gradient of `hidden`. A number of classes
            that the devices do not divide is padded, and the tail masked by `where`.
            Where replication is not tracked (`pmap`, `shard_map(check_vma=False)`)
            take the gradient inside the mapped function.

    Returns:
        One loss a row, not reduced, `[...]`, at least float32. The gradients have the
        dtypes of their arguments. With blocks only reverse-mode differentiation works,
        and once (`jax.custom_vjp`); for `jvp` and Hessians give `zlpr_loss` the scores.

    Raises:
        TypeError: if `hidden`, `kernel`, `bias` or `threshold` is not floating point,
            `labels` not integer, `where` not boolean or `block_size` not an int.
        ValueError: if a shape is not as above, `block_size` is below 1, or an array is
            split over explicit mesh axes outside of `shard_map`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import zlpr_linear_loss
        >>> hidden = jnp.array([[1.0, 0.0], [0.0, 0.0]])
        >>> kernel = jnp.array([[2.0, -1.0, -3.0], [1.0, 1.0, 1.0]])
        >>> labels = jnp.array([[0, -1], [-1, -1]])  # {0} and {}
        >>> print(zlpr_linear_loss(hidden, kernel, labels, block_size=2).round(4))
        [0.4759 1.3863]

    References:
        Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022,
        https://arxiv.org/abs/2208.02955

        Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2024,
        https://arxiv.org/abs/2411.09009 (the same idea for softmax cross entropy)
    """
    _blocks.check_linear(hidden, kernel, bias, where, block_size)
    _checks.check_integer(
        "labels",
        labels,
        "pass class indices; multi-hot and soft labels need the scores and zlpr_loss.",
    )
    rows, num_classes = hidden.shape[:-1], kernel.shape[1]
    _indices.check_rows(labels, rows, "hidden without its last axis")
    num_rows = math.prod(rows)
    dtype = _terms.compute_dtype(hidden.dtype)
    # Per class: are the scores smaller than the kernel?
    small = num_rows * dtype.itemsize < kernel.shape[0] * kernel.dtype.itemsize
    if num_classes == 0 or (block_size is None and small):
        scores = _all_scores(hidden, kernel, bias, where, axis_name)
        if where is not None:
            where = jnp.broadcast_to(where, scores.shape)
        return zlpr_loss_with_integer_labels(
            scores, labels, where=where, threshold=threshold, axis_name=axis_name
        )
    _mesh.check_not_explicit(hidden=hidden, kernel=kernel, labels=labels)
    size = block_size or _blocks.default_block_size(num_rows, hidden.dtype)
    thresholds = _terms.checked_threshold(threshold, rows, dtype)
    local, invalid = _indices.local_classes(labels, num_classes, axis_name)
    if where is not None:
        counted = jnp.take(where, local, mode="fill", fill_value=False)
        local = jnp.where(counted, local, num_classes)
    local = _indices.without_repeats(local, num_classes)
    loss = _blockwise(
        min(size, num_classes),
        axis_name,
        _blocks.Linear(hidden.reshape(num_rows, hidden.shape[-1]), kernel, bias, where),
        jnp.broadcast_to(thresholds, rows).reshape(num_rows),
        local.reshape(num_rows, labels.shape[-1]),
    )
    return _terms.poison(jnp.reshape(jnp.asarray(loss), rows), invalid)


def _all_scores(hidden, kernel, bias, where, axis_name):
    if where is not None:  # a NaN in the kernel would reach the gradient of hidden
        kernel = jnp.where(where, kernel, 0)
        bias = None if bias is None else jnp.where(where, bias, 0)
    hidden = _mesh.replicate(hidden, axis_name, kernel)
    flat = hidden.reshape(-1, hidden.shape[-1])
    scores = _blocks.matmul(flat, kernel.astype(hidden.dtype), (1, 0))
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)[None]
    return scores.reshape(*hidden.shape[:-1], kernel.shape[1])


class _Residuals(NamedTuple):
    layer: _blocks.Linear
    thresholds: Float[Array, " N"]
    labels: Int[Array, "N K"]
    positive: Float[Array, "N K"]  # q+ of the labels; 0 for absent ones
    peak: Float[Array, " N"]  # of the negative term
    total: Float[Array, " N"]  # its sum under that peak
    balance: Float[Array, " N"]  # minus the sum of the gradient over all classes


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blockwise(
    size: int,
    axis_name: AxisName | None,
    layer: _blocks.Linear,
    thresholds: Float[Array, " N"],
    labels: Int[Array, "N K"],
) -> Float[Array, " N"]:
    return _forward(size, axis_name, layer, thresholds, labels)[0]


def _forward(size, axis_name, layer, thresholds, labels):
    num_classes = layer.kernel.shape[1]

    def step(carry, index):
        peak, total, found = carry
        block = _blocks.block(layer, size, index)
        scores = block.scores - thresholds[:, None]
        here, column = _columns(labels, block, index, size)
        at_labels = jnp.take_along_axis(scores, jnp.minimum(column, size - 1), axis=1)
        found = jnp.where(here, at_labels, found)
        scores = _set(jnp.where(block.keep, scores, -jnp.inf), column, -jnp.inf)
        higher = _logs.bounded(jnp.maximum(peak, scores.max(axis=1)))
        total = total * jnp.exp(peak - higher)
        total = total + jnp.exp(scores - higher[:, None]).sum(axis=1)
        return (higher, total, found), None

    # Without the zero class: it is added once, after the sums over devices.
    zeros = jnp.zeros_like(thresholds)
    found = jnp.zeros(labels.shape, thresholds.dtype)
    carry = _mesh.cast_varying((zeros, zeros, found), _axes(layer, thresholds, labels))
    blocks = _blocks.indices(num_classes, size)
    (peak, total, found), _ = jax.lax.scan(step, carry, blocks)
    peak, total = _logs.joined(peak, total, axis_name)
    present = labels < num_classes
    signed = jnp.where(present, -found, -jnp.inf)
    low = _logs.bounded(jnp.max(signed, axis=1, initial=0))
    positives = jnp.exp(signed - low[:, None]).sum(axis=1)
    low, positives = _logs.joined(low, positives, axis_name)
    loss = (low + jnp.log(positives)) + (peak + jnp.log(total))
    return loss, _Residuals(
        layer,
        thresholds,
        labels,
        positive=jnp.exp(signed - low[:, None]) / positives[:, None],
        peak=peak,
        total=total,
        balance=jnp.exp(-peak) / total - jnp.exp(-low) / positives,
    )


def _backward(size, axis_name, residuals, cotangent):
    layer, thresholds, labels, positive, peak, total, balance = residuals
    at_labels = -positive * cotangent[:, None]
    shift = (thresholds + peak)[:, None]
    scale = (cotangent / total)[:, None]
    hidden_t = layer.hidden.T

    def step(carry, index):
        to_hidden, to_kernel, to_bias = carry
        block = _blocks.block(layer, size, index)
        gradient = scale * jnp.exp(block.scores - shift)
        gradient = jnp.where(block.keep, gradient, 0)
        _, column = _columns(labels, block, index, size)
        gradient = _set(gradient, column, at_labels)
        if to_bias is not None:
            to_bias = _write(to_bias, gradient.sum(axis=0), block.start, 0)
        gradient = gradient.astype(layer.hidden.dtype)
        to_hidden = to_hidden + _blocks.matmul(gradient, block.kernel, (1, 1))
        columns = _blocks.matmul(hidden_t, gradient, (1, 0))
        to_kernel = _write(to_kernel, columns, block.start, 1)
        return (to_hidden, to_kernel, to_bias), None

    carry = (
        jnp.zeros(layer.hidden.shape, cotangent.dtype),
        jnp.zeros_like(layer.kernel),
        None if layer.bias is None else jnp.zeros_like(layer.bias),
    )
    carry = _mesh.cast_varying(carry, _axes(layer, thresholds, labels, cotangent))
    # The last block first: the columns it shares with the one before it are masked, and
    # their zeros are written over.
    blocks = _blocks.indices(layer.kernel.shape[1], size)
    (to_hidden, to_kernel, to_bias), _ = jax.lax.scan(step, carry, jnp.roll(blocks, 1))
    to_hidden = _mesh.match_cotangent(to_hidden, layer.hidden, axis_name)
    gradients = _blocks.Linear(
        to_hidden.astype(layer.hidden.dtype),
        _mesh.match_cotangent(to_kernel, layer.kernel),
        jax.tree.map(_mesh.match_cotangent, to_bias, layer.bias),
        None,
    )
    return gradients, _mesh.match_cotangent(cotangent * balance, thresholds), None


_blockwise.defvjp(_forward, _backward)


def _columns(labels, block, index, size):
    """Which labels are in this block for the first time, and their columns in it."""
    here = (labels >= index * size) & (labels < block.start + size)
    return here, jnp.where(here, labels - block.start, size)


def _set(array, columns, values):
    rows = jnp.arange(array.shape[0])[:, None]
    return array.at[rows, columns].set(values, mode="drop")


def _write(array, values, start, axis):
    values = values.astype(array.dtype)
    return jax.lax.dynamic_update_slice_in_dim(array, values, start, axis)


def _axes(layer, *arrays):
    return _mesh.varying_axes(layer.hidden, layer.kernel, layer.bias, *arrays)
