"""SIGINT and SIGTERM: the first asks the loop to save and stop after its step, the second stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsehead_cli.errors import Stopped
from sparsehead_cli.machine import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Stopped):
    """A run that was told to stop and has saved."""

    def __init__(self, number: int, folder: Path, step: int, total: int) -> None:
        name = signal.Signals(number).name
        how = "The same command goes on." if step < total else "The run is finished; the same command shows it."
        super().__init__(f"stopped by {name} at step {step:,} of {total:,}, saved in {folder}. {how}", 128 + number)


class Stop:
    """Which signal came, 0 for none; several processes stop at the same step, whichever of them it reached."""

    def __init__(self) -> None:
        self.signal = self.agreed = 0
        self._largest = distributed.Largest()

    def requested(self, *, wait: bool = False) -> int:
        """The signal that any process had got a step ago (with `wait`: by now). To be called by all after the same steps."""
        self.agreed = self._largest(self.signal, wait=wait) or self.agreed
        return self.agreed


@contextmanager
def catch_signals() -> Iterator[Stop]:
    """Handlers that only take a note; a second signal acts as if there were none.

    Of several processes torchrun signals to all when one ends, and to each again what reached its terminal. So there the first
    signal is all that counts, also while they end.
    """
    stop, alone = Stop(), distributed.world() == 1
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def take_note(number: int, frame: object) -> None:
        stop.signal = stop.signal or number
        if alone:
            signal.signal(number, before[number])

    for number in SIGNALS:
        signal.signal(number, take_note)
    try:
        yield stop
    except BaseException:
        if alone:
            _put_back(before)
        raise
    _put_back(before)


def _put_back(handlers: dict[int, object]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
