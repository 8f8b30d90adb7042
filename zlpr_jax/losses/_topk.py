"""The best classes of a linear layer, without its logits."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from zlpr_jax._typing import AxisName
from zlpr_jax.losses import _blocks, _mesh, _terms


def predict_topk(
    hidden: Float[Array, "*rows D"],
    kernel: Float[Array, "D C"],
    k: int,
    *,
    bias: Float[Array, " C"] | None = None,
    where: Bool[Array, " C"] | None = None,
    block_size: int | None = None,
    axis_name: AxisName | None = None,
) -> tuple[Float[Array, "*rows k"], Int[Array, "*rows k"]]:
    r"""The k highest scores of `hidden @ kernel + bias`, and their classes.

    `jax.lax.top_k` of the scores, which are computed a block of classes at a time and
    never held as a whole. With `zlpr_linear_loss` the predicted labels of a row are the
    classes among them whose score is above 0 (above `threshold`, if there was one).

    Args:
        hidden: the last layer's input, floating point `[..., D]`. The matrix products
            are taken in its dtype and accumulated in at least float32.
        kernel: `[D, C]`, floating point; cast to the dtype of `hidden` block by block.
        k: how many, from 1 to C (C on all devices together).
        bias: `[C]`, floating point.
        where: classes that may be returned, boolean `[C]`. If fewer than k, the rest of
            a row has the score -inf and the class -1.
        block_size: classes per block; None chooses.
        axis_name: the mesh axis, or axes, that the classes are split over, inside
            `shard_map` or `pmap`, as for `zlpr_linear_loss`. The devices exchange k
            candidates a row; the result is the same on all of them.

    Returns:
        `(scores, classes)`, both `[..., k]`, the highest score first and of equal ones
        the lower class first; a NaN score is highest. The scores are at least float32,
        the classes int32 and global.

    Raises:
        TypeError: if `hidden`, `kernel` or `bias` is not floating point, `where` not
            boolean, or `k` or `block_size` not an int.
        ValueError: if a shape is not as above, `k` is out of range, `block_size` is
            below 1, or an array is split over explicit mesh axes outside of
            `shard_map`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import predict_topk
        >>> hidden = jnp.array([[1.0, 0.0]])
        >>> kernel = jnp.array([[2.0, -1.0, 3.0], [1.0, 1.0, 1.0]])
        >>> scores, classes = predict_topk(hidden, kernel, 2)
        >>> print(scores, classes)
        [[3. 2.]] [[2 0]]
    """
    _blocks.check_linear(hidden, kernel, bias, where, block_size)
    num_classes = kernel.shape[1]
    total = _mesh.total_classes(num_classes, axis_name)
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"k must be an int, got {k!r}: pass a number such as 5.")
    if not 1 <= k <= total:
        raise ValueError(
            f"k must lie in [1, {total}], the number of classes, got {k}: "
            "pass a number in that range."
        )
    _mesh.check_not_explicit(hidden=hidden, kernel=kernel)
    rows = hidden.shape[:-1]
    num_rows = math.prod(rows)
    size = block_size or _blocks.default_block_size(num_rows, hidden.dtype)
    layer = _blocks.Linear(
        hidden.reshape(num_rows, hidden.shape[-1]), kernel, bias, where
    )
    scores, classes = _local(layer, min(k, num_classes), min(size, num_classes))
    if axis_name is not None:
        classes = classes + _mesh.first_class(num_classes, axis_name)
        # In the order of the devices, so that of equal scores the lower class is first.
        scores, classes = _best(
            _mesh.side_by_side(scores, axis_name),
            _mesh.side_by_side(classes, axis_name),
            k,
        )
    # Masked classes tie with the empty places that each device starts from.
    classes = jnp.where(scores == -jnp.inf, -1, classes)
    return scores.reshape(*rows, k), classes.reshape(*rows, k)


def _local(
    layer: _blocks.Linear, k: int, size: int
) -> tuple[Float[Array, "N k"], Int[Array, "N k"]]:
    """The best of this device's classes."""

    def step(carry, index):
        block = _blocks.block(layer, size, index)
        scores = jnp.where(block.keep, block.scores, -jnp.inf)
        scores, columns = jax.lax.top_k(scores, min(k, size))
        scores = jnp.concatenate([carry[0], scores], axis=1)
        classes = jnp.concatenate([carry[1], block.start + columns], axis=1)
        return _best(scores, classes, k), None

    rows = layer.hidden.shape[0]
    empty = (
        jnp.full((rows, k), -jnp.inf, _terms.compute_dtype(layer.hidden.dtype)),
        jnp.full((rows, k), -1, jnp.int32),
    )
    empty = _mesh.cast_varying(empty, _mesh.varying_axes(*layer))
    blocks = _blocks.indices(layer.kernel.shape[1], size)
    (scores, classes), _ = jax.lax.scan(step, empty, blocks)
    return scores, classes


def _best(
    scores: Float[Array, "N n"], classes: Int[Array, "N n"], k: int
) -> tuple[Float[Array, "N k"], Int[Array, "N k"]]:
    scores, places = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(classes, places, axis=1)
