"""Files that are either the old one or the new one, never a half: written beside, flushed to the disk, moved into place."""

import errno
import hashlib
import os
import stat
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from sparsehead_cli.errors import SparseheadError, of_system, one_line


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Put `data` at `path` atomically; at any failure the file that was there stays, and nothing else is left.

    Raises: SparseheadError when the disk is full or the folder cannot be written.
    """
    write_beside(path, lambda file: file.write(data))


def write_beside(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """`replace_file` with what `write` writes into the open file, for data too large to hold twice."""
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from None
        if isinstance(error, RuntimeError):  # torch.save's for a full disk
            raise SparseheadError(f"cannot write {path}: {one_line(str(error))}. Make room, or write elsewhere.") from None
        raise


def open_regular(path: Path) -> BinaryIO:
    """A regular file, open for reading; whatever else may stand at a path is refused (EINVAL), and never waited for.

    Raises: OSError.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # in which a pipe would otherwise wait for a writer
    kind = os.fstat(number).st_mode
    if not stat.S_ISREG(kind):
        os.close(number)
        what = "it is a folder" if stat.S_ISDIR(kind) else "it is a pipe or a device"
        raise OSError(errno.EINVAL, what, str(path))
    return open(number, "rb")


def read_regular(path: Path) -> bytes:
    """What is in a regular file. Raises: OSError as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def replace_witnessed(path: Path, data: bytes) -> None:
    """`replace_file` for a text that will be read back: a hidden file beside it says what was written.

    It is written first, with the SHA-256 of what comes and of what is there, so that after a kill in between the old file is
    still believed; then the CRC-32 of each new line, to name the one that was changed. Raises: as `replace_file`.
    """
    known = [hashlib.sha256(data).hexdigest()]
    if path.is_file():
        known.append(hashlib.sha256(path.read_bytes()).hexdigest())
    replace_file(witness(path), "\n".join([" ".join(known), *checksums(data), ""]).encode())
    replace_file(path, data)


def changed_line(path: Path, data: bytes) -> int | None:
    """The first line, from 0, in which `data`, read from `path`, is not what was written there.

    None where it is, and where nobody said: the file of an older version, or one that came without its witness.
    """
    try:
        known, *lines = read_regular(witness(path)).decode("ascii").splitlines() or [""]
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        known, lines = "", []
    if hashlib.sha256(data).hexdigest() in known.split():
        return None
    return next((i for i, (here, there) in enumerate(zip_longest(checksums(data), lines)) if here != there), 0)


def witness(path: Path) -> Path:
    """The hidden file that says what was written to `path`."""
    return path.with_name(f".{path.name}.sha256")


def checksums(data: bytes) -> list[str]:
    """The CRC-32 of each line, in hexadecimals."""
    return [f"{zlib.crc32(line):08x}" for line in data.splitlines()]


def make_folder(path: Path, remedy: str = "Write elsewhere.") -> None:
    """Make a folder where it is not there. Raises: SparseheadError when it cannot be made, which says what is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error, remedy) from None


def cannot_write(path: Path, error: OSError, remedy: str = "") -> SparseheadError:
    """The error for a file or folder that cannot be written: what is in its way, or the system's reason."""
    obstacle = next(filter(None, map(in_the_way, (*reversed(path.parents), path))), "")
    if obstacle and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return SparseheadError(f"cannot write to {path}: {obstacle}. {remedy or 'Write elsewhere.'}")
    return of_system(f"cannot write to {path}", error, remedy if obstacle else "")


def in_the_way(path: Path) -> str:
    """Why this is no folder that something can be written into, "" where it is one or not there at all."""
    try:
        if path.is_symlink() and not path.exists():
            return f"{path} is a link to {os.readlink(path)}, which is not there"
        return f"{path} is no folder" if path.exists() and not path.is_dir() else ""
    except OSError:  # a name that is too long, a folder that may not be looked into: the system's own reason is told
        return ""


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
