"""Multi-head attention whose scores may come from anywhere."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from zlpr_jax.nn._positions import (
    Places,
    at_least_float32,
    relative_logits,
    relative_values,
    rotate,
)

SELF = Places()


@runtime_checkable
class Scores(Protocol):
    """What decides how much each query attends to each key.

    A score module gives the logits B of `softmax(mask(B)) V`.
    """

    def keys(
        self, x: Float[Array, "B T D"], places: Places
    ) -> Float[Array, "B T H d"] | None:
        """What it must know of the tokens attended to; `None` if nothing."""
        ...

    def __call__(
        self,
        x: Float[Array, "B T D"],
        keys: Float[Array, "B S H d"] | None,
        size: int,
        places: Places,
    ) -> Float[Array, "#B H T {size}"]:
        """Score `size` keys for each query; one row where all rows are the same."""
        ...


class Memory(NamedTuple):
    """What an `Attention` must know of the tokens that it attends to.

    Attributes:
        values: `[B, S, H, d]`.
        keys: For each of its scores `[B, S, H, d]`, or `None` where it needs none.
    """

    values: Float[Array, "B S H d"]
    keys: tuple[Float[Array, "B S H d"] | None, ...]


class DotProductScores(nnx.Module):
    """Scores `q_i k_j / sqrt(d)`.

    Args:
        width: D, of the tokens.
        heads: H; d = D / H.
        rotary: Whether queries and keys are turned by their positions, see `rotate`.
        relative: Offset up to which relative positions are told apart, see
            `relative_logits`: the scores are then `q_i (k_j + a_ij) / sqrt(d)`.
        use_bias: Whether queries and keys have biases.
        rngs: For initialisation.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        rotary: bool = False,
        relative: int | None = None,
        use_bias: bool = False,
        rngs: nnx.Rngs,
    ):
        self.heads = check_heads(width, heads)
        self.rotary, self.relative = rotary, relative
        self.query = nnx.Linear(width, width, use_bias=use_bias, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=use_bias, rngs=rngs)

    def keys(
        self, x: Float[Array, "B T D"], places: Places
    ) -> Float[Array, "B T H d"] | None:
        """Give the keys of tokens."""
        return self._by_head(self.key(x), places)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        keys: Float[Array, "B S H d"] | None,
        size: int,
        places: Places,
    ) -> Float[Array, "#B H T {size}"]:
        """Score each key for each query."""
        assert keys is not None
        queries = self._by_head(self.query(x), places)
        queries = queries / math.sqrt(queries.shape[-1])
        logits = jnp.einsum(
            "bthd,bshd->bhts",
            queries,
            keys,
            preferred_element_type=at_least_float32(queries),
        )
        if self.relative is not None:
            logits = logits + relative_logits(queries, self.relative, size, places)
        return logits

    def _by_head(
        self, x: Float[Array, "B T D"], places: Places
    ) -> Float[Array, "B T H d"]:
        split = split_heads(x, self.heads)
        return rotate(split, places.queries) if self.rotary else split


