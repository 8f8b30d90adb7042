"""Which records form which batch, and the batches, built ahead in the background."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task

# Batches that are sorted by length together: few enough that an epoch mixes anew, so
# many that the lengths within one batch hardly differ.
WINDOW = 64

Indices = npt.NDArray[np.integer]


@runtime_checkable
class Plan(Protocol):
    """The records of every batch, by random access; threads may read it."""

    def __getitem__(self, number: int) -> Indices:
        """The record indices of batch `number`, which is any integer >= 0."""
        ...


class ShuffledPlan:
    """Full batches cut from an endless sequence of epochs, each in a new random order.

    The order of epoch e is `numpy.random.default_rng((seed, e)).permutation(size)`. A
    batch that begins in one epoch ends in the next, so no record is dropped.

    Args:
        size: Number of records.
        batch_size: Records per batch; may be more than `size`.
        seed: Seeds the order, >= 0.

    Raises:
        InputError: If there is no record, or the batch size is below 1.

    Examples:
        >>> plan = ShuffledPlan(6, 4, seed=0)
        >>> sorted(np.concatenate([plan[0], plan[1], plan[2]]).tolist())
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    """

    def __init__(self, size: int, batch_size: int, seed: int):
        if size < 1 or batch_size < 1:
            raise InputError(
                "batches need a record and a batch size >= 1, "
                f"got {size} records and batch size {batch_size}."
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        # the epoch that is read, and the one that its last batch ends in
        self._epoch = functools.lru_cache(2)(self._permutation)

    def __getitem__(self, number: int) -> Indices:
        start = number * self.batch_size
        return self.span(start, start + self.batch_size)

    def span(self, start: int, stop: int) -> Indices:
        """The positions from `start` up to `stop` of the endless sequence."""
        first, last = start // self.size, (stop - 1) // self.size
        if first == last:
            base = first * self.size
            return self._epoch(first)[start - base : stop - base]
        edges = [start, *(e * self.size for e in range(first + 1, last + 1)), stop]
        parts = itertools.pairwise(edges)
        return np.concatenate([self.span(*part) for part in parts])

    def _permutation(self, epoch: int) -> Indices:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
        order.flags.writeable = False
        return order


class BucketedPlan:
    """Full batches of records of similar length, in a new random order each epoch.

    It hands out the endless sequence of a `ShuffledPlan`, one epoch after the other:
    some 64 batches' worth of it is sorted by length and cut into batches, and then the
    batches of the whole epoch are shuffled. The records at the end of an epoch that do
    not fill a batch join the next one. So after each epoch, but for those, every record
    was visited equally often, and none is dropped.

    Args:
        lengths: `[N]`, or `[N, k]` to sort by the first of k lengths and, where they
            are equal, by the next.
        batch_size: Records per batch.
        seed: Seeds the order, >= 0.

    Raises:
        InputError: As `ShuffledPlan`.

    Examples:
        >>> plan = BucketedPlan(np.array([3, 9, 3, 9, 3, 9]), 3, seed=0)
        >>> sorted(sorted(plan[i].tolist()) for i in range(2))
        [[0, 2, 4], [1, 3, 5]]
    """

    def __init__(self, lengths: npt.NDArray[np.integer], batch_size: int, seed: int):
        self.lengths = lengths.reshape(len(lengths), -1)
        self.shuffled = ShuffledPlan(len(lengths), batch_size, seed)
        self._epoch = functools.lru_cache(2)(self._batches)

    def __getitem__(self, number: int) -> Indices:
        size, batch_size = self.shuffled.size, self.shuffled.batch_size
        # the epoch that this batch is completed in
        epoch = -(-(number + 1) * batch_size // size) - 1
        return self._epoch(epoch)[number - epoch * size // batch_size]

    def _batches(self, epoch: int) -> Indices:
        size, batch_size = self.shuffled.size, self.shuffled.batch_size
        first, last = (e * size // batch_size for e in (epoch, epoch + 1))
        records = self.shuffled.span(first * batch_size, last * batch_size)
        windows = np.array_split(np.arange(last - first), -(-(last - first) // WINDOW))
        window = np.repeat(np.arange(len(windows)), [len(w) for w in windows])
        keys = (*self.lengths[records].T[::-1], np.repeat(window, batch_size))
        # a stable sort: equal lengths stay in their random order
        batches = records[np.lexsort(keys)].reshape(-1, batch_size)
        rng = np.random.default_rng((self.shuffled.seed, epoch, WINDOW))
        batches = rng.permutation(batches)
        batches.flags.writeable = False
        return batches


class Batches:
    """Iterator over `(number, indices, arrays)`: batches built in the background.

    `number` counts from 0, `indices` are the records of the whole batch, `arrays` what
    `task.batch` makes of them. Grain fetches whole batches by number: it takes some
    30 us for each thing it fetches, too much for a record. Its state, a dict that JSON
    can hold, is that of the batches handed out, not of those built ahead.

    An exception of `task.batch` is raised where its batch is due.

    Args:
        task: Its `batch` builds the arrays, its `lengths` the room that they need.
        records: A sequence with `len` and integer indexing, or with `take`.
        plan: The records of each batch.
        batch_size: Records of a batch, over all processes.
        steps: Number of batches.
        rows: The rows of the batch that this process builds (see `process_rows`);
            `None` for all. Shapes depend on the whole batch, not on these rows.
        prefetch: Batches built ahead; with 0 a batch is built when it is asked for.
        num_threads: Threads that build them. More than one only helps where records
            are slow to come by, such as images read from files.

    Examples:
        >>> from zlpr_jax.models.mlp import MLPConfig
        >>> from zlpr_jax.data.multilabel import Record
        >>> from zlpr_jax.tasks import multilabel
        >>> task = multilabel.make(MLPConfig(features=2, labels=3))
        >>> records = [
        ...     Record(id=str(i), features=np.ones(2, np.float32), labels=np.int32([i]))
        ...     for i in range(3)
        ... ]
        >>> plan = ShuffledPlan(3, 2, seed=0)
        >>> with Batches(task, records, plan, batch_size=2, steps=4) as batches:
        ...     number, indices, arrays = next(batches)
        >>> number, arrays["labels"].shape
        (0, (2, 3))
    """

    def __init__(
        self,
        task: Task,
        records: Sequence[Any],
        plan: Plan,
        *,
        batch_size: int,
        steps: int,
        rows: npt.NDArray[np.integer] | None = None,
        prefetch: int = 2,
        num_threads: int = 1,
    ):
        source = _Source(task, records, plan, batch_size, steps, rows)
        options = grain.ReadOptions(num_threads, max(prefetch, num_threads))
        if not prefetch:
            options = grain.ReadOptions(0, 0)
        self._iterator = iter(grain.MapDataset.source(source).to_iter_dataset(options))

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> tuple[int, Indices, Any]:
        return next(self._iterator)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def get_state(self) -> dict[str, Any]:
        """Where the iterator is: after the last batch that it handed out."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called, in this process or another."""
        self._iterator.set_state(state)

    def close(self) -> None:
        """Build no more batches; the thread ends with the one it is building."""
        self._iterator.close()


class _Source:
    """Batch `index` by random access, as Grain reads it."""

    def __init__(
        self,
        task: Task,
        records: Sequence[Any],
        plan: Plan,
        batch_size: int,
        steps: int,
        rows: npt.NDArray[np.integer] | None,
    ):
        self._task, self._records, self._plan = task, records, plan
        self._size, self._steps, self._rows = batch_size, steps, rows
        self._lengths = None if task.lengths is None else task.lengths(records)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> tuple[int, Indices, Any]:
        indices = own = self._plan[index]
        size = self._size
        if self._rows is not None:
            own, size = indices[self._rows], len(self._rows)
        chosen = gather(self._records, own)
        if self._lengths is None:
            return index, indices, self._task.batch(chosen, size)
        room = self._lengths[indices].max(axis=0)
        return index, indices, self._task.batch(chosen, size, room)


def gather(records: Sequence[Any], indices: Indices) -> Sequence[Any]:
    """The records at `indices`: by `records.take` where it has that, else a list."""
    take = getattr(records, "take", None)
    if take is not None:
        return take(indices)
    return [records[index] for index in indices.tolist()]
