"""Checkpoints: Orbax writes them, digests tell whether they are whole."""

import contextlib
import functools
import json
import logging
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.training._parameters import named_leaves
from zlpr_jax.training._processes import any_process, is_main
from zlpr_jax.training._step_folders import CheckpointConfig, StepFolders


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
        step: The step that it was saved at.
        tree: The arrays, in the structure and on the devices that were asked for.
        meta: What was saved with them.
    """

    step: int
    tree: PyTree
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one fit: a context manager that ends with the last save done.

    Saving happens in a background thread, in this order: Orbax writes all files to a
    temporary folder and renames it; `digests.json` is written; older steps are removed.
    So a step without digests was cut off, and before it there is one that was not.

    With several processes every method must be called by all of them, alike.

    Args:
        config: Where and how often.
        direction: Whether a higher or a lower score is better.
        warn: Called with one line about a checkpoint that is damaged or could not be
            written, in the first process only.

    Raises:
        InputError: If the folder cannot be used.

    Examples:
        >>> import tempfile
        >>> config = CheckpointConfig(folder=Path(tempfile.mkdtemp()))
        >>> like = {"w": jax.ShapeDtypeStruct((3,), "float32")}
        >>> with Checkpoints(config, direction="max", warn=print) as checkpoints:
        ...     checkpoints.save(500, {"w": jax.numpy.ones(3)}, {"seed": 0}, score=0.7)
        ...     checkpoints.wait()
        ...     checkpoints.restore(like, lambda meta: None)
        True
        Restored(step=500, tree={'w': Array([1., 1., 1.], dtype=float32)},
                 meta={'seed': 0})
    """

    def __init__(
        self,
        config: CheckpointConfig,
        *,
        direction: Literal["max", "min"],
        warn: Callable[[str], None],
    ):
        self._name = config.folder
        self._warn = warn
        self._first = is_main()
        self._steps = StepFolders(
            config, direction, f"*{ocp.path.atomicity.TMP_DIR_SUFFIX}*"
        )
        self._safe: int | None = None  # the newest step known to be whole
        self._running: int | None = None  # the step being saved
        self._done = threading.Event()  # set at the end of that
        self._meta = ""  # of the running save, as JSON
        self._error: Exception | None = None  # of the running save
        self._failed = False  # whether the newest save was lost
        if self._first:
            try:
                for step in self._steps.tidy():
                    warn(
                        f"checkpoint step {step} was cut off while it was written (it "
                        "has no digests.json): removed"
                    )
            except OSError as error:
                raise InputError(
                    f"{config.folder}: checkpoints cannot be kept there: {error}: "
                    "name another folder."
                ) from None
        self._orbax = self._open()
        # What Orbax logs of a failure, several tracebacks, is one line of ours. Each
        # instance has a filter of its own, which it alone removes.
        self._filter = lambda record: _demote(record)
        logging.getLogger("absl").addFilter(self._filter)
        _hide_late_writes()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
            self._orbax.close()
        finally:
            logging.getLogger("absl").removeFilter(self._filter)

    def save(
        self, step: int, tree: PyTree, meta: dict[str, Any], *, score: float | None
    ) -> None:
        """Save in the background, once the save before is done.

        The arrays may be donated as soon as this returns. The newest step is not saved
        a second time.

        Args:
            step: Names the checkpoint; steps are saved in increasing order.
            tree: A pytree of arrays.
            meta: What else to keep, as JSON.
            score: The headline at this step; `None` if it was not evaluated.
        """
        self.wait()
        if step == self._safe:
            return
        arrays = named_leaves(tree)
        if score is not None:
            score = float(score) if math.isfinite(score) else None
        self._meta = json.dumps(
            {"meta": meta, "score": score, "tree": _description(arrays)}
        )
        try:
            self._orbax.save(
                self._steps.path(step), args=ocp.args.StandardSave(_filled(arrays))
            )
        except OSError as error:
            self._error = error
        self._running, self._done = step, threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()

    def wait(self) -> bool:
        """Wait for the running save and return whether the newest one is safe.

        One that failed is reported, its files are removed, and the one before stays the
        last good one.
        """
        if self._running is None:
            return not self._failed
        self._done.wait()
        step, self._running = self._running, None
        error, self._error = self._error, None
        self._failed = any_process(error is not None)
        if self._failed:
            self._report(step, error)
        else:
            self._safe = step
        return not self._failed

    def restore(
        self, like: PyTree, check: Callable[[dict[str, Any]], None]
    ) -> Restored | None:
        """Read the newest checkpoint that is whole.

        Newer ones that are damaged are reported and set aside. Every file is compared
        with its digest before Orbax reads it.

        Args:
            like: A pytree of `jax.ShapeDtypeStruct`: what is expected, and by its
                shardings where. Without a sharding: on the default device.
            check: Raises `InputError` if the saved `meta` does not fit.

        Returns:
            `None` if there is no checkpoint.

        Raises:
            InputError: If the newest whole one holds other arrays than `like`, or all
                are damaged.
        """
        default = jax.numpy.zeros(()).sharding
        targets = {
            name: jax.ShapeDtypeStruct(
                leaf.shape,
                leaf.dtype,
                sharding=getattr(leaf, "sharding", None) or default,
            )
            for name, leaf in named_leaves(like).items()
        }
        damaged: dict[int, str] = {}
        while (step := self._newest(damaged)) is not None:
            stored = self._steps.read_meta(step)
            check(stored["meta"])
            self._check_fit(step, stored["tree"], _description(targets))
            try:
                arrays = self._orbax.restore(
                    self._steps.path(step),
                    args=ocp.args.StandardRestore(_filled(targets)),
                )
            # The files are whole, so this is rare. But being out of memory is no
            # damage, and one process alone cannot turn to another step.
            except (MemoryError, jax.errors.JaxRuntimeError):
                raise
            except Exception as error:
                if jax.process_count() > 1:
                    raise
                damaged[step] = f"Orbax cannot read it: {_line(error)}"
                continue
            # Not before: had none been whole, the next run would find none and begin
            # anew.
            for other, why in damaged.items():
                kept = self._steps.set_aside(other)
                self._warn(
                    f"checkpoint step {other}: {why}; using step {step} (the damaged "
                    f"one is kept as {kept})"
                )
            self._safe = step
            leaves = [
                arrays[name]
                if name in arrays
                else jax.numpy.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
                for name, leaf in targets.items()
            ]
            tree = jax.tree.unflatten(jax.tree.structure(like), leaves)
            return Restored(step, tree, stored["meta"])
        return None

    def _open(self) -> ocp.AsyncCheckpointer:
        around = self._commit

        class Commit(ocp.path.atomicity.AtomicRenameTemporaryPath):
            """Orbax's rename, in the saving thread of process 0, with our files.

            `AsyncOptions.post_finalization_callback` will not do: it comes before the
            rename, and Orbax writes two more files in between.
            """

            async def finalize(self) -> None:
                with around(Path(self.get()), Path(self.get_final())):
                    await super().finalize()

        return ocp.AsyncCheckpointer(
            ocp.StandardCheckpointHandler(),
            # Where a folder cannot be made in the background, Orbax's other threads
            # wait for it for five minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            temporary_path_class=Commit,
        )

    @contextlib.contextmanager
    def _commit(self, temporary: Path, final: Path) -> Iterator[None]:
        # An error is kept for `wait`: raised here, it would leave the other processes
        # waiting at Orbax's next barrier.
        try:
            self._steps.write_meta(temporary, self._meta)
            yield
            self._steps.finish(final)
        except Exception as error:
            self._error = error

    def _follow(self) -> None:
        # A thread for this alone: until Python 3.13 one that is joined counts as ended
        # once Ctrl-C interrupts the join, and Orbax joins.
        try:
            self._orbax.wait_until_finished()
        except Exception as error:
            self._error = error
        self._done.set()

    def _newest(self, damaged: dict[int, str]) -> int | None:
        found = self._steps.newest(damaged) if self._first else None
        code = np.int32(found if found is not None else -2 if damaged else -1)
        if jax.process_count() > 1:
            code = multihost_utils.broadcast_one_to_all(code)
        if code == -2:
            each = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
            raise InputError(
                f"{self._name}: no checkpoint can be used "
                f"({each or 'process 0 says why'}): put back a copy of one, or remove "
                "the folder to start anew."
            )
        return None if code == -1 else int(code)

    def _check_fit(
        self, step: int, stored: dict[str, str], expected: dict[str, str]
    ) -> None:
        differing = [
            f"{name} ({stored.get(name, 'nothing')} there, "
            f"{expected.get(name, 'nothing')} here)"
            for name in sorted(stored.keys() | expected.keys())
            if stored.get(name) != expected.get(name)
        ]
        if differing:
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise InputError(
                f"{self._name}: checkpoint step {step} holds other arrays: "
                f"{', '.join(differing[:5])}{more}: use the configuration that it was "
                "saved with, or another folder."
            )

    def _report(self, step: int, error: Exception | None) -> None:
        # The old one may hold more errors of this save, which belong to no other.
        with contextlib.suppress(Exception):
            self._orbax.close()
        self._orbax = self._open()
        if not self._first:
            return
        with contextlib.suppress(OSError, InputError):
            self._steps.tidy()
        good = "there is no good one yet"
        if self._safe is not None:
            good = f"the last good one is step {self._safe}"
        why = _line(error) if error else "another process failed"
        self._warn(f"checkpoint step {step} could not be written: {why}: {good}")


