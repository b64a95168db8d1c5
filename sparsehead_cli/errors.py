"""The one error that a user can cause, and how what came from outside is shown in it: as text, in one line, and cut."""

import difflib
import errno
import os
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

MOST_SHOWN = 100  # characters of a value in a message
MOST_NAMES = 40  # known names in a message


class SparseheadError(Exception):
    """Something the user can mend. The message says what was given, what is allowed, and how to go on."""


class Stopped(SparseheadError):
    """An end on request, which is no error. `exit_code` is the shell's, 128 + the signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Busy(SparseheadError):
    """Another process does this already. Nothing has failed."""


@contextmanager
def naming_the_rest(rest: Sequence[object]) -> Iterator[None]:
    """The error of one of several checkpoints that are measured in turn also says which of them, the `rest`, still are to be."""
    try:
        yield
    except SparseheadError as error:
        if not rest or isinstance(error, Stopped | Busy):
            raise
        left = ", ".join(one_line(str(each)) for each in rest[:MOST_NAMES]) + (", …" if len(rest) > MOST_NAMES else "")
        raise SparseheadError(f"{error}\nNot measured either: {left}.") from error


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """A closing hint for an unknown name: ' Did you mean "x"?', or '' where nothing is near."""
    near = difflib.get_close_matches(given, list(allowed), n=1) if len(given) <= MOST_SHOWN else []
    return f' Did you mean "{near[0]}"?' if near else ""


def unknown(kind: str, given: object, allowed: Iterable[str]) -> SparseheadError:
    """The error for a name that is not in a table; list(allowed) is shown in the table's order."""
    names = list(allowed)
    known = ", ".join(one_line(name) for name in names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")
    quoted = f'"{one_line(given)}"' if isinstance(given, str) else shown(given)
    return SparseheadError(f"unknown {kind} {quoted}; known: {known}.{did_you_mean(str(given), names)}")


def printable(text: str) -> str:
    r"""`text` with everything that is no character for people written as an escape, "\x1b" for ESC; line breaks stay."""
    if text.isprintable():
        return text
    kept = {"\n", *(c for c in text if unicodedata.category(c) not in ("Cc", "Cs", "Cf", "Zl", "Zp"))}
    return "".join(c if c in kept else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def one_line(text: str, most: int = MOST_SHOWN) -> str:
    r"""`text` for the inside of a sentence or a cell of a table: `printable`, line breaks as "\n", and cut to `most` characters."""
    text = printable(text[: most + 1]).replace("\n", "\\n")
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown(value: object) -> str:
    """Any value that was given, as Python writes it, in one line of at most MOST_SHOWN characters, however large it is."""
    return one_line(_SHORT.repr(value))


class _Short(reprlib.Repr):
    """Python's notation of the beginning of a value; lists and tables in it are cut before they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxother = 3, 6, 6, 6, MOST_SHOWN
        self.maxstring = MOST_SHOWN - 20

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() < 200 else f"a number of about {value.bit_length() * 3 // 10} digits"


_SHORT = _Short()


def missing(path: os.PathLike) -> str:
    """That nothing is at a path, without a full stop. A shell leaves a pattern that fits nothing as it is."""
    pattern = ": the pattern fits nothing that is there" if set("*?[") & set(str(path)) else ""
    return f"{path} does not exist{pattern}"


def of_system(doing: str, error: OSError, remedy: str = "") -> SparseheadError:
    """The error for what the operating system refused: `doing`, its reason, and what to do about it."""
    reason = one_line(error.strerror or str(error)) if error.errno != errno.ENOENT or error.filename else "it is not there"
    return SparseheadError(f"{doing}: {reason}. {remedy or REMEDIES.get(error.errno, 'Mend that, or choose another place.')}")


def unexpected(error: BaseException) -> SparseheadError | None:
    """The error to tell for one that the machine raised in the middle of our work, or None for what is our own mistake."""
    if isinstance(error, OSError) and error.errno in REMEDIES:
        paths = [os.fsdecode(p) for p in (error.filename, error.filename2) if isinstance(p, str | bytes | os.PathLike)]
        about = " to ".join(one_line(path, 300) for path in paths) or "the output or a file"
        return of_system(f"cannot read or write {about}", error)
    wants = str(error)
    if isinstance(error, MemoryError) or any(sign in wants for sign in OUT_OF_MEMORY):
        asked = one_line(wants, 200) or "this process may have no more"
        return SparseheadError(f"out of memory ({asked}). Choose a smaller --batch-size, network or data set, or another machine.")
    if UNLOADED in wants:
        return SparseheadError(
            "torchvision's own library cannot be loaded: it is of another release than torch (pip install --upgrade torch "
            "torchvision), or there is no memory left for it."
        )
    return None


UNLOADED = "operator torchvision::"  # torchvision is silent where its library fails to load, and misses its operators later
OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "Cannot allocate memory",
    "failed to map segment",
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory",
    "Storage size calculation overflowed",
)
REMEDIES = {
    errno.ENOSPC: "Make room, or write elsewhere.",
    errno.EDQUOT: "Make room, or write elsewhere.",
    errno.EFBIG: "Raise `ulimit -f`, or write elsewhere.",
    errno.EROFS: "Write elsewhere.",
    errno.EACCES: "Change its permissions, or choose another place.",
    errno.EPERM: "Change its permissions, or choose another place.",
    errno.EMFILE: "Raise `ulimit -n`, or use fewer --workers.",
    errno.ENFILE: "Close other programs, or use fewer --workers.",
    errno.ENOTDIR: "A part of the path is a file: choose another place.",
    errno.EISDIR: "It is a folder where a file belongs: move it away, or choose another place.",
    errno.ENOENT: "It, its folder or what a link points to is not there: make it, or choose another place.",
    errno.ELOOP: "Its symbolic links point at each other: mend them, or choose another place.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EIO: "The disk or its connection fails: check it.",
    errno.ENOMEM: "Choose a smaller --batch-size or network, or fewer --workers.",
    errno.EAGAIN: "Raise `ulimit -u`, or use fewer --workers.",
    errno.ESTALE: "The folder is no more: choose another place.",
}
