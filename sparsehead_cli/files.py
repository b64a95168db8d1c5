"""Files that are either the old one or the new one, never a half: written beside, flushed to the disk, moved into place."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
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
