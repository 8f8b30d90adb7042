"""Ctrl-C as an event."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _Handler:
    """Sets its event at the first signal and steps aside for the second."""

    def __init__(self):
        self.event = threading.Event()
        self.previous = signal.getsignal(signal.SIGINT)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, self.previous)
        self.event.set()


@contextmanager
def first_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C inside the block into an event, so that no step is torn.

    The second one is an ordinary `KeyboardInterrupt`. A block inside another shares its
    event. Outside the main thread, where Python delivers no signal, the event is never
    set.

    Example:
        >>> import signal
        >>> with first_interrupt() as interrupted:
        ...     signal.raise_signal(signal.SIGINT)
        ...     interrupted.is_set()
        True
    """
    current = signal.getsignal(signal.SIGINT)
    if isinstance(current, _Handler):
        yield current.event
    elif threading.current_thread() is not threading.main_thread():
        yield threading.Event()
    else:
        handler = _Handler()
        signal.signal(signal.SIGINT, handler)
        try:
            yield handler.event
        finally:
            signal.signal(signal.SIGINT, handler.previous)
