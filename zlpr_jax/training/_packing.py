"""Several short records in one row of a batch."""

import bisect
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError


def pack_rows(
    lengths: npt.NDArray[np.integer], capacity: int
) -> list[npt.NDArray[np.int64]]:
    """Choose which records share a row, by best fit, the longest first.

    Each record goes to the row with the least room that is enough, or else to a new
    one. So no two of the rows could be one, and of many rows there are at most 11/9 of
    the fewest possible. Records of equal length are placed together, which is fast.

    Args:
        lengths: Length of each record, `[N]`, in [1, capacity].
        capacity: What the records of one row may add up to.

    Returns:
        The records of each row, in rising order; the same for the same lengths.

    Raises:
        InputError: If a length is not in [1, capacity]; it names the first such record.

    Examples:
        >>> rows = pack_rows(np.array([5, 3, 6, 2, 4]), 10)
        >>> [row.tolist() for row in rows]
        [[2, 4], [0, 1, 3]]

    References:
        Johnson, "Near-optimal bin packing algorithms", PhD thesis, MIT, 1973.
        Krell et al., "Efficient Sequence Packing without Cross-contamination:
        Accelerating Large Language Models without Impacting Performance",
        arXiv:2107.02027.
    """
    wrong = np.flatnonzero((lengths < 1) | (lengths > capacity))
    if len(wrong):
        raise InputError(
            f"record {wrong[0]} has length {lengths[wrong[0]]}, but a row takes "
            f"1 to {capacity}: cut the record, leave it out, or make the rows longer."
        )
    order = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(lengths), np.int64)
    rooms: list[int] = []  # rising, each once, and which rows have it
    rows_with: dict[int, npt.NDArray[np.int64]] = {}
    rows_made = placed = 0

    def put(room: int, rows: npt.NDArray[np.int64]) -> None:
        if not room or not len(rows):
            return
        if room in rows_with:
            rows = np.concatenate([rows_with[room], rows])
        else:
            bisect.insort(rooms, room)
        rows_with[room] = rows

    # A row that has taken one of several equal records is the best fit for the next.
    found = zip(*np.unique(lengths, return_counts=True), strict=True)
    for length, number in reversed([(int(n), int(count)) for n, count in found]):
        while number:
            tightest = bisect.bisect_left(rooms, length)
            if tightest < len(rooms):
                room = rooms.pop(tightest)
                rows = rows_with.pop(room)
            else:
                room, more = capacity, -(-number // (capacity // length))
                rows = np.arange(rows_made, rows_made + more)
                rows_made += more
            each = room // length
            taken = min(number, each * len(rows))
            full, rest = divmod(taken, each)
            row_of[order[placed : placed + taken]] = rows[np.arange(taken) // each]
            put(room - each * length, rows[:full])
            if rest:
                put(room - rest * length, rows[full : full + 1])
            put(room, rows[full + (rest > 0) :])
            placed, number = placed + taken, number - taken
    ends = np.bincount(row_of, minlength=1).cumsum()
    return np.split(np.argsort(row_of, kind="stable"), ends[:-1]) if rows_made else []


class PackedRecords(Sequence[tuple[Any, ...]]):
    """Records packed into rows: item i is the tuple of the records of row i.

    For `fit` this is a set of records like any other; the task's `batch` takes tuples.

    Args:
        records: A sequence with integer indexing.
        rows: The records of each row, from `pack_rows`.

    Examples:
        >>> rows = pack_rows(np.array([1, 4, 3]), 4)
        >>> list(PackedRecords("abc", rows))
        [('b',), ('a', 'c')]
    """

    def __init__(self, records: Sequence[Any], rows: Sequence[npt.NDArray[np.integer]]):
        self.records, self.rows = records, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> tuple[Any, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> "PackedRecords": ...

    def __getitem__(self, index: int | slice) -> "tuple[Any, ...] | PackedRecords":
        if isinstance(index, slice):
            return PackedRecords(self.records, self.rows[index])
        return tuple(self.records[record] for record in self.rows[index].tolist())
