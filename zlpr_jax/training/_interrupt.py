"""Ctrl-C and SIGTERM as an event."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt(threading.Event):
    """Set at the first signal.

    Attributes:
        received: Which one it was; `None` before.
    """

    received: signal.Signals | None = None


_open: list[Interrupt] = []


@contextmanager
def first_interrupt() -> Iterator[Interrupt]:
    """Turn the first Ctrl-C or SIGTERM in the block into an event: no step is torn.

    The second signal does what it always does: Ctrl-C raises `KeyboardInterrupt`,
    SIGTERM ends the process. A block inside another shares its event. One that is not
    inside another and outside the main thread, where Python delivers no signal, has an
    event that is never set. A signal that the process was told to ignore stays ignored.

    Examples:
        >>> with first_interrupt() as interrupted:
        ...     signal.raise_signal(signal.SIGINT)
        ...     interrupted.is_set(), interrupted.received.name
        (True, 'SIGINT')
    """
    if _open:
        yield _open[0]
        return
    event = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    # None is a handler that Python did not install and cannot put back.
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        event.received = signal.Signals(number)
        event.set()

    try:
        _open.append(event)
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, handle)
        yield event
    finally:
        restore()
        _open.clear()
