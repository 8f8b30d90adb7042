"""A profiler trace of a few steps."""

import contextlib
import dataclasses
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax

from zlpr_jax._errors import InputError
from zlpr_jax.training._processes import is_main


@dataclasses.dataclass(frozen=True)
class Profile:
    """Write a trace of some steps, for TensorBoard's profiler, Perfetto or XProf.

    Attributes:
        folder: Where to.
        steps: How many steps, >= 1.
        start: Steps that this process trains before, >= 0: the first ones compile.

    Examples:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with Profile(folder, 2, start=1).session() as trace:
        ...     for step in range(5):
        ...         trace.step(step)
        >>> [path.suffix for path in folder.rglob("*.pb")]
        ['.pb']
    """

    folder: Path
    steps: int
    start: int = 10

    def __post_init__(self):
        for name, least in ("steps", 1), ("start", 0):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"profile: {name} must be >= {least}, got {value}.")

    @contextlib.contextmanager
    def session(self) -> Iterator["Session"]:
        """Give what `fit` calls before each step; a trace ends with the block.

        Raises:
            InputError: If the folder cannot be written to.
        """
        session = Session(self)
        if is_main():
            _check(self.folder)
        try:
            yield session
        finally:
            session.stop()
        if not session.traced:
            warnings.warn(
                f"no profile was written: training ended within {self.start} steps",
                stacklevel=3,
            )


class Session:
    """Starts and stops the trace. With several processes, process 0 traces."""

    def __init__(self, profile: Profile):
        self._profile = profile
        self._first: int | None = None
        self._number = contextlib.ExitStack()
        self._tracing = False
        self.traced = not is_main()

    def step(self, step: int) -> None:
        """Say that the step after the first `step` ones begins."""
        self._number.close()
        self._first = step if self._first is None else self._first
        done = step - self._first - self._profile.start
        if done == 0 and not self.traced:
            _wait()
            jax.profiler.start_trace(str(self._profile.folder))
            self._tracing = self.traced = True
        elif done == self._profile.steps:
            self.stop()
        if self._tracing:
            mark = jax.profiler.StepTraceAnnotation("train", step_num=step + 1)
            self._number.enter_context(mark)

    def stop(self) -> None:
        """End the trace, if there is one."""
        self._number.close()
        if self._tracing:
            self._tracing = False
            try:
                _wait()
            finally:
                jax.profiler.stop_trace()


def _check(folder: Path) -> None:
    """Find out now, and not at the end of the trace."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"{folder}: the profile cannot be written: {error}: name a folder that can."
        ) from None


def _wait() -> None:
    """Wait for the steps under way, so that a trace has whole ones."""
    jax.block_until_ready(jax.live_arrays())
