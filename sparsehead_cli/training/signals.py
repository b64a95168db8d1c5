"""SIGINT and SIGTERM: the first asks the loop to save and stop after its step, the second stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sparsehead_cli import distributed
from sparsehead_cli.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Stopped):
    """A run that was told to stop and has saved."""

    def __init__(self, number: int, folder: Path, step: int, total: int) -> None:
        name = signal.Signals(number).name
        message = f"stopped by {name} at step {step:,} of {total:,}, saved in {folder}. The same command goes on."
        super().__init__(message, 128 + number)


@dataclass
class Stop:
    """Whether a signal came, and which."""

    requested: bool = False
    signal: int = 0


@contextmanager
def catch_signals() -> Iterator[Stop]:
    """Handlers that only take a note. Several processes could not agree on a step, so there a signal ends at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread() or distributed.world() > 1:
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def take_note(number: int, frame: object) -> None:
        stop.requested, stop.signal = True, number
        signal.signal(number, before[number])

    for number in SIGNALS:
        signal.signal(number, take_note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
