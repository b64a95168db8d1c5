"""Ctrl-C and SIGTERM where no training listens (signals.py): both end a command with one sentence. Imports no torch."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sparsehead_cli.errors import Stopped
from sparsehead_cli.machine.launch import launched


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is treated as Ctrl-C is, but for its name and exit code."""


def stopped_by(interrupt: KeyboardInterrupt, what_now: str) -> Stopped:
    """The end of a command that was interrupted, with sentences about what it keeps and how to go on."""
    number = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT
    return Stopped(f"stopped by {number.name}. {what_now}", 128 + number)


@contextmanager
def told_of_interrupts() -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM become the end of a command that goes on later, Stopped, whoever they came through."""
    try:
        with heard_sigterm():
            yield
    except BaseException as error:
        interrupt = interrupt_behind(error)
        if interrupt is None:
            raise
        raise stopped_by(interrupt, "The same command goes on where it was.") from None


def interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that an error is, or was made of: Python makes a RuntimeError of one that comes while a class is made."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error


@contextmanager
def heard_sigterm() -> Iterator[None]:
    """Within it SIGTERM raises Terminated, as Ctrl-C raises KeyboardInterrupt.

    Not in one of several processes, which may wait for each other where no exception comes through: torchrun ends them.
    """
    if launched() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    hear_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def hear_sigterm() -> None:
    """Let SIGTERM raise Terminated, also after a library has put a handler of its own there."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> None:
    raise Terminated
