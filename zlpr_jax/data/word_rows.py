"""Rows of tokens that know their words, and documents packed into them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]

# What has no word: special tokens, unknown ones and padding.
NO_WORD = -1
# Tokens of a word at most; a longer one, such as a web address, counts as several.
LONGEST = 8


class WordRow(NamedTuple):
    """One row of a `WordRows`: two arrays `[L]` and two numbers."""

    tokens: Ints
    words: Ints
    length: int
    number: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WordRows(Sequence[WordRow]):
    """Rows of one length in memory, a sequence: `rows[i]` is row i, a `WordRow`.

    Attributes:
        tokens: Their ids, int32 `[N, L]`.
        words: The word of each token, int32 `[N, L]`, numbered from 0 on in each row;
            -1 for a token without one.
        lengths: How many tokens are real, the first ones, int32 `[N]`.
        numbers: A number that stays with each row, int32 `[N]`.

    Examples:
        >>> text = np.int32([7, 8, 9]), np.int32([0, 0, 1])
        >>> rows = pack_words([text], 6, cls_id=2, sep_id=3, pad_id=0)
        >>> rows[0].tokens.tolist(), rows[0].words.tolist(), rows[0].length
        ([2, 7, 8, 9, 3, 0], [-1, 0, 0, 1, -1, -1], 5)
        >>> rows.take([0, 0]).numbers.tolist()
        [0, 0]
    """

    tokens: Ints
    words: Ints
    lengths: Ints
    numbers: Ints

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[WordRow]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer) -> WordRow: ...

    @overload
    def __getitem__(self, index: slice) -> "WordRows": ...

    def __getitem__(self, index: int | np.integer | slice) -> "WordRow | WordRows":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        return WordRow(
            self.tokens[index],
            self.words[index],
            int(self.lengths[index]),
            int(self.numbers[index]),
        )

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> "WordRows":
        """The rows at `indices`, in that order, with the numbers they have.

        Raises:
            IndexError: An index is not a position.
        """
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        fields = (field.name for field in dataclasses.fields(self))
        return WordRows(**{name: getattr(self, name)[rows] for name in fields})

    def word_counts(self) -> Ints:
        """How many words each row has, `[N]`."""
        return self.words.max(axis=1, initial=NO_WORD).astype(np.int32) + 1


def stack_word_rows(rows: Sequence[WordRow]) -> WordRows:
    """Rows of one length as `WordRows`."""
    tokens, words, lengths, numbers = zip(*rows, strict=True)
    return WordRows(
        tokens=np.stack(tokens),
        words=np.stack(words),
        lengths=np.asarray(lengths, np.int32),
        numbers=np.asarray(numbers, np.int32),
    )


def pack_words(
    documents: Sequence[tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]],
    length: int,
    *,
    cls_id: int,
    sep_id: int,
    pad_id: int,
) -> WordRows:
    """Pack documents into rows `[CLS] ... [SEP]` of `length` tokens at most.

    Documents follow each other, with [SEP] between them, and are cut where a row is
    full, before a word that does not fit into it: a row may end one document and hold
    others, as the "full sentences" of RoBERTa do. Each token is in one row. A word of
    more than 8 tokens, or more than a row has room for, counts as several words.

    Args:
        documents: Ids of each one's tokens and, as long, the words that they belong to:
            neighbours with the same number >= 0 are one word, -1 has none.
        length: Tokens of a row, with the special ones, >= 3.
        cls_id: The id of [CLS].
        sep_id: The id of [SEP].
        pad_id: The id of [PAD], which fills a row after its [SEP].

    Returns:
        The rows, numbered from 0 on; rows without any word are left out.

    Raises:
        ValueError: `length` has no room for a token, or a document has not as many
            words as tokens.

    Examples:
        >>> documents = [(np.int32([5, 6, 7]), np.int32([0, 1, 1])),
        ...              (np.int32([8]), np.int32([0]))]
        >>> rows = pack_words(documents, 4, cls_id=2, sep_id=3, pad_id=0)
        >>> rows.tokens.tolist()
        [[2, 5, 3, 0], [2, 6, 7, 3], [2, 8, 3, 0]]

    References:
        Liu et al., "RoBERTa", https://arxiv.org/abs/1907.11692
    """
    if length < 3:
        raise ValueError(f"length must be >= 3, got {length}.")
    room = length - 2
    stream, words, begins, ends = _joined(documents, min(LONGEST, room), sep_id)
    places = np.arange(len(stream))
    # where the word of each token begins: cutting there leaves the word whole
    first = np.maximum.accumulate(np.where(begins, places, 0))
    cuts, at = [], 0
    while at < len(stream):
        if ends[at]:  # the row before ended with a [SEP]
            at += 1
            continue
        stop = at + room
        stop = int(first[stop]) if stop < len(stream) else len(stream)
        following = stop
        while ends[stop - 1]:
            stop -= 1
        cuts.append((at, stop))
        at = following
    tokens = np.full((len(cuts), length), pad_id, np.int32)
    numbered = np.full((len(cuts), length), NO_WORD, np.int32)
    lengths = np.zeros(len(cuts), np.int32)
    for row, (start, stop) in enumerate(cuts):
        inside = slice(1, 1 + stop - start)
        tokens[row, 0] = cls_id
        tokens[row, inside] = stream[start:stop]
        tokens[row, inside.stop] = sep_id
        own = words[start:stop]
        counts = np.cumsum(begins[start:stop] & (own >= 0)) - 1
        numbered[row, inside] = np.where(own >= 0, counts, NO_WORD)
        lengths[row] = inside.stop + 1
    kept = numbered.max(axis=1, initial=NO_WORD) >= 0
    return WordRows(
        tokens=tokens[kept],
        words=numbered[kept],
        lengths=lengths[kept],
        numbers=np.arange(kept.sum(), dtype=np.int32),
    )


def _joined(
    documents: Sequence[tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]],
    longest: int,
    sep_id: int,
) -> tuple[Ints, Ints, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Tokens, words, which tokens begin a word, which are the [SEP] of a document."""
    empty = np.zeros(0, np.int32)
    tokens, words, begins, ends = [empty], [empty], [empty > 0], [empty > 0]
    for number, (ids, own) in enumerate(documents):
        if ids.shape != own.shape or ids.ndim != 1:
            raise ValueError(
                f"document {number} must have a word for each token, got "
                f"{list(ids.shape)} tokens and {list(own.shape)} words."
            )
        start = np.ones(len(own) + 1, bool)
        start[1:-1] = (own[1:] != own[:-1]) | (own[1:] < 0)
        # a longer word begins again after so many tokens
        place = np.arange(len(start))
        inside = place - np.maximum.accumulate(np.where(start, place, 0))
        begins.append(start | (inside % longest == 0))
        ends.append(place == len(own))
        tokens += [ids.astype(np.int32), np.array([sep_id], np.int32)]
        words += [own.astype(np.int32), np.array([NO_WORD], np.int32)]
    return (
        np.concatenate(tokens),
        np.concatenate(words),
        np.concatenate(begins),
        np.concatenate(ends),
    )
