"""The tokens of a text, and where they stand in it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]

NOWHERE = -1  # what a special token has for an offset, a text and a word


class Pieces(NamedTuple):
    """The tokens of one text, without special ones: lists of one length."""

    ids: list[int]
    starts: list[int]
    ends: list[int]
    words: list[int]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """The tokens of a text or of two: `[CLS] a [SEP]`, `[CLS] a [SEP] b [SEP]`.

    Offsets count Python characters of the text as it was given: token t is
    `sources[texts[t]][offsets[t, 0]:offsets[t, 1]]`, before it was lower-cased. Several
    tokens can have one offset, as those of a decomposed Hangul syllable. A special
    token has -1 for offset, text and word: (0, 0) would be a place in the text.

    Attributes:
        ids: The tokens, int32 `[T]`.
        token_types: 0 up to the first [SEP], 1 after it, int32 `[T]`.
        offsets: Start and end of each token in its text, int32 `[T, 2]`.
        texts: The text of each token, 0 or 1, int32 `[T]`.
        words: The word of each token, int32 `[T]`, numbered from 0 on through both
            texts: pieces of one word share it, a Chinese character is a word.
        sources: The texts, one or two.
        cut: How many tokens of each text did not fit into `max_length`.

    Examples:
        >>> encoding = Encoding(
        ...     ids=np.int32([2, 7, 8, 3]),
        ...     token_types=np.int32([0, 0, 0, 0]),
        ...     offsets=np.int32([[-1, -1], [0, 5], [5, 6], [-1, -1]]),
        ...     texts=np.int32([-1, 0, 0, -1]),
        ...     words=np.int32([-1, 0, 0, -1]),
        ...     sources=("Phone4 ",),
        ...     cut=(0,),
        ... )
        >>> encoding.token_span(0, 6), encoding.token_span(5, 6)
        ((1, 2), (2, 2))
        >>> encoding.text(1, 2)
        'Phone4'
    """

    ids: Ints
    token_types: Ints
    offsets: Ints
    texts: Ints
    words: Ints
    sources: tuple[str, ...]
    cut: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def text(self, first: int, last: int) -> str:
        """The characters from token `first` to token `last`, which is included.

        Raises:
            ValueError: They are special tokens, or of two texts.
        """
        number = int(self.texts[first])
        if number == NOWHERE or number != self.texts[last]:
            raise ValueError(
                f"tokens {first} and {last} must be of one text, got those of texts "
                f"{number} and {self.texts[last]} (-1 is a special token)."
            )
        return self.sources[number][self.offsets[first, 0] : self.offsets[last, 1]]

    def token_span(
        self, start: int, end: int, *, text: int = 0
    ) -> tuple[int, int] | None:
        """The tokens that are exactly the characters `start:end` of a text.

        If they are found, `encoding.text(first, last)` is `sources[text][start:end]`.

        Args:
            start: The first character.
            end: The one after the last.
            text: Which text of a pair.

        Returns:
            First and last token, both included; `None` if no token starts at `start`,
            none ends at `end`, or they were cut off.

        Raises:
            ValueError: It is not `0 <= start < end <= len(sources[text])`.
        """
        self._check(start, end, text)
        starts, ends = self._edges[text]
        first, last = starts.get(start), ends.get(end)
        if first is None or last is None or first > last:
            return None
        return first, last

    def covering(
        self, start: int, end: int, *, text: int = 0
    ) -> tuple[int, int] | None:
        """The tokens that hold any of the characters `start:end` of a text.

        They may begin before and end after it: what is left where `token_span` finds
        none, as for the "Phone" of "iPhones" where that is one token.

        Args:
            start: The first character.
            end: The one after the last.
            text: Which text of a pair.

        Returns:
            First and last token, both included; `None` if no token holds any of them,
            as for white space, or if the text was cut off before `end`.

        Raises:
            ValueError: It is not `0 <= start < end <= len(sources[text])`.
        """
        self._check(start, end, text)
        mine = self.texts == text
        if self.cut[text] and end > self.offsets[mine, 1].max(initial=0):
            return None
        inside = mine & (self.offsets[:, 0] < end) & (self.offsets[:, 1] > start)
        tokens = np.flatnonzero(inside)
        return (int(tokens[0]), int(tokens[-1])) if len(tokens) else None

    @functools.cached_property
    def _edges(self) -> list[tuple[dict[int, int], dict[int, int]]]:
        """Of each text: the first token that starts, the last that ends at a place."""
        edges = []
        for number in range(len(self.sources)):
            tokens = np.flatnonzero(self.texts == number).tolist()
            starts, ends = self.offsets[tokens].T.tolist()
            # A dict keeps the last of equal keys.
            first = dict(zip(reversed(starts), reversed(tokens), strict=True))
            edges.append((first, dict(zip(ends, tokens, strict=True))))
        return edges

    def _check(self, start: int, end: int, text: int) -> None:
        if not 0 <= text < len(self.sources):
            raise ValueError(
                f"text must be in [0, {len(self.sources)}), got {text}: it numbers the "
                "texts that were encoded together."
            )
        length = len(self.sources[text])
        if not 0 <= start < end <= length:
            raise ValueError(
                f"a span must have 0 <= start < end <= {length}, the length of the "
                f"text, got {start}:{end}."
            )


def join(
    sources: tuple[str, ...],
    parts: Sequence[Pieces],
    room: int | None,
    *,
    cls: int,
    sep: int,
) -> Encoding:
    """Put the pieces of one text or two together.

    Args:
        sources: The texts.
        parts: The pieces of each.
        room: How many of them are kept; `None` for all.
        cls: The id of [CLS].
        sep: The id of [SEP].
    """
    sizes = [len(pieces.ids) for pieces in parts]
    kept = sizes if room is None else _fitting(sizes, room)
    columns = [[cls], [0], [NOWHERE], [NOWHERE], [NOWHERE], [NOWHERE]]
    ids, types, starts, ends, texts, words = columns
    word = 0
    for number, (pieces, size) in enumerate(zip(parts, kept, strict=True)):
        ids += [*pieces.ids[:size], sep]
        starts += [*pieces.starts[:size], NOWHERE]
        ends += [*pieces.ends[:size], NOWHERE]
        words += [*(word + w for w in pieces.words[:size]), NOWHERE]
        types += [number] * (size + 1)
        texts += [*([number] * size), NOWHERE]
        word += pieces.words[size - 1] + 1 if size else 0
    return Encoding(
        ids=np.asarray(ids, np.int32),
        token_types=np.asarray(types, np.int32),
        offsets=np.asarray([starts, ends], np.int32).T.copy(),
        texts=np.asarray(texts, np.int32),
        words=np.asarray(words, np.int32),
        sources=sources,
        cut=tuple(size - left for size, left in zip(sizes, kept, strict=True)),
    )


def _fitting(sizes: Sequence[int], room: int) -> list[int]:
    """How much of each text is kept, at most `room` in all.

    Taking a token from the text that has more left, from the second if they are equal,
    until all fit ends with the shorter text whole or with halves, of which the first
    is the greater.
    """
    if len(sizes) == 1 or sum(sizes) <= room:
        return [min(size, room) for size in sizes]
    first, second = sizes
    half = room // 2
    if second <= half:
        return [room - second, second]
    if first <= room - half:
        return [first, room - first]
    return [room - half, half]
