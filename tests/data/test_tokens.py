"""Packed documents: nothing is lost, nothing is there twice, no row could be saved."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zlpr_jax.data.tokens import TokenRows, pack_documents, stack_rows

END = 0


def documents_of(sizes, first=1):
    """Documents of these sizes in which no token occurs twice."""
    stops = np.cumsum([first, *sizes])
    return [np.arange(*pair, dtype=np.int32) for pair in itertools.pairwise(stops)]


def expected_pieces(documents, length):
    """(inputs, targets) of every piece, by slices of lists."""
    for document in documents:
        inputs = [END, *document.tolist()]
        targets = [*document.tolist(), END]
        for start in range(0, len(inputs), length):
            piece = slice(start, start + length)
            yield tuple(inputs[piece]), tuple(targets[piece])


def found_pieces(rows):
    """(inputs, targets) of every segment of the rows, which are checked on the way."""
    none = rows.segments is None
    segments = (rows.targets >= 0).astype(np.int32) if none else rows.segments
    for row in range(len(rows)):
        numbers = segments[row]
        # 1 1 1 2 2 3 0 0: contiguous, in order, padding last
        used = int((numbers > 0).sum())
        assert (numbers[used:] == 0).all()
        assert set(np.diff(numbers[:used], prepend=0).tolist()) <= {0, 1}
        assert numbers[0] == 1
        np.testing.assert_array_equal(rows.targets[row] >= 0, numbers > 0)
        assert (rows.tokens[row, used:] == END).all()
        for number in range(1, numbers.max() + 1):
            places = numbers == number
            if not none:
                positions = rows.positions[row, places].tolist()
                assert positions == list(range(len(positions)))
            yield (
                tuple(rows.tokens[row, places].tolist()),
                tuple(rows.targets[row, places].tolist()),
            )
        if not none:
            assert not rows.positions[row, used:].any()


SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=30)


@given(SIZES, st.integers(1, 17))
@settings(deadline=None)
def test_nothing_is_lost_and_nothing_is_there_twice(sizes, length):
    documents = documents_of(sizes)
    rows = pack_documents(documents, length, end=END)
    assert {array.dtype for array in rows.arrays().values()} == {np.dtype("int32")}
    assert {array.shape for array in rows.arrays().values()} == {(len(rows), length)}
    expected = sorted(expected_pieces(documents, length))
    assert sorted(found_pieces(rows)) == expected
    assert (rows.targets >= 0).sum() == sum(size + 1 for size in sizes)


@given(SIZES, st.integers(1, 17))
@settings(deadline=None)
def test_rows_are_full_and_the_same_each_time(sizes, length):
    documents = documents_of(sizes)
    rows = pack_documents(documents, length, end=END)
    again = pack_documents(documents, length, end=END)
    assert rows.arrays().keys() == again.arrays().keys()
    for name, array in rows.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])
    # Best fit: what the last row begins with went into no row before it.
    used = (rows.targets >= 0).sum(axis=1)
    first = used[-1] if rows.segments is None else (rows.segments[-1] == 1).sum()
    assert (used[:-1] + first > length).all()
    # None exactly where no row holds two pieces.
    pieces = len(list(expected_pieces(documents, length)))
    assert (rows.segments is None) == (len(rows) == pieces)
    assert (rows.positions is None) == (rows.segments is None)


def test_a_piece_goes_into_the_tightest_row_that_has_room():
    rows = pack_documents(documents_of([5, 3, 2, 3, 1, 0]), 8, end=END)
    # Of 6, 4, 3, 4, 2, 1: both 4s together; 3 alone; 2 into what 6 leaves, 1 with 3.
    assert rows.segments.tolist() == [
        [1, 1, 1, 1, 1, 1, 2, 2],
        [1, 1, 1, 1, 2, 2, 2, 2],
        [1, 1, 1, 2, 0, 0, 0, 0],
    ]
    assert rows.tokens.tolist() == [
        [0, 1, 2, 3, 4, 5, 0, 14],
        [0, 6, 7, 8, 0, 11, 12, 13],
        [0, 9, 10, 0, 0, 0, 0, 0],
    ]
    assert rows.positions[2].tolist() == [0, 1, 2, 0, 0, 0, 0, 0]
    assert rows.targets[2].tolist() == [9, 10, 0, 0, -1, -1, -1, -1]


def test_a_single_document_is_its_windows_in_order():
    document = np.arange(1, 12, dtype=np.int64)  # any integers
    rows = pack_documents([document], 5, end=END)
    assert rows.tokens.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 0, 0, 0]]
    assert rows.targets.tolist() == [
        [1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10],
        [11, 0, -1, -1, -1],
    ]
    assert rows.segments is None
    assert rows.positions is None


def test_an_end_that_is_no_zero():
    rows = pack_documents(documents_of([2, 1]), 6, end=9)
    assert rows.tokens.tolist() == [[9, 1, 2, 9, 3, 9]]
    assert rows.targets.tolist() == [[1, 2, 9, 3, 9, -1]]


def test_many_documents():
    sizes = np.random.default_rng(0).integers(0, 20, 100_000)
    rows = pack_documents(documents_of(sizes), 64, end=END)
    assert (rows.targets >= 0).sum() == (sizes + 1).sum()
    assert (rows.targets > 0).sum() == sizes.sum()
    assert np.unique(rows.targets[rows.targets > 0]).size == sizes.sum()
    assert (rows.targets < 0).mean() < 0.001  # hardly any padding


@pytest.mark.parametrize(
    ("documents", "length", "end", "reason"),
    [
        ([], 8, 0, "no document"),
        ([np.int32([1])], 0, 0, "length must be >= 1, got 0"),
        ([np.int32([1])], 8, -1, "end must be >= 0, got -1"),
        ([np.int32([1]), np.int32([3, -1])], 8, 0, "document 1 must be"),
        ([np.int64([2**31])], 8, 0, "document 0 must be"),
        ([np.int32([[1]])], 8, 0, r"document 0 must be .* got int32 \[1, 1\]"),
    ],
)
def test_bad_documents(documents, length, end, reason):
    with pytest.raises(ValueError, match=reason):
        pack_documents(documents, length, end=end)


def test_rows_are_a_sequence():
    rows = pack_documents(documents_of([3, 5, 2, 7, 1]), 8, end=END)
    plain = TokenRows(tokens=rows.tokens, targets=rows.targets)
    for some in (rows, plain):
        taken = some.take([2, 0, 2])
        assert len(some) == 3
        assert len(taken) == 3
        for name, array in some.arrays().items():
            np.testing.assert_array_equal(taken.arrays()[name], array[[2, 0, 2]])
            np.testing.assert_array_equal(some[1:].arrays()[name], array[1:])
            np.testing.assert_array_equal(getattr(some[-1], name), array[2])
        stacked = stack_rows(list(some)).arrays()
        assert stacked.keys() == some.arrays().keys()
        for name, array in stacked.items():
            np.testing.assert_array_equal(array, some.arrays()[name])
    assert plain[0].segments is plain[0].positions is None
    for wrong in (lambda: rows[3], lambda: rows.take([0, 3])):
        with pytest.raises(IndexError):
            wrong()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"targets": np.zeros((2, 4), np.int32)}, r"targets .* \[2, 4\] .* \[2, 3\]"),
        ({"segments": np.ones((2, 3), np.int32)}, "belong together"),
        ({"positions": np.ones((2, 3), np.int32)}, "belong together"),
        ({"tokens": np.zeros(3, np.int32), "targets": np.zeros(3, np.int32)}, "tokens"),
    ],
)
def test_rows_that_do_not_fit_together(arrays, reason):
    good = {name: np.zeros((2, 3), np.int32) for name in ("tokens", "targets")}
    with pytest.raises(ValueError, match=reason):
        TokenRows(**good | arrays)
