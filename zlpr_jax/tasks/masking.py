"""Hiding words from an encoder that has to guess them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Bool, Int, Key

from zlpr_jax.data.word_rows import NO_WORD, WordRows

# Of the words chosen: so many become [MASK], so many random tokens, the rest stay.
HIDDEN, RANDOM = 0.8, 0.1
_CHUNK = 4096  # rows that are looked at at once


class Masked(NamedTuple):
    """Rows with some words hidden.

    Attributes:
        tokens: What the encoder reads, int32 `[B, T]`.
        places: Where it has to guess, int32 `[B, M]`: the tokens chosen in their order,
            then others.
        where: `[B, M]`, which of `places` were chosen.
    """

    tokens: Int[Array, "B T"]
    places: Int[Array, "B M"]
    where: Bool[Array, "B M"]


def words_to_choose(rows: WordRows, share: float) -> npt.NDArray[np.int32]:
    """How many words of each row are chosen: `share` of them, at least one.

    Args:
        rows: The rows.
        share: In (0, 1].

    Returns:
        `[N]`, rounded, half up; 0 for a row without words.
    """
    counts = rows.word_counts()
    chosen = np.floor(share * counts.astype(np.float64) + 0.5).astype(np.int32)
    return np.minimum(np.maximum(chosen, 1), counts)


def most_chosen(rows: WordRows, share: float) -> int:
    """How many tokens of a row can be chosen at most, over all rows: an M to choose.

    Args:
        rows: The rows.
        share: Of words, in (0, 1].

    Returns:
        The largest number of tokens that `words_to_choose` words of a row have.
    """
    most, length = 0, rows.tokens.shape[1]
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        row, token = np.nonzero(part.words != NO_WORD)
        slots = row * length + part.words[row, token]
        sizes = np.bincount(slots, minlength=len(part) * length)
        largest = -np.sort(-sizes.reshape(len(part), length), axis=1)
        chosen = words_to_choose(part, share)
        sums = np.concatenate([np.zeros((len(part), 1), int), largest.cumsum(1)], 1)
        most = max(most, int(sums[np.arange(len(part)), chosen].max(initial=0)))
    return most


def mask_words(
    tokens: Int[Array, "B T"],
    words: Int[Array, "B T"],
    counts: Int[Array, " B"],
    keys: Key[Array, " B"],
    *,
    places: int,
    vocabulary: int,
    mask_id: int,
    special: tuple[int, ...],
) -> Masked:
    """Choose words at random and hide most of them.

    Every word of a row has the same chance. Of those chosen, 80 % become [MASK], each
    token of them, 10 % random tokens, and 10 % stay as they are, so that the encoder
    cannot rely on what it reads.

    Args:
        tokens: `[B, T]`, ids.
        words: `[B, T]`, the word of each token, from 0 on in each row; -1 for those
            that are never chosen.
        counts: `[B]`, how many words to choose, no more than there are.
        keys: `[B]`, randomness of each row.
        places: Tokens that are chosen of a row at most, see `most_chosen`.
        vocabulary: Random tokens are below this.
        mask_id: The id of [MASK].
        special: Ids that are no random tokens.

    Returns:
        What was chosen and what is read.

    Examples:
        >>> tokens = jnp.array([[2, 7, 8, 9, 3]])
        >>> words = jnp.array([[-1, 0, 0, 1, -1]])
        >>> masked = mask_words(
        ...     tokens, words, jnp.array([1]), jax.random.split(jax.random.key(0), 1),
        ...     places=2, vocabulary=10, mask_id=4, special=(0, 1, 2, 3, 4),
        ... )
        >>> masked.tokens.tolist(), masked.places.tolist(), masked.where.tolist()
        ([[2, 4, 4, 9, 3]], [[1, 2]], [[True, True]])

    References:
        Devlin et al., "BERT", https://arxiv.org/abs/1810.04805, and its release of May
        2019, which masks whole words.
        Cui et al., "Pre-Training with Whole Word Masking for Chinese BERT",
        https://arxiv.org/abs/1906.08101
    """
    excluded = sorted(set(special))

    def row(tokens: Array, words: Array, count: Array, key: Array) -> Any:
        size = len(tokens)
        order, kind, token = jax.random.split(key, 3)
        there = jnp.arange(size) < words.max() + 1
        rank = jnp.where(there, jax.random.uniform(order, (size,)), jnp.inf)
        # each word's place in a random order: exact, also if two numbers are equal
        rank = jnp.argsort(jnp.argsort(rank))
        index = jnp.maximum(words, 0)
        chosen = (words >= 0) & (rank < count)[index]
        other = jax.random.randint(token, (size,), 0, vocabulary - len(excluded))
        for number in excluded:
            other = jnp.where(other >= number, other + 1, other)
        drawn = jax.random.uniform(kind, (size,))[index]
        read = jnp.where(
            drawn < HIDDEN, mask_id, jnp.where(drawn < HIDDEN + RANDOM, other, tokens)
        )
        first = jnp.argsort(~chosen, stable=True)[:places]
        return Masked(
            jnp.where(chosen, read, tokens).astype(jnp.int32),
            first.astype(jnp.int32),
            chosen[first],
        )

    return jax.vmap(row)(tokens, words, counts, keys)
