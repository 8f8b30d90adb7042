"""The first Ctrl-C or SIGTERM is an event, the second one is what it always is."""

import signal
import subprocess
import sys
import threading

import pytest

from zlpr_jax.training import _interrupt, first_interrupt

BOTH = signal.SIGINT, signal.SIGTERM


@pytest.fixture(autouse=True)
def handlers():
    """Known handlers, and a check that they come back."""
    old = [signal.signal(number, signal.SIG_DFL) for number in BOTH]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    left = [signal.getsignal(number) for number in BOTH]
    for number, handler in zip(BOTH, old, strict=True):
        signal.signal(number, handler)
    assert left == [signal.default_int_handler, signal.SIG_DFL]


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_is_an_event(number):
    with first_interrupt() as interrupted:
        assert not interrupted.is_set()
        assert interrupted.received is None
        signal.raise_signal(number)
        assert interrupted.is_set()
        assert interrupted.received is number
    with first_interrupt() as interrupted:
        assert not interrupted.is_set()


@pytest.mark.parametrize("first", BOTH)
def test_a_second_ctrl_c_is_an_exception(first):
    with first_interrupt() as interrupted:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupted.received is first


def test_a_second_sigterm_ends_the_process():
    # a process of its own, as it dies; the file alone is quick to import
    code = f"""
import runpy, signal
first_interrupt = runpy.run_path({_interrupt.__file__!r})["first_interrupt"]
with first_interrupt() as interrupted:
    signal.raise_signal(signal.SIGTERM)
    print(interrupted.received.name, flush=True)
    signal.raise_signal(signal.SIGTERM)
    print("still here")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "SIGTERM\n", run.stderr
    assert run.returncode == -signal.SIGTERM


def test_nested_blocks_share_their_event():
    with first_interrupt() as outer:
        with first_interrupt() as inner:
            assert inner is outer
        # the inner block has not put the handlers back
        signal.raise_signal(signal.SIGTERM)
        assert outer.is_set()
        # one begun after the signal sees it too
        with first_interrupt() as late:
            assert late.is_set()


def test_an_error_puts_the_handlers_back():
    with pytest.raises(ZeroDivisionError), first_interrupt():
        _ = 1 / 0
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_nothing_is_installed():
    seen = []

    def block():
        before = [signal.getsignal(number) for number in BOTH]
        with first_interrupt() as interrupted:
            unchanged = before == [signal.getsignal(number) for number in BOTH]
            seen.append((interrupted, unchanged))

    def run():
        thread = threading.Thread(target=block)
        thread.start()
        thread.join()
        return seen.pop()

    event, unchanged = run()
    assert unchanged
    assert not event.is_set()
    # inside the main thread's block it shares that event
    with first_interrupt() as outer:
        assert run() == (outer, True)


def test_an_ignored_signal_stays_ignored():
    # as for a program that a script puts into the background
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with first_interrupt() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert not interrupted.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert interrupted.received is signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)
