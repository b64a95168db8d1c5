"""The standard streams of a command: open, able to write every character somehow, and closed without a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sparsehead_cli.errors import Stopped, unexpected

SIGPIPE = 13


def open_streams() -> None:
    """Make all three streams usable: one that is closed (`>&-`) leads nowhere, and one that cannot write λ writes ?.

    A closed stream's number would else be given to the next file that is opened, and a library's message end in a checkpoint.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - it stays open
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def writable(text: str) -> str:
    """`text` with ? for what stdout cannot write, for libraries that would rather write it in another encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


@contextmanager
def told_by_the_machine() -> Iterator[None]:
    """A full disk, a missing permission, no memory, a reader that went away: raised as a SparseheadError that says what to do.

    Mistakes of ours stay as they are, with their traceback.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # a full disk behind it is told here, and not by the interpreter after our last word
    except BrokenPipeError:
        close_output()
        raise Stopped("stopped: nobody reads the output any more. The same command goes on.", 128 + SIGPIPE) from None
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        told = unexpected(error)
        if told is None:
            raise
        if isinstance(error, OSError) and not error.filename:
            close_output()  # what could not be written would be tried again at the end
        raise told from None


def close_output() -> None:
    """Let what is still to be written to stdout go nowhere."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a test's
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
