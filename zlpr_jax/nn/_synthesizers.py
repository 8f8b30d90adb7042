"""The Synthesizer family: scores that are not inner products of tokens.

Each class gives logits B for `Attention`, `[H, N, N]` for up to N = `max_length`
positions; what a query i knows is

| class                    | logits                    | of           | parameters    |
|--------------------------|---------------------------|--------------|---------------|
| `DenseScores`            | `W2 relu(W1 x_i)`         | its token    | D^2 + D N     |
| `FactorizedDenseScores`  | outer product of two rows | its token    | D^2 + D (a+b) |
| `RandomScores`           | `R`                       | its position | H N^2         |
| `FixedRandomScores`      | `R`, not trained          | its position | 0             |
| `FactorizedRandomScores` | `R1 R2^T` of rank r       | its position | 2 H N r       |

and biases. Row i belongs to the position of the query, column j to that of the key.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from zlpr_jax.nn._attention import check_heads, split_heads
from zlpr_jax.nn._positions import Places, at_least_float32

# Of the entries of R at the start, where attention is then nearly uniform. With 1 each
# head would begin with a pattern of its own, which small texts do not correct.
DEVIATION = 0.02


class Frozen(nnx.Variable):
    """An array that is not trained but belongs to the model: it is part of `state`."""


class DenseScores(nnx.Module):
    """Dense Synthesizer: each token says by itself where to look, `W2 relu(W1 x_i)`.

    Args:
        width: D, of the tokens.
        heads: H; d = D / H.
        max_length: N, the number of positions.
        by_head: Whether each head sees its own d inputs only, with D^2 / H parameters
            instead of D^2 in W1: the form with F_h(X_h) of the paper.
        use_bias: Whether W1 and W2 have biases.
        rngs: For initialisation.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        max_length: int,
        *,
        by_head: bool = False,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.max_length = max_length
        self.hidden = _Hidden(width, heads, by_head, use_bias, rngs=rngs)
        self.output = _HeadLinear(
            heads, width // heads, max_length, use_bias, rngs=rngs
        )

    def keys(self, x: Float[Array, "B T D"], places: Places) -> None:
        """Nothing: a token does not look at others."""

    def __call__(
        self, x: Float[Array, "B T D"], keys: object, size: int, places: Places
    ) -> Float[Array, "B H T {size}"]:
        """Score each position for each query."""
        _check_length(max(size, x.shape[1]), self.max_length)
        return _columns(self.output(self.hidden(x)), size, places)


