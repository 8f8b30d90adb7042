"""Scores of a linear layer, one block of classes at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from zlpr_jax import _checks
from zlpr_jax.losses import _terms

# Scores of one block, in bytes: small enough to stay in a cache, large enough to keep
# the matrix units busy.
_BLOCK_BYTES = 8 * 2**20


class Linear(NamedTuple):
    """A linear layer on rows: the scores are `hidden @ kernel + bias`.

    Attributes:
        hidden: `[N, D]`; the products are taken in its dtype.
        kernel: `[D, C]`; each block is cast to the dtype of `hidden`.
        bias: `[C]`.
        where: `[C]`, the classes that count.
    """

    hidden: Float[Array, "N D"]
    kernel: Float[Array, "D C"]
    bias: Float[Array, " C"] | None
    where: Bool[Array, " C"] | None


class Block(NamedTuple):
    """One block of classes.

    Attributes:
        start: The first class of the block.
        kernel: Its columns of the kernel, in the dtype of `hidden`; 0 where masked.
        scores: Its scores; anything where masked.
        keep: Which of its columns count and were in no earlier block.
    """

    start: Int[Array, ""]
    kernel: Float[Array, "D size"]
    scores: Float[Array, "N size"]
    keep: Bool[Array, "1 size"]


def check_linear(
    hidden: Array,
    kernel: Array,
    bias: Array | None,
    where: Array | None,
    block_size: int | None,
) -> None:
    """Raise unless the operands of a linear layer fit together."""
    _checks.check_floating("hidden", hidden)
    _checks.check_floating("kernel", kernel)
    if hidden.ndim < 1 or kernel.ndim != 2 or hidden.shape[-1] != kernel.shape[0]:
        raise ValueError(
            "kernel must have the shape [D, C] with D the last axis of hidden, got "
            f"kernel {kernel.shape} and hidden {hidden.shape}: a kernel stored as "
            "[C, D] is passed as kernel.T."
        )
    classes = kernel.shape[1:]
    if bias is not None:
        _checks.check_floating("bias", bias)
        _checks.check_shape("bias", bias.shape, classes, "one a class")
    if where is not None:
        _checks.check_boolean("where", where)
        _checks.check_shape("where", where.shape, classes, "one a class")
    if block_size is not None and (
        not isinstance(block_size, int) or isinstance(block_size, bool)
    ):
        raise TypeError(
            f"block_size must be an int or None, got {block_size!r}: pass the number "
            "of classes of a block, such as 4096."
        )
    if block_size is not None and block_size < 1:
        raise ValueError(
            f"block_size must be at least 1, got {block_size}: pass the number of "
            "classes of a block, such as 4096."
        )


def default_block_size(rows: int, dtype: jnp.dtype) -> int:
    """A power of two, at least 512, whose scores take some megabytes."""
    itemsize = _terms.compute_dtype(dtype).itemsize
    size = max(512, _BLOCK_BYTES // (max(rows, 1) * itemsize))
    return 1 << (size.bit_length() - 1)


def indices(num_classes: int, size: int) -> Int[Array, " blocks"]:
    """The numbers of the blocks of `size` classes, the last of which overlaps."""
    return jnp.arange(-(-num_classes // size), dtype=jnp.int32)


def block(layer: Linear, size: int, index: Int[Array, ""]) -> Block:
    """The block number `index`.

    The last block is moved back to end at the last class, so the kernel is never
    padded; the columns that it shares with the one before are masked in it.
    """
    # The barrier holds the slice of the kernel in the loop: XLA would convert the whole
    # of a half-precision kernel to float32 before it, on a CPU.
    whole, index = jax.lax.optimization_barrier((layer.kernel, index))
    start = jnp.minimum(index * size, layer.kernel.shape[1] - size)
    fresh = index * size - start
    keep = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1) >= fresh
    kernel = jax.lax.dynamic_slice_in_dim(whole, start, size, axis=1)
    kernel = kernel.astype(layer.hidden.dtype)
    if layer.where is not None:
        where = jax.lax.dynamic_slice_in_dim(layer.where, start, size)[None]
        keep = keep & where
        kernel = jnp.where(where, kernel, 0)
    scores = matmul(layer.hidden, kernel, (1, 0))
    if layer.bias is not None:
        bias = jax.lax.dynamic_slice_in_dim(layer.bias, start, size)
        scores = scores + bias.astype(scores.dtype)[None]
    return Block(start, kernel, scores, keep)


def matmul(left: Array, right: Array, axes: tuple[int, int]) -> Array:
    """Contract one axis of each matrix, accumulating in at least float32."""
    dtype = _terms.compute_dtype(left.dtype)

    def product(left: Array, right: Array) -> Array:
        dimensions = (((axes[0],), (axes[1],)), ((), ()))
        return jax.lax.dot_general(
            left, right, dimensions, preferred_element_type=dtype
        )

    def wide_product(left: Array, right: Array) -> Array:
        return product(left.astype(dtype), right.astype(dtype))

    if left.dtype == dtype:
        return product(left, right)
    # The same numbers. XLA lacks some half-precision products on a CPU, such as that of
    # a kernel's gradient, and says so only when the program runs.
    return jax.lax.platform_dependent(left, right, cpu=wide_product, default=product)
