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
    """Within it Ctrl-C and SIGTERM become the end of a command that goes on later, Stopped, whatever became of them on the way.

    Libraries make other errors of them: Python a RuntimeError of what comes while a class is made, and compiled code, which calls
    Python and drops what that raises, a failure of its own. So an error after an interrupt was heard is that interrupt's.
    """
    heard: list[KeyboardInterrupt] = []
    try:
        with heard_interrupts() as heard:
            yield
    except (Stopped, SystemExit):
        raise
    except BaseException as error:
        interrupt = error if isinstance(error, KeyboardInterrupt) else heard[-1] if heard else None
        if interrupt is None:
            raise
        raise stopped_by(interrupt, "The same command goes on where it was.") from None


@contextmanager
def heard_interrupts() -> Iterator[list[KeyboardInterrupt]]:
    """Within it SIGTERM raises Terminated as Ctrl-C raises KeyboardInterrupt, and each is put down in the list.

    Not in one of several processes, which may wait for each other where no exception comes through: torchrun ends them. A signal
    that the process was told to ignore, as by `nohup`, is ignored.
    """
    heard: list[KeyboardInterrupt] = []
    if launched() or threading.current_thread() is not threading.main_thread():
        yield heard
        return

    def interrupt(number: int, frame: object) -> None:
        heard.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        raise heard[-1]

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def hear_sigterm() -> None:
    """Let SIGTERM raise Terminated, also after a library has put a handler of its own there."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> None:
    raise Terminated
