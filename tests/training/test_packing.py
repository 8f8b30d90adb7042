"""Packing: every record in one row, none too full, no two that could be one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zlpr_jax._errors import InputError
from zlpr_jax.training import PackedRecords, pack_rows


def one_by_one(lengths, capacity):
    """Best fit, the longest first, as it is defined: the loads of the rows."""
    loads = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, load in enumerate(loads) if load + length <= capacity]
        if fitting:
            loads[max(fitting, key=lambda i: loads[i])] += length
        else:
            loads.append(length)
    return sorted(loads)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 30), st.data())
def test_rows_are_those_of_best_fit(capacity, data):
    lengths = np.array(data.draw(st.lists(st.integers(1, capacity))), int)
    rows = pack_rows(lengths, capacity)
    packed = np.concatenate([*rows, []])
    assert sorted(packed.tolist()) == list(range(len(lengths)))
    loads = [int(lengths[row].sum()) for row in rows]
    assert all(0 < load <= capacity for load in loads)
    assert sorted(loads) == one_by_one(lengths.tolist(), capacity)
    if len(loads) > 1:
        assert sum(sorted(loads)[:2]) > capacity, "two rows could be one"


def test_is_deterministic_and_keeps_the_order_within_a_row():
    lengths = np.random.default_rng(0).integers(1, 60, 5000)
    rows, again = (pack_rows(lengths, 128) for _ in range(2))
    assert [row.tolist() for row in rows] == [row.tolist() for row in again]
    assert all((np.diff(row) > 0).all() for row in rows)
    assert len(rows) <= 1.01 * lengths.sum() / 128 + 1


def test_a_longer_capacity_than_any_record():
    assert [row.tolist() for row in pack_rows(np.array([2, 3]), 10**9)] == [[0, 1]]


def test_no_records_no_rows():
    assert pack_rows(np.zeros(0, int), 4) == []


@pytest.mark.parametrize("length", [0, -1, 9])
def test_a_record_that_has_no_row_is_named(length):
    with pytest.raises(InputError, match=rf"record 1 has length {length}, .* 1 to 8"):
        pack_rows(np.array([8, length, 10]), 8)


def test_packed_records_are_a_sequence_of_tuples():
    rows = [np.array([1]), np.array([0, 2])]
    packed = PackedRecords("abc", rows)
    assert len(packed) == 2
    assert list(packed) == [("b",), ("a", "c")]
    assert packed[-1] == ("a", "c")
    assert list(packed[1:]) == [("a", "c")]
    with pytest.raises(IndexError):
        packed[2]