def _description(arrays: dict[str, Any]) -> dict[str, str]:
    return {
        name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for name, leaf in arrays.items()
    }


def _filled(arrays: dict[str, Any]) -> dict[str, Any]:
    """All but those without an element, which Orbax refuses."""
    return {name: leaf for name, leaf in arrays.items() if leaf.size}


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    code = re.search(r"os_error_code='(\d+)'", text)  # of TensorStore's long message
    return os.strerror(int(code[1])) if code else text.splitlines()[0][:300]


def _demote(record: logging.LogRecord) -> bool:
    """Make what Orbax logs INFO, which passes only where that is wanted."""
    if f"{os.sep}orbax{os.sep}" not in record.pathname:
        return True
    record.levelno, record.levelname = logging.INFO, "INFO"
    return logging.getLogger("absl").isEnabledFor(logging.INFO)


@functools.cache
def _hide_late_writes() -> None:
    """Let the writes that end after a failed one print no tracebacks.

    Orbax closes its event loop at the first write that fails. TensorStore still tells
    that loop of the others, from its own threads, in which nobody catches the error;
    and nobody asks for the error of the tasks that waited for them.
    """
    inner = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        trace = unraisable.exc_traceback
        if (
            unraisable.exc_type is RuntimeError
            and str(unraisable.exc_value) == "Event loop is closed"
            and trace is not None
            and trace.tb_frame.f_code.co_name == "call_soon_threadsafe"
        ):
            return
        inner(unraisable)

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        forgotten = text.startswith("Task ") and f"{os.sep}orbax{os.sep}" in text
        return not forgotten

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(keep)
