"""How a command that did not succeed ends for people: one message on stderr."""

import sys
from contextlib import suppress

from sparsehead_cli.errors import SparseheadError, Stopped
from sparsehead_cli.machine.launch import launched

MOST_TOLD = 8_000  # characters of an error


def tell(error: SparseheadError) -> None:
    """Print an error in red and a stop on request in yellow, unless another one of several processes says it."""
    beginning = beginning_of(error)
    if beginning is None:
        return
    stopped = isinstance(error, Stopped)  # on request, which is no error
    text = str(error) if stopped else f"Error{beginning}: {error}"
    show_error(text[:MOST_TOLD], "yellow" if stopped else "bold red")


def show_error(text: str, style: str) -> None:
    """A message on stderr; without its colour where there is no memory left for what draws it."""
    with suppress(OSError):  # where nobody hears it, the exit code tells
        try:
            from sparsehead_cli.present.console import Console

            Console(stderr=True).print(text, style=style, soft_wrap=True)
        except (ImportError, MemoryError):
            sys.stderr.write(f"{text}\n")


def beginning_of(error: SparseheadError) -> str | None:
    """What stands behind "Error": which of several processes it is of, where that is of interest; None: another one says it."""
    if not launched():
        return ""
    from sparsehead_cli.machine.distributed import speaker, tell_torchrun

    tell_torchrun(error)
    return speaker(error)
