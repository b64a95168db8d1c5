"""SIGTERM and Ctrl-C where no training listens: one sentence, and the shell's exit code."""

import contextlib
import os
import signal
import threading
import time

import pytest

from sparsehead_cli.errors import Stopped
from sparsehead_cli.machine.interrupts import Terminated, hear_sigterm, heard_interrupts, stopped_by, told_of_interrupts


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)  # which the signal ends
    raise AssertionError("the signal was not heard")


def test_sigterm_is_raised_and_its_handler_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), heard_interrupts():
        terminate()
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_is_heard_again_after_a_library_has_taken_it():
    with pytest.raises(Terminated), heard_interrupts():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        hear_sigterm()
        terminate()


@pytest.mark.parametrize(("interrupt", "name", "code"), [(KeyboardInterrupt(), "SIGINT", 130), (Terminated(), "SIGTERM", 143)])
def test_the_sentence_and_the_exit_code(interrupt, name, code):
    stopped = stopped_by(interrupt, "The same command goes on.")
    assert isinstance(stopped, Stopped)
    assert (str(stopped), stopped.exit_code) == (f"stopped by {name}. The same command goes on.", code)


def test_processes_that_torchrun_ends_are_left_to_it(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    with heard_interrupts():
        assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_hears_nothing():
    before, during = signal.getsignal(signal.SIGTERM), []

    def work():
        with heard_interrupts():
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == [before]


class Part:
    """Python makes a RuntimeError of an exception in `__set_name__`, in whose middle a signal may well come: while modules load."""

    def __set_name__(self, owner, name):
        terminate()


def in_a_class():
    type("Whole", (), {"part": Part()})


def dropped():
    """As compiled code that calls Python and takes its error for a failure of its own."""
    with contextlib.suppress(KeyboardInterrupt):
        terminate()
    raise ValueError("Invalid bounding box")


@pytest.mark.parametrize("work", [in_a_class, dropped])
def test_an_interrupt_is_known_whatever_became_of_it(work):
    with pytest.raises(Stopped, match=r"stopped by SIGTERM\. The same command goes on") as stopped, told_of_interrupts():
        work()
    assert stopped.value.exit_code == 143


def test_other_errors_are_themselves():
    with pytest.raises(RuntimeError, match="ours"), told_of_interrupts():
        raise RuntimeError("ours")


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heard_interrupts() as heard:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        assert not heard
    finally:
        signal.signal(signal.SIGINT, before)
