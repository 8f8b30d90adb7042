"""Batch plans, and the iterator that builds batches in the background."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.tasks import RECORDS, least_squares
from zlpr_jax._errors import InputError
from zlpr_jax.training._input import Batches, BucketedPlan, ShuffledPlan, gather

SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**32)
quick = settings(deadline=None, max_examples=60)


def ragged_task():
    """Records are arrays of different lengths."""

    def batch(records, size, lengths=None):
        room = max(map(len, records)) if lengths is None else int(lengths)
        rows = np.zeros((size, room), int)
        for row, record in zip(rows, records, strict=False):
            row[: len(record)] = record
        return {"rows": rows, "where": np.arange(size) < len(records)}

    def lengths(records):
        return np.array([len(record) for record in records])

    return least_squares()._replace(batch=batch, lengths=lengths)


RAGGED = [np.arange(1, 2 + i * i % 13) for i in range(30)]


def batches_of(task=None, records=RECORDS, *, size=8, steps=12, **options):
    plan = options.pop("plan", None) or ShuffledPlan(len(records), size, 5)
    task = task or least_squares()
    return Batches(task, records, plan, batch_size=size, steps=steps, **options)


def assert_same(batches, others):
    assert len(batches) == len(others)
    for (number, indices, arrays), (n, i, a) in zip(batches, others, strict=True):
        assert number == n
        np.testing.assert_array_equal(indices, i)
        assert arrays.keys() == a.keys()
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], a[name])


# -- Plans


@quick
@given(SIZES, st.integers(1, 90), SEEDS)
def test_every_record_once_an_epoch(size, batch_size, seed):
    plan = ShuffledPlan(size, batch_size, seed)
    batches = [plan[i] for i in range(size)]  # `batch_size` whole epochs
    assert {len(batch) for batch in batches} == {batch_size}
    epochs = np.concatenate(batches).reshape(-1, size)
    np.testing.assert_array_equal(np.sort(epochs), [range(size)] * batch_size)
    for epoch, order in enumerate(epochs):
        rng = np.random.default_rng((seed, epoch))
        np.testing.assert_array_equal(order, rng.permutation(size))


@quick
@given(SIZES, st.integers(1, 90), SEEDS, st.data())
def test_buckets_hand_out_what_the_shuffled_plan_does(size, batch_size, seed, data):
    """After every epoch, but for the records that did not fill a batch."""
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    bucketed = BucketedPlan(np.array(lengths), batch_size, seed)
    shuffled = ShuffledPlan(size, batch_size, seed)
    done = 0
    for epoch in range(1, 4):
        whole = epoch * size // batch_size
        new = range(done, whole)
        assert {len(bucketed[i]) for i in new} <= {batch_size}
        found, expected = (
            np.sort(np.concatenate([plan[i] for i in new] or [[]]))
            for plan in (bucketed, shuffled)
        )
        np.testing.assert_array_equal(found, expected)
        done = whole


@pytest.mark.parametrize("kind", ["shuffled", "bucketed"])
@quick
@given(SIZES, st.integers(1, 90), SEEDS, st.permutations(range(12)))
def test_random_access_is_sequential(kind, size, batch_size, seed, order):
    def plan():
        if kind == "shuffled":
            return ShuffledPlan(size, batch_size, seed)
        return BucketedPlan(np.arange(size) % 7, batch_size, seed)

    sequential, jumping = plan(), plan()
    expected = [sequential[i] for i in range(12)]
    for i in order:
        np.testing.assert_array_equal(jumping[i], expected[i])


@pytest.mark.parametrize(
    "make", [ShuffledPlan, lambda n, *a: BucketedPlan(np.ones(n, int), *a)]
)
def test_seeds_and_epochs_differ(make):
    first, again, other = make(60, 20, 1), make(60, 20, 1), make(60, 20, 2)
    assert first[0].tolist() == again[0].tolist() != other[0].tolist()
    assert first[0].tolist() != first[3].tolist()


def test_a_plan_is_read_from_threads():
    plan, alone = ShuffledPlan(50, 7, 0), ShuffledPlan(50, 7, 0)
    numbers = [i * 37 % 200 for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(plan.__getitem__, numbers))
        for number, found in zip(numbers, batches, strict=True):
            np.testing.assert_array_equal(found, alone[number])


def test_records_of_a_bucket_are_similar_and_batches_in_random_order():
    lengths = np.random.default_rng(0).integers(1, 1001, 8000)
    plan = BucketedPlan(lengths, 16, 0)
    batches = [lengths[plan[i]] for i in range(500)]
    spread = np.mean([np.ptp(batch) for batch in batches])
    # 64 batches of sorted records share the range of 1000
    assert spread < 2 * 1000 / 64
    means = np.array([batch.mean() for batch in batches])
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.2
    following = [lengths[plan[i]].mean() for i in range(500, 1000)]
    assert abs(np.corrcoef(means, following)[0, 1]) < 0.2
    # another epoch has other batches, not only another order of them
    first, second = (
        {frozenset(plan[i].tolist()) for i in range(start, start + 500)}
        for start in (0, 500)
    )
    assert len(first & second) < 50


def test_buckets_go_by_the_next_length_where_one_is_equal():
    lengths = np.stack([np.ones(40, int), np.arange(40) % 5], axis=1)
    plan = BucketedPlan(lengths, 8, 0)
    assert {np.ptp(lengths[plan[i], 1]) for i in range(5)} == {0}


def test_equal_lengths_are_shuffled():
    plan = BucketedPlan(np.ones(64, int), 8, 0)
    batches = np.stack([plan[i] for i in range(8)])
    assert (np.diff(batches) < 0).any(axis=1).all()


@pytest.mark.parametrize(("size", "batch_size"), [(0, 4), (4, 0)])
def test_a_plan_needs_records_and_a_size(size, batch_size):
    with pytest.raises(InputError, match=f"{size} records and batch size {batch_size}"):
        ShuffledPlan(size, batch_size, 0)


# -- The iterator


def test_hands_out_the_plan():
    plan = ShuffledPlan(len(RECORDS), 8, 5)
    with batches_of() as batches:
        found = list(batches)
    assert [number for number, _, _ in found] == list(range(12))
    for number, indices, arrays in found:
        np.testing.assert_array_equal(indices, plan[number])
        expected = np.array(RECORDS, np.float32)[indices]
        np.testing.assert_array_equal(arrays["rows"], expected)


@pytest.mark.parametrize(("prefetch", "num_threads"), [(1, 1), (2, 1), (6, 3), (0, 5)])
def test_building_ahead_changes_nothing(prefetch, num_threads):
    with batches_of(prefetch=0) as plain:
        expected = list(plain)
    with batches_of(prefetch=prefetch, num_threads=num_threads) as batches:
        assert_same(list(batches), expected)


@pytest.mark.parametrize("done", [0, 3, 7, 12])
@pytest.mark.parametrize("prefetch", [0, 4])
def test_goes_on_from_its_state(done, prefetch):
    built, task = threading.Semaphore(0), least_squares()

    def batch(records, size):
        built.release()
        return task.batch(records, size)

    with batches_of(prefetch=0) as plain:
        expected = list(plain)
    with batches_of(task._replace(batch=batch), prefetch=prefetch) as first:
        found = [next(first) for _ in range(done)]
        if done:  # the thread is ahead of what was handed out
            for _ in range(min(done + prefetch, 12)):
                assert built.acquire(timeout=60)
        state = json.loads(json.dumps(first.get_state()))
    with batches_of(prefetch=prefetch) as second:
        second.set_state(state)
        found += list(second)
        assert_same(found, expected)
        second.set_state(state)  # and back
        assert_same(list(second), expected[done:])


@pytest.mark.parametrize("how", ["blocks", "strides"])
@settings(deadline=None, max_examples=25)
@given(st.sampled_from([1, 2, 3, 4, 6, 12]), SEEDS)
def test_rows_of_several_processes_are_the_batch(how, processes, seed):
    size, task = 12, ragged_task()
    plan = ShuffledPlan(len(RAGGED), size, seed)
    options = {"size": size, "steps": 4, "plan": plan, "prefetch": 0}
    whole = list(batches_of(task, RAGGED, **options))
    rows = np.arange(size).reshape(processes, -1)
    if how == "strides":
        rows = np.arange(size).reshape(-1, processes).T
    parts = [list(batches_of(task, RAGGED, rows=r, **options)) for r in rows]
    for number, indices, arrays in whole:
        assert arrays["rows"].shape == (size, max(len(RAGGED[i]) for i in indices))
        joined = np.empty_like(arrays["rows"])
        for own, part in zip(rows, parts, strict=True):
            assert part[number][0] == number
            np.testing.assert_array_equal(part[number][1], indices)
            joined[own] = part[number][2]["rows"]
        np.testing.assert_array_equal(joined, arrays["rows"])


def test_records_are_gathered_by_take_where_they_have_it():
    class Table(list):
        def take(self, indices):
            return ("taken", indices.tolist())

    assert gather(Table(RECORDS), np.array([2, 0])) == ("taken", [2, 0])
    assert gather(RECORDS, np.array([2, 0])) == [RECORDS[2], RECORDS[0]]


# -- Failures and the end


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_an_exception_comes_as_itself_where_its_batch_is_due(prefetch):
    task, error = least_squares(), InputError("image 7 is torn")
    bad = ShuffledPlan(len(RECORDS), 8, 5)[3][0]

    def batch(records, size):
        if RECORDS[bad] in records:
            raise error
        return task.batch(records, size)

    with batches_of(task._replace(batch=batch), prefetch=prefetch) as batches:
        due = next(i for i in range(12) if bad in ShuffledPlan(len(RECORDS), 8, 5)[i])
        for _ in range(due):
            next(batches)
        with pytest.raises(InputError) as caught:
            next(batches)
    assert caught.value is error


def test_closing_does_not_wait_and_leaves_no_thread():
    before = set(threading.enumerate())
    task, begun, go = least_squares(), threading.Event(), threading.Event()
    built = []

    def batch(records, size):
        built.append(len(built))
        if len(built) == 3:
            begun.set()
            assert go.wait(60)
        return task.batch(records, size)

    with batches_of(task._replace(batch=batch), prefetch=4) as batches:
        next(batches)
        assert begun.wait(60)
        threads = set(threading.enumerate()) - before
        assert threads
    # closed while batch 3 is being built
    assert not go.is_set()
    batches.close()  # a second time does nothing
    go.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(built) == 3, "nothing is built after closing"


def test_an_iterator_that_is_never_used_can_be_closed():
    before = set(threading.enumerate())
    with batches_of():
        pass
    assert set(threading.enumerate()) == before