class FactorizedDenseScores(nnx.Module):
    """Factorized Dense Synthesizer: `B_i[j] = a_i[j mod a] b_i[j // a]`.

    All N columns differ, whatever a and b are: tiling both factors alike would give
    only lcm(a, b) different ones.

    Args:
        width: D, of the tokens.
        heads: H; d = D / H.
        max_length: N, the number of positions.
        factors: (a, b) with a b >= N. By default near the square root of N.
        by_head: As in `DenseScores`.
        use_bias: Whether the layers have biases.
        rngs: For initialisation.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        max_length: int,
        *,
        factors: tuple[int, int] | None = None,
        by_head: bool = False,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        if factors is None:
            first = math.isqrt(max_length - 1) + 1
            factors = first, -(-max_length // first)
        if min(factors) < 1 or math.prod(factors) < max_length:
            raise ValueError(
                f"the product of factors must be at least max_length = {max_length}, "
                f"got {factors}."
            )
        self.max_length, self.factors = max_length, factors
        self.hidden = _Hidden(width, heads, by_head, use_bias, rngs=rngs)
        self.output = _HeadLinear(
            heads, width // heads, sum(factors), use_bias, rngs=rngs
        )

    def keys(self, x: Float[Array, "B T D"], places: Places) -> None:
        """Nothing: a token does not look at others."""

    def __call__(
        self, x: Float[Array, "B T D"], keys: object, size: int, places: Places
    ) -> Float[Array, "B H T {size}"]:
        """Score each position for each query."""
        _check_length(max(size, x.shape[1]), self.max_length)
        both = self.output(self.hidden(x)).astype(at_least_float32(x))
        fast, slow = both[..., : self.factors[0]], both[..., self.factors[0] :]
        rows = slow[..., :, None] * fast[..., None, :]
        return _columns(rows.reshape(*both.shape[:-1], -1), size, places)


class RandomScores(nnx.Module):
    """Random Synthesizer: one trained matrix R for each head, the same for all inputs.

    Args:
        heads: H.
        max_length: N, the number of positions.
        rngs: For initialisation.
    """

    matrix: nnx.Variable[Array]

    def __init__(self, heads: int, max_length: int, *, rngs: nnx.Rngs):
        self.matrix = nnx.Param(_random(heads, max_length, rngs))

    def keys(self, x: Float[Array, "B T D"], places: Places) -> None:
        """Nothing: tokens have no influence."""

    def __call__(
        self, x: Float[Array, "B T D"], keys: object, size: int, places: Places
    ) -> Float[Array, "#B H T {size}"]:
        """Score each position for each position."""
        return _looked_up(self.matrix[...], x.shape[1], size, places)


class FixedRandomScores(RandomScores):
    """Fixed Random Synthesizer: a `RandomScores` that is never trained.

    Its matrix is in the state, not in the parameters, so that no optimizer sees it.

    Args:
        heads: H.
        max_length: N, the number of positions.
        rngs: For the matrix.
    """

    def __init__(self, heads: int, max_length: int, *, rngs: nnx.Rngs):
        self.matrix = Frozen(_random(heads, max_length, rngs))


class FactorizedRandomScores(nnx.Module):
    """Factorized Random Synthesizer: `R = R1 R2^T` of low rank.

    Args:
        heads: H.
        max_length: N, the number of positions.
        rank: Columns of R1 and R2.
        rngs: For initialisation.
    """

    def __init__(self, heads: int, max_length: int, *, rank: int = 8, rngs: nnx.Rngs):
        # so that entries of the product have that deviation
        init = jax.nn.initializers.normal(DEVIATION**0.5 * rank**-0.25)
        shape = heads, max_length, rank
        self.rows = nnx.Param(init(rngs.params(), shape))
        self.columns = nnx.Param(init(rngs.params(), shape))

    def keys(self, x: Float[Array, "B T D"], places: Places) -> None:
        """Nothing: tokens have no influence."""

    def __call__(
        self, x: Float[Array, "B T D"], keys: object, size: int, places: Places
    ) -> Float[Array, "#B H T {size}"]:
        """Score each position for each position."""
        rows = _rows(self.rows[...], x.shape[1], places.queries)
        columns = _rows(self.columns[...], size, places.keys)
        if len(columns) < len(rows):
            columns = jnp.broadcast_to(columns, (len(rows), *columns.shape[1:]))
        return jnp.einsum(
            "bhtr,bhsr->bhts",
            rows,
            columns,
            preferred_element_type=at_least_float32(rows),
        )


class _HeadLinear(nnx.Module):
    """A linear layer for each head: `[B, T, H, d]` to `[B, H, T, out]`."""

    def __init__(
        self, heads: int, width: int, out: int, use_bias: bool, *, rngs: nnx.Rngs
    ):
        init = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        self.kernel = nnx.Param(init(rngs.params(), (heads, width, out)))
        self.bias = nnx.Param(jnp.zeros((heads, out))) if use_bias else None

    def __call__(self, x: Float[Array, "B T H d"]) -> Float[Array, "B H T out"]:
        y = jnp.einsum("bthd,hdn->bhtn", x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...][None, :, None]


class _Hidden(nnx.Module):
    """`relu(W1 x)`, split into heads."""

    def __init__(
        self, width: int, heads: int, by_head: bool, use_bias: bool, *, rngs: nnx.Rngs
    ):
        self.heads, d = check_heads(width, heads), width // heads
        self.linear = (
            _HeadLinear(heads, d, d, use_bias, rngs=rngs)
            if by_head
            else nnx.Linear(width, width, use_bias=use_bias, rngs=rngs)
        )

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H d"]:
        if isinstance(self.linear, nnx.Linear):
            return jax.nn.relu(split_heads(self.linear(x), self.heads))
        return jax.nn.relu(self.linear(split_heads(x, self.heads))).swapaxes(1, 2)


def _random(heads: int, length: int, rngs: nnx.Rngs) -> Float[Array, "H N N"]:
    shape = heads, length, length
    return jax.random.normal(rngs.params(), shape) * DEVIATION


def _check_length(length: int, max_length: int) -> None:
    if length > max_length:
        raise ValueError(
            f"{length} positions, but the synthesizer was made for max_length = "
            f"{max_length}: cut the input, or make it larger."
        )


def _rows(
    table: Float[Array, "H N out"], length: int, positions: Int[Array, "B T"] | None
) -> Float[Array, "#B H T out"]:
    """The rows of positions; one that is out of range is NaN."""
    _check_length(length, table.shape[1])
    if positions is None:
        return table[None, :, :length]
    return jnp.take(table, positions, axis=1).swapaxes(0, 1)


def _columns(
    rows: Float[Array, "#B H T N"], size: int, places: Places
) -> Float[Array, "#B H T {size}"]:
    """The columns of the keys' positions; one that is out of range is NaN."""
    _check_length(size, rows.shape[-1])
    if places.keys is None:
        return rows[..., :size]
    index = places.keys[:, None, None, :]
    index = jnp.broadcast_to(index, (len(index), *rows.shape[1:3], size))
    return jnp.take_along_axis(rows, index, axis=-1)


def _looked_up(
    matrix: Float[Array, "H N N"], length: int, size: int, places: Places
) -> Float[Array, "#B H T {size}"]:
    return _columns(_rows(matrix, length, places.queries), size, places)