class Attention(nnx.Module):
    """Attention: `Y_h = softmax(mask(sum_n alpha_hn B_hn)) X V_h`, heads joined by O.

    Each B is the logits of one of `scores`. With more than one, the weights alpha are
    learned, a softmax over the scores in every head.

    Args:
        width: D, of the tokens.
        heads: H; D must be a multiple of it.
        scores: Where the logits come from, at least one.
        relative: Offset up to which relative positions are told apart in what is
            attended to: `sum_j p_ij (v_j + a_ij)`, see `relative_values`.
        one_alpha: Whether all heads share the weights of a mixture.
        use_bias: Whether values and the output have biases.
        dropout: Share of the probabilities dropped in training, in [0, 1).
        rngs: For initialisation.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from zlpr_jax.nn import DotProductScores, RandomScores
        >>> rngs = nnx.Rngs(0)
        >>> dot = DotProductScores(64, 4, rngs=rngs)
        >>> random = RandomScores(4, 128, rngs=rngs)
        >>> attention = Attention(64, 4, [dot, random], rngs=rngs)
        >>> x = jnp.ones((2, 10, 64))
        >>> attention(x, mask=causal_mask(10)).shape
        (2, 10, 64)

    References:
        Tay et al., "Synthesizer: Rethinking Self-Attention for Transformer Models",
        https://arxiv.org/abs/2005.00743
    """

    def __init__(
        self,
        width: int,
        heads: int,
        scores: Sequence[Scores],
        *,
        relative: int | None = None,
        one_alpha: bool = False,
        use_bias: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if not scores:
            raise ValueError("scores must name at least one module, got none.")
        self.heads, self.relative = check_heads(width, heads), relative
        self.scores = nnx.List(scores)
        shape = (len(scores), 1 if one_alpha else heads)
        self.mixture = nnx.Param(jnp.zeros(shape)) if len(scores) > 1 else None
        self.value = nnx.Linear(width, width, use_bias=use_bias, rngs=rngs)
        self.output = nnx.Linear(width, width, use_bias=use_bias, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        mask: Bool[Array, "#B T T"] | None = None,
        places: Places = SELF,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Let tokens attend to each other.

        Args:
            x: `[B, T, D]`.
            mask: `[B, T, T]` or `[1, T, T]`, which keys each query may attend to; a
                query that may attend to none gets zeros. `None` allows all.
            places: Positions, the same of queries and keys.
            key: Randomness for dropout; `None` switches dropout off.

        Returns:
            `[B, T, D]`, in the dtype of `x`.

        Raises:
            ValueError: If T is more than a table of the scores has positions for.
        """
        memory = self.remember(x, places)
        return self.attend(x, memory, mask=mask, places=places, key=key)

    def remember(self, x: Float[Array, "B T D"], places: Places = SELF) -> Memory:
        """Give what must be known of tokens for others to attend to them."""
        keys = tuple(scores.keys(x, places) for scores in self.scores)
        return Memory(split_heads(self.value(x), self.heads), keys)

    def attend(
        self,
        x: Float[Array, "B T D"],
        memory: Memory,
        *,
        mask: Bool[Array, "#B T S"] | None = None,
        places: Places = SELF,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Let tokens attend to remembered ones; see `__call__`."""
        p = self.probabilities(x, memory, mask=mask, places=places)
        p = p.astype(memory.values.dtype)
        if key is not None:
            p = self.dropout(p, deterministic=False, rngs=key)
        if len(p) == 1:  # of all rows, or there is one row
            y = jnp.einsum("hts,bshd->bthd", p[0], memory.values)
        else:
            y = jnp.einsum("bhts,bshd->bthd", p, memory.values)
        if self.relative is not None:
            more = relative_values(p, self.relative, y.shape[-1], places)
            y = y + jnp.broadcast_to(more, y.shape)
        return self.output(y.reshape(x.shape))

    def probabilities(
        self,
        x: Float[Array, "B T D"],
        memory: Memory,
        *,
        mask: Bool[Array, "#B T S"] | None = None,
        places: Places = SELF,
    ) -> Float[Array, "#B H T S"]:
        """Give what each query attends to, float32 at least; one row if all agree."""
        size = memory.values.shape[1]
        dtype = at_least_float32(x)
        given = zip(self.scores, memory.keys, strict=True)
        logits = [scores(x, keys, size, places).astype(dtype) for scores, keys in given]
        if self.mixture is None:
            mixed = logits[0]
        else:
            alpha = jax.nn.softmax(self.mixture[...].astype(dtype), axis=0)
            alpha = jnp.broadcast_to(alpha, (len(logits), self.heads))[..., None, None]
            rows = max(len(one) for one in logits)
            shape = (rows, *logits[0].shape[1:])
            mixed = sum(
                (
                    jnp.broadcast_to(a[None] * one, shape)
                    for a, one in zip(alpha, logits, strict=True)
                ),
                start=jnp.zeros(shape, dtype),
            )
        return masked_softmax(mixed, None if mask is None else mask[:, None])


def masked_softmax(
    logits: Float[Array, "#B H T S"], mask: Bool[Array, "#B 1 T S"] | None
) -> Float[Array, "#B H T S"]:
    """Softmax among what the mask allows; zeros where it allows nothing.

    Args:
        logits: Floating point. What is masked out has no influence, finite or not.
        mask: `True` where allowed; its rows are those of the logits, or one.

    Returns:
        Probabilities, in the dtype of the logits.
    """
    if mask is None:
        return jax.nn.softmax(logits, axis=-1)
    # not -inf: the difference of two would be NaN
    lowest = jnp.finfo(logits.dtype).min
    probabilities = jax.nn.softmax(jnp.where(mask, logits, lowest), axis=-1)
    return jnp.where(mask, probabilities, 0)


def causal_mask(length: int) -> Bool[Array, "1 T T"]:
    """Allow each token itself and those before it.

    Examples:
        >>> causal_mask(3)[0].astype(int)
        Array([[1, 0, 0],
               [1, 1, 0],
               [1, 1, 1]], dtype=int32)
    """
    return jnp.tril(jnp.ones((length, length), bool))[None]


def segment_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Allow each token those of its own segment, where 0 is padding.

    Examples:
        >>> segment_mask(jnp.array([[1, 2, 2, 0]]))[0].astype(int)
        Array([[1, 0, 0, 0],
               [0, 1, 1, 0],
               [0, 1, 1, 0],
               [0, 0, 0, 0]], dtype=int32)
    """
    same = segments[:, :, None] == segments[:, None, :]
    return same & (segments != 0)[:, :, None]


def split_heads(x: Float[Array, "B T D"], heads: int) -> Float[Array, "B T H d"]:
    """Split the last axis into heads."""
    return x.reshape(*x.shape[:-1], heads, -1)


def check_heads(width: int, heads: int) -> int:
    """Give the number of heads, if the width can be split into so many."""
    if heads < 1 or width % heads:
        raise ValueError(
            f"width must be a multiple of heads, got width {width} and {heads} heads."
        )
    return heads
