"""Metrics as JSON lines, and beside them as TensorBoard event files."""

import contextlib
import copy
import json
import math
import numbers
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zlpr_jax._errors import InputError
from zlpr_jax.training._digests import sync_folder
from zlpr_jax.training._processes import is_main

Row = Mapping[str, Any]
# Seconds for which event files may lie in memory only; flushing waits for the disk.
FLUSH_EVERY = 10


class MetricsLog:
    """A file of rows, each a line of JSON, and TensorBoard scalars of the same.

    A row holds its `step` and dicts of numbers. What it holds twice is written once: a
    row with the labels, the step and the dicts of one that is there is left out, since
    a program that is run again, to go on, repeats what it wrote after a finished fit.
    Rows hold nothing that a clock measured, so those of a run that was killed and
    resumed are those of one that never was. NaN and infinities become null.

    Args:
        path: The file, to go on with if it exists.
        tensorboard: The folder of the event files; `None` for none.
        writing: Whether this process writes anything; `None`: if it is process 0.

    Raises:
        InputError: If the file holds a line that is not a row, or cannot be written.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> with MetricsLog(path) as log:
        ...     bound = log.bind(loss="zlpr", seed=0)
        ...     bound.write({"step": 25, "train": {"loss": 2.5}})
        ...     bound.write({"step": 50, "train": {"loss": 1.5}})
        ...     bound.cut(25)
        >>> print(path.read_text(), end="")
        {"loss": "zlpr", "seed": 0, "step": 25, "train": {"loss": 2.5}}
    """

    def __init__(
        self,
        path: Path,
        *,
        tensorboard: Path | None = None,
        writing: bool | None = None,
    ):
        self._path, self._tensorboard = path, tensorboard
        self._writing = is_main() if writing is None else writing
        self._labels: dict[str, Any] = {}
        # Those bound share what follows.
        self._steps: dict[str, set[int]] = {}
        self._events: dict[str, _Events] = {}
        if not self._writing:
            return
        with self._failing():
            path.parent.mkdir(parents=True, exist_ok=True)
            there = list(self._read())
            self._rewrite([line for line, _ in there])
        for _, row in there:
            self._known(row).add(row["step"])

    def bind(self, **labels: str | int) -> "MetricsLog":
        """The same log, for rows that begin with these fields.

        The event files of the rows with loss="zlpr" and seed=0 lie in `zlpr-0`.
        """
        bound = copy.copy(self)
        bound._labels = self._labels | labels
        return bound

    def write(self, row: Row, measured: Mapping[str, float] | None = None) -> None:
        """Append a row, unless it is there.

        Args:
            row: `{"step": 25, "train": {"loss": 2.5}, ...}`.
            measured: What differs from run to run, such as examples per second: for
                the event files only.
        """
        if not self._writing:
            return
        full = self._labels | _plain(row)
        steps, step = self._known(full), full["step"]
        if step in steps:
            return
        line = json.dumps(full, ensure_ascii=False, allow_nan=False) + "\n"
        # Opening costs little, and `cut` may have replaced the file.
        with self._failing():
            with self._path.open("ab") as stream:
                stream.write(line.encode())
            steps.add(step)
            if self._tensorboard is not None:
                scalars = {**dict(_scalars(row)), **(measured or {})}
                self._event_file(self._tensorboard).write(step, scalars)

    def rows(self) -> list[dict[str, Any]]:
        """All rows with the bound fields, in the order they were written in."""
        return [row for _, row in self._read() if self._is_bound(row)]

    def cut(self, step: int) -> None:
        """Take back what was written after a step, when training goes on from there.

        Of the rows with the bound fields, the first with a larger step goes, and all
        that were written after it. The file appears anew as a whole.
        """
        if not self._writing:
            return
        kept, gone = [], []
        for line, row in self._read():
            late = self._is_bound(row) and (gone or row["step"] > step)
            (gone if late else kept).append((line, row))
        with self._failing():
            if gone:
                self._rewrite([line for line, _ in kept])
            for _, row in gone:
                self._known(row).discard(row["step"])
            if self._tensorboard is not None:
                self._event_file(self._tensorboard, purge=step + 1)

    def sync(self) -> None:
        """Wait until what was written is on the disk, for a checkpoint to rely on."""
        with self._failing():
            if self._writing and self._path.exists():
                with self._path.open("rb") as stream:
                    os.fsync(stream.fileno())
            for events in self._events.values():
                events.flush()

    def close(self) -> None:
        """Close the event files."""
        while self._events:
            self._events.popitem()[1].close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _is_bound(self, row: Row) -> bool:
        return all(row.get(name) == value for name, value in self._labels.items())

    def _known(self, row: Row) -> set[int]:
        """The steps of the rows that are like this one."""
        like = {k: {} if isinstance(v, dict) else v for k, v in row.items()}
        kind = json.dumps(like | {"step": None}, sort_keys=True)
        return self._steps.setdefault(kind, set())

    def _read(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Lines and their rows, without a last line that was torn."""
        if not (self._writing and self._path.exists()):
            return
        with self._failing(), self._path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return
                yield line, self._parse(line, number)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            return row
        text = line.decode(errors="replace").strip()
        raise InputError(
            f"{self._path}, line {number}: expected a row of metrics, an object of "
            f'JSON with "step", got {text[:60]!r}: remove that line.'
        )

    def _rewrite(self, lines: list[bytes]) -> None:
        text = b"".join(lines)
        if self._path.exists() and self._path.stat().st_size == len(text):
            return
        new = self._path.with_name(f".new-{self._path.name}")
        with new.open("wb") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(self._path)
        sync_folder(self._path.parent)

    def _event_file(self, folder: Path, purge: int | None = None) -> "_Events":
        """The open event file of these labels; only one is open at a time."""
        name = "-".join(str(value) for value in self._labels.values())
        if name not in self._events or purge is not None:
            self.close()
            self._events[name] = _Events(folder / name, purge)
        return self._events[name]

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self._path}: metrics cannot be written: {error}"
            ) from None


class _Events:
    """An event file. tensorboardX does the format.

    Its SummaryWriter hands scalars to a thread through a queue, so after a kill some
    are missing that a checkpoint came after; here `flush` means what it says.
    """

    def __init__(self, folder: Path, purge: int | None):
        # slow to import
        from tensorboardX import RecordWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event: Any = event_pb2
        self._summary: Any = summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        resumed = any(folder.glob("*tfevents*"))
        # TensorBoard reads files in the order of their names.
        place = folder / f"events.out.tfevents.{time.time_ns()}"
        self._records = RecordWriter(str(place))
        self._add(file_version="brain.Event:2")
        if resumed and purge is not None:
            # hides what earlier files have from this step on
            kind = self._event.SessionLog
            self._add(step=purge, session_log=kind(status=kind.START))
        self.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        kind = self._summary.Summary
        values = [kind.Value(tag=tag, simple_value=x) for tag, x in scalars.items()]
        if values:
            self._add(step=step, summary=kind(value=values))
        if time.monotonic() - self._flushed > FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        self._records.flush()

    def close(self) -> None:
        self.flush()
        self._records.close()

    def _add(self, **fields: Any) -> None:
        event = self._event.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())


def _plain(value: Any) -> Any:
    """`value` in JSON's types: no NumPy numbers, and null for what is not finite."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(row: Row) -> Iterator[tuple[str, float]]:
    """The numbers of a row, as train/loss, validation/micro_f1, ..."""
    for part, values in row.items():
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if isinstance(value, numbers.Real) and not isinstance(value, bool):
                yield f"{part}/{name}", float(value)
