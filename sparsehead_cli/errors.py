"""The one error that a user can cause, and the did-you-mean that goes with it."""

import difflib
from collections.abc import Iterable


class SparseheadError(Exception):
    """Something the user can mend. The message says what was given, what is allowed, and how to go on."""


class Stopped(SparseheadError):
    """An end on request, which is no error. `exit_code` is the shell's, 128 + the signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Busy(SparseheadError):
    """Another process does this already. Nothing has failed."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """A closing hint for an unknown name: ' Did you mean "x"?', or '' where nothing is near."""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f' Did you mean "{near[0]}"?' if near else ""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> SparseheadError:
    """The error for a name that is not in a table; list(allowed) is shown in the table's order."""
    names = list(allowed)
    return SparseheadError(f'unknown {kind} "{given}"; known: {", ".join(names)}.{did_you_mean(given, names)}')
