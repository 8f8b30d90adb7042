"""Rows of tokens for a language model, and documents packed into them."""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenRow:
    """One row of a `TokenRows`: its arrays are `[L]`."""

    tokens: Ints
    targets: Ints
    segments: Ints | None
    positions: Ints | None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenRows(Sequence[TokenRow]):
    """Rows of one length in memory, a sequence: `rows[i]` is row i, a `TokenRow`.

    Attributes:
        tokens: What the model reads, int32 `[N, L]`.
        targets: What it has to say at each place, int32 `[N, L]`; -1 does not count.
        segments: Which document of its row a token belongs to, from 1, int32 `[N, L]`;
            0 is padding. `None` where a row is all one document.
        positions: The place of a token in its document, from 0, int32 `[N, L]`. `None`
            for `0 .. L - 1`.

    Raises:
        ValueError: The arrays are not `[N, L]` of int32, or only one of `segments` and
            `positions` is there.

    Examples:
        >>> tokens, targets = np.int32([[0, 5, 6]]), np.int32([[5, 6, 0]])
        >>> rows = TokenRows(tokens=tokens, targets=targets)
        >>> len(rows), rows[0].tokens.tolist(), rows.take([0, 0]).tokens.shape
        (1, [0, 5, 6], (2, 3))
    """

    tokens: Ints
    targets: Ints
    segments: Ints | None = None
    positions: Ints | None = None

    def __post_init__(self):
        for name, array in self.arrays().items():
            shape = np.shape(self.tokens)
            if array.dtype != np.int32 or array.ndim != 2 or array.shape != shape:
                raise ValueError(
                    f"{name} must be int32 [N, L], as tokens, got {array.dtype} "
                    f"{list(array.shape)} where tokens are {list(shape)}: convert them."
                )
        if (self.segments is None) != (self.positions is None):
            raise ValueError(
                "segments and positions belong together, got one of them: give both "
                "or neither."
            )

    def arrays(self) -> dict[str, Ints]:
        """The arrays that are there, by name."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        return {name: array for name, array in fields.items() if array is not None}

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[TokenRow]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer) -> TokenRow: ...

    @overload
    def __getitem__(self, index: slice) -> "TokenRows": ...

    def __getitem__(self, index: int | np.integer | slice) -> "TokenRow | TokenRows":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        values = {name: array[index] for name, array in self.arrays().items()}
        return TokenRow(
            tokens=values["tokens"],
            targets=values["targets"],
            segments=values.get("segments"),
            positions=values.get("positions"),
        )

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> "TokenRows":
        """The rows at `indices`, in that order.

        Args:
            indices: Positions; a repeated one is repeated.

        Returns:
            Those rows.

        Raises:
            IndexError: An index is not a position.
        """
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        return TokenRows(**{name: array[rows] for name, array in self.arrays().items()})


def stack_rows(rows: Sequence[TokenRow]) -> TokenRows:
    """Rows of one length, all with segments or all without, as `TokenRows`."""
    names = [field.name for field in dataclasses.fields(TokenRow)]
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    there = {name: rows for name, rows in columns.items() if rows[0] is not None}
    return TokenRows(**{name: np.stack(rows) for name, rows in there.items()})


def pack_documents(
    documents: Sequence[npt.NDArray[np.integer]], length: int, *, end: int
) -> TokenRows:
    """Pack documents of any length into rows of `length`.

    A document `t1 .. tn` is read as `end, t1 .. tn`, and `t1 .. tn, end` are its
    targets: `end` begins and ends each. One that does not fit into a row is cut into
    pieces of `length` and a rest; each piece is a segment of its own, with positions
    from 0. Pieces are packed by best fit, the longest first. Every token is a target
    exactly once: `sum (n + 1)` targets count. Padding has the token `end`, the target
    -1, segment and position 0.

    `segments` and `positions` are `None` where no row holds two pieces, as for a
    single document, whose rows are its consecutive windows. Padding is then at the end
    of a row only, where causal attention shows it to no other token.

    Args:
        documents: Token ids, `[n]` each; n may be 0.
        length: Tokens in a row, >= 1.
        end: The id that stands between documents, >= 0.

    Returns:
        The rows; the same for the same documents.

    Raises:
        ValueError: There is no document, one is not a list of ids, or `length` or `end`
            is out of range.

    Examples:
        >>> documents = [np.int32([5, 6, 7, 8, 9]), np.int32([3]), np.int32([4])]
        >>> rows = pack_documents(documents, 5, end=0)
        >>> rows.tokens.tolist()
        [[0, 5, 6, 7, 8], [0, 3, 0, 4, 9]]
        >>> rows.targets.tolist()
        [[5, 6, 7, 8, 9], [3, 0, 4, 0, 0]]
        >>> rows.segments[1].tolist(), rows.positions[1].tolist()
        ([1, 1, 2, 2, 3], [0, 1, 0, 1, 0])
    """
    _check(documents, length, end)
    # The documents one after the other, with `end` between: a token's target is next.
    stops = np.cumsum([len(document) + 1 for document in documents])
    stream = np.full(stops[-1] + 1, end, np.int32)
    between = np.ones(len(stream), bool)
    between[0] = between[stops] = False
    stream[between] = np.concatenate(documents)

    sizes = np.diff(stops, prepend=0)
    pieces = -(-sizes // length)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(stops - sizes, pieces) + length * (np.arange(len(first)) - first)
    sizes = np.minimum(np.repeat(stops, pieces) - starts, length)
    rows, offsets, segments = _best_fit(sizes, length)

    inside = np.arange(len(stream) - 1) - np.repeat(starts, sizes)
    places = np.repeat(rows * length + offsets, sizes) + inside
    count = int(rows.max()) + 1

    def laid_out(values: npt.NDArray[np.integer], padding: int) -> Ints:
        array = np.full(count * length, padding, np.int32)
        array[places] = values
        return array.reshape(count, length)

    tokens, targets = laid_out(stream[:-1], end), laid_out(stream[1:], -1)
    if segments.max() == 1:
        return TokenRows(tokens=tokens, targets=targets)
    return TokenRows(
        tokens=tokens,
        targets=targets,
        segments=laid_out(np.repeat(segments, sizes), 0),
        positions=laid_out(inside, 0),
    )


def _best_fit(
    sizes: npt.NDArray[np.integer], length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row, offset and number (from 1) in its row of every piece, the longest first.

    The rows are kept by the room that is left in them, so that a piece finds the
    tightest of them by bisection, however many there are.
    """
    rows, offsets, segments = np.zeros((3, len(sizes)), np.int64)
    room: list[int] = []  # sorted: what is left in a row, where any row has it
    rows_with: dict[int, list[tuple[int, int]]] = {}  # of a room: row, pieces in it
    opened = 0
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        place = bisect.bisect_left(room, size)
        if place == len(room):
            left, row, held, opened = length, opened, 0, opened + 1
        else:
            left = room[place]
            row, held = rows_with[left].pop()
            if not rows_with[left]:
                del room[place]
        rows[piece], offsets[piece], segments[piece] = row, length - left, held + 1
        left -= size
        if left:
            same = rows_with.setdefault(left, [])
            if not same:
                bisect.insort(room, left)
            same.append((row, held + 1))
    return rows, offsets, segments


def _check(documents: Sequence[npt.NDArray[np.integer]], length: int, end: int) -> None:
    if not len(documents):
        raise ValueError("there is no document to pack: give at least one.")
    for name, value, least in (("length", length, 1), ("end", end, 0)):
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}.")
    for number, document in enumerate(documents):
        listed = document.dtype.kind in "iu" and document.ndim == 1
        inside = listed and (
            not len(document) or 0 <= document.min() <= document.max() < 2**31
        )
        if not inside:
            raise ValueError(
                f"document {number} must be a list of token ids in [0, 2^31), got "
                f"{document.dtype} {list(document.shape)}: encode the text first."
            )
